"""A plugin that takes one sync out of the daemon that loads it, to prove that ``crash_rounds.py`` would notice.

Named in a configuration's ``plugins`` (with this folder on ``PYTHONPATH``); ``REPLKIT_TEST_REMOVE`` says which sync.
"""

from __future__ import annotations

import os

from replkit.contracts.savevolume import SaveVolume
from replkit.replication.logged import LoggedVolume
from replkit.replication.set_writer import SetWriter
from replkit.testing.forgetful import ForgetfulSaveVolume


def _no_flush(volume: LoggedVolume) -> None:
    """Acknowledge a flush that was not done (invariant 1)."""


def _no_sync(save: SaveVolume) -> None:
    """Publish what was not made durable (invariants 3 and 5)."""


BREAKS = {
    "flush": lambda: setattr(LoggedVolume, "flush", _no_flush),
    "save-sync": lambda: setattr(ForgetfulSaveVolume, "sync", _no_sync),
}
assert SetWriter  # the module of the commit is loaded before anything is replaced
BREAKS[os.environ["REPLKIT_TEST_REMOVE"]]()
