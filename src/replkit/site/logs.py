"""Log lines of the daemon and its workers: to standard error, where a service manager or the user has them."""

from __future__ import annotations

import logging
import os

LEVEL_VARIABLE = "REPLKIT_LOG"
"""Environment variable with the level: DEBUG, INFO, WARNING (default), ERROR."""


def set_up_logging(name: str) -> None:
    """Begin to log, every line with the name of the process; under systemd the time is the journal's."""
    level = os.environ.get(LEVEL_VARIABLE, "WARNING").upper()
    stamp = "" if os.environ.get("JOURNAL_STREAM") else "%(asctime)s "
    logging.basicConfig(
        level=level if level in logging.getLevelNamesMapping() else "WARNING",
        format=f"{stamp}replkit[{name}] %(levelname)s %(message)s",
    )
