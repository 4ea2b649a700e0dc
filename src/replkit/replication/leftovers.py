"""What sites that return were given and did not take up: lists that they sent, snapshots made to compare with (R4).

Nobody says that a resync was given up: the site may have turned to another primary, or be down for a day. So what
nobody names is deleted when nobody asked for it for a time; a site that is back then sends or asks again.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from replkit.contracts.savevolume import SaveVolume
from replkit.errors import NotFoundError
from replkit.replication.cells import Root
from replkit.replication.difference import RESYNC_LISTS, delete_list
from replkit.replication.replica import Replica
from replkit.replication.snapshot_names import COMPARED, SALVAGE_SNAPSHOT
from replkit.snapshot.snapped import SnappedVolume

KEPT_S: Final = 3600.0
LOOK_EVERY_S: Final = 60.0


class Leftovers:
    """Collects them at a primary. What it knows is in memory only: after a restart the time begins again."""

    def __init__(self, replica: Replica, snapped: SnappedVolume) -> None:
        self._replica, self._snapped = replica, snapped
        self._used_s: dict[str, float] = {}
        self._look_at_s = 0.0

    def touch(self, name: str) -> None:
        """A list or a snapshot is in use."""
        self._used_s[name] = self._replica.runtime.monotonic()

    def step(self) -> None:
        """Look now and then, and delete what was not used for long."""
        now_s = self._replica.runtime.monotonic()
        if now_s < self._look_at_s:
            return
        self._look_at_s = now_s + LOOK_EVERY_S
        root = self._replica.root.get()
        needed = {member.copy_snapshot for member in root.members}
        needed |= {member.difference.snapshot for member in root.members if member.difference is not None}
        snapshots = [each.name for each in root.snapshots if each.name.startswith(COMPARED)]
        unused = [*(name for name in snapshots if name not in needed), *unnamed_lists(self._replica.save, root)]
        self._used_s = {name: self._used_s.get(name, now_s) for name in unused}
        for name, used_s in self._used_s.items():
            if now_s - used_s >= KEPT_S:
                self._delete(name)

    def _delete(self, name: str) -> None:
        if name.startswith(RESYNC_LISTS):
            delete_list(self._replica.save, name)
            return
        with suppress(NotFoundError):  # a call deleted it at the same time
            self._snapped.delete_snapshot(name)


def unnamed_lists(save: SaveVolume, root: Root) -> list[str]:
    """Lists that belong to no salvage, resync or member of this root."""
    named = {
        f"{RESYNC_LISTS}{each.name.removeprefix(SALVAGE_SNAPSHOT)}"
        for each in root.snapshots
        if each.name.startswith(SALVAGE_SNAPSHOT)
    }
    named |= {member.difference.list_key for member in root.members if member.difference is not None}
    if root.resync is not None:
        named |= {root.resync.list_key, root.resync.mine_key, root.resync.coarse_key}
    return sorted(_keys(save.list(RESYNC_LISTS)) - named)


def _keys(records: Iterable[str]) -> set[str]:
    return {record.rpartition("/")[0] for record in records}


def drop_lists(save: SaveVolume, root: Root) -> None:
    """At a secondary nobody is about to use a list that its root does not name."""
    for key in unnamed_lists(save, root):
        delete_list(save, key)
