"""Salvage: what a volume held when it gave up its own history, kept before its first block is overwritten (R4).

It is the held snapshot ``salvage.<resync id>`` and, beside it, the list of the blocks that were written after the fork.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from replkit.blocks.bitmap import PagedBitmap
from replkit.contracts.volume import BlockVolume
from replkit.errors import NotFoundError, RecordMissingError, WrongRoleError
from replkit.replication.difference import RESYNC_LISTS, delete_list, get_list, has_list
from replkit.replication.replica import Replica
from replkit.replication.snapshot_names import SALVAGE_SNAPSHOT
from replkit.snapshot.records import SnapshotRecord
from replkit.snapshot.snapped import SnappedVolume

SALVAGE: Final = SALVAGE_SNAPSHOT
LIST: Final = RESYNC_LISTS


class Salvage(NamedTuple):
    """One salvage; ``blocks`` is how many blocks had been written after the fork, ``None`` where that was not known."""

    id: str
    record: SnapshotRecord
    blocks: int | None


def list_salvages(replica: Replica, snapped: SnappedVolume) -> list[Salvage]:
    """All salvages of a volume, oldest first, invalid ones too."""
    found: list[Salvage] = []
    for record in snapped.snapshots():
        if record.name.startswith(SALVAGE):
            id_ = record.name.removeprefix(SALVAGE)
            blocks = None
            if has_list(replica.save, LIST + id_):
                blocks = get_list(replica.save, LIST + id_, snapped.block_count).count()
            found.append(Salvage(id_, record, blocks))
    return found


def salvage_blocks(replica: Replica, snapped: SnappedVolume, id_: str) -> PagedBitmap:
    """The blocks that had been written after the fork; ``NotFoundError`` where the list was not known, or is gone."""
    _find(snapped, id_)
    try:
        return get_list(replica.save, LIST + id_, snapped.block_count)
    except RecordMissingError as error:
        raise NotFoundError(
            f"{replica.name}: salvage {id_} has no list of what was written", hint="compare it with the volume"
        ) from error


def open_salvage(snapped: SnappedVolume, id_: str) -> BlockVolume:
    """The salvage as a read-only volume, to export or to read."""
    return snapped.open_snapshot(_find(snapped, id_).name)


def delete_salvage(replica: Replica, snapped: SnappedVolume, id_: str) -> None:
    """Delete a salvage and its list, for good; refused while the resync that made it is under way."""
    record = _find(snapped, id_)
    resync = replica.root.get().resync
    if resync is not None and resync.salvage == record.name:
        raise WrongRoleError(
            f"{replica.name}: salvage {id_} is of the resync under way", hint="delete it when the resync is done"
        )
    snapped.delete_snapshot(record.name)
    delete_list(replica.save, LIST + id_)  # a crash between the two leaves a list that nothing names


def _find(snapped: SnappedVolume, id_: str) -> SnapshotRecord:
    for record in snapped.snapshots():
        if record.name == SALVAGE + id_:
            return record
    raise NotFoundError(f"there is no salvage {id_}", hint="list the salvages of the volume")
