"""Sizes of volumes that were resized since the configuration was written (X5): which are believed, and the drift.

The cell ``size`` of a primary names the new size before the volume has it, and both until it is certain: so a volume is
opened after a crash, and one that another program cut off is refused.
"""

from __future__ import annotations

from typing import Any

import msgspec

from replkit.contracts.position import Position
from replkit.contracts.savevolume import SaveVolume
from replkit.errors import CorruptRecordError, NotFoundError, RecordMissingError
from replkit.replication.cells import Root
from replkit.replication.difference import MAX_BLOCKS
from replkit.replication.directory import numbers_between
from replkit.replication.primary import PrimaryReplica
from replkit.replication.root import StructCell, load_struct, read_root
from replkit.replication.set_reader import SetReader
from replkit.snapshot.inuse import Checkpoint

SIZE = "size"
NEWEST_SETS = 256
Fields = dict[str, Any]


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes in bytes that the volume may have; one when no resize is under way."""

    allowed: tuple[int, ...]


def resize(primary: PrimaryReplica, save: SaveVolume, size_bytes: int) -> Position:
    """Resize a primary; errors as those of ``PrimaryReplica.resize``."""
    cell = StructCell(save, SIZE, Sizes)
    cell.set(Sizes(allowed=(primary.volume.size_bytes, size_bytes)))
    try:
        return primary.resize(size_bytes)
    finally:
        cell.set(Sizes(allowed=(primary.volume.size_bytes,)))


def is_believed(save: SaveVolume, size_bytes: int, block_size: int) -> bool:
    """Whether a volume with another size than the configured one is the one that this save volume belongs to."""
    try:
        root = read_root(save)
    except NotFoundError:
        return False
    sizes, _version = load_struct(save, SIZE, Sizes)
    if sizes is not None and size_bytes in sizes.allowed:
        return True
    known, _version = load_struct(save, "in_use", Checkpoint)
    if known is not None and known.block_count == -(-size_bytes // block_size):
        return True
    return root.role == "secondary" and size_bytes in _sizes_of_sets(save, root)


def tell_size(status: Fields, spec: Fields, size_bytes: int) -> None:
    """Put the size into a status, and what the configuration says otherwise."""
    status["size_bytes"] = size_bytes
    if size_bytes != spec["size_bytes"]:
        status["drift"].append(f"size is {size_bytes}, the configuration says {spec['size_bytes']}")


def _sizes_of_sets(save: SaveVolume, root: Root) -> set[int]:
    """The sizes of the volume at the newest boundaries that are listed."""
    reader, found = SetReader(save, lambda: root, MAX_BLOCKS), set()
    for number in numbers_between(root, max(root.first_listed, root.last.number - NEWEST_SETS), root.last.number):
        try:
            found.add(reader.header(number).volume_size_bytes)
        except (CorruptRecordError, RecordMissingError):
            continue
    return found
