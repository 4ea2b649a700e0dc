"""What went wrong lately, by volume, for ``status``; a plugin like any other, and the log of a worker."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from replkit.contracts.hooks import hookimpl

_log = logging.getLogger(__name__)
REMEMBERED = 5


class RecentErrors:
    """Hears ``replkit_error`` and keeps the last few messages of each volume."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: dict[str, deque[str]] = {}

    @hookimpl
    def replkit_error(self, volume: str, message: str) -> None:
        """Log and remember."""
        _log.warning("volume %s: %s", volume, message)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with self._lock:
            self._messages.setdefault(volume, deque(maxlen=REMEMBERED)).append(f"{stamp} {message}")

    def of(self, volume: str) -> list[str]:
        """The last messages of a volume, oldest first."""
        with self._lock:
            return list(self._messages.get(volume, ()))
