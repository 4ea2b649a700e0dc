"""Save areas: before-image records, and the map from a block to the record that keeps it (FIG. 25, P4).

A record, all numbers little-endian; ``n`` extents of ``m`` blocks together:

====== ====== ===================================================================
offset size   field
====== ====== ===================================================================
0      4      magic ``RKBI``
4      2      format version, 1
6      2      reserved, zero
8      4      block size in bytes
12     4      n
16     8      m
24     8      XXH3-64 of bytes 0 to 23 and of the table
32     8 n    first block of each extent, ascending
..     4 n    blocks of each extent
..     8 m    XXH3-64 of each block
..     ..     the blocks, in the order of the extents
====== ====== ===================================================================
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from xxhash import xxh3_64, xxh3_64_intdigest

from replkit.blocks.blockmap import BlockMap
from replkit.blocks.extent import Extent, total
from replkit.contracts.buffers import Buffer
from replkit.contracts.savevolume import SaveVolume
from replkit.errors import CorruptRecordError
from replkit.snapshot.records import AREAS

MAX_RECORD_BLOCKS: Final = 1 << 15
MAX_RECORD_BYTES: Final = 16 << 20
_MAGIC: Final = b"RKBI"
_VERSION: Final = 1
_FIXED = struct.Struct("<4sHHIIQ")
_CHECKSUM = struct.Struct("<Q")
HEAD_BYTES: Final = _FIXED.size + _CHECKSUM.size
_INDEX_BITS: Final = 16
_INDEX_MASK: Final = (1 << _INDEX_BITS) - 1
_TABLES_KEPT: Final = 256


def record_key(area: str, sequence: int) -> str:
    """Key of the ``sequence``-th record of a save area."""
    return f"{AREAS}{area}/{sequence:016x}"


def sequence_in(key: str) -> int:
    """Sequence of the record with this key."""
    return int(key.rpartition("/")[2], 16)


def sequence_of(place: int) -> int:
    """Sequence of the record that a place in an ``AreaMap`` is in."""
    return place >> _INDEX_BITS


def encode_record(extents: Sequence[Extent], data: memoryview, block_size: int) -> list[Buffer]:
    """The parts of a before-image record: its head and table, and ``data`` itself."""
    blocks = total(extents)
    checksums = [xxh3_64_intdigest(data[at : at + block_size]) for at in range(0, blocks * block_size, block_size)]
    table = struct.pack(
        f"<{len(extents)}Q{len(extents)}I{blocks}Q",
        *(e.start for e in extents),
        *(e.count for e in extents),
        *checksums,
    )
    fixed = _FIXED.pack(_MAGIC, _VERSION, 0, block_size, len(extents), blocks)
    return [fixed + _CHECKSUM.pack(_checksum(fixed, table)) + table, data]


def _checksum(fixed: Buffer, table: Buffer) -> int:
    digest = xxh3_64(fixed)
    digest.update(table)
    return int(digest.intdigest())


class RecordTable(NamedTuple):
    """What is known of a before-image record without reading its blocks."""

    extents: tuple[Extent, ...]
    checksums: tuple[int, ...]
    data_offset: int


def read_table(save: SaveVolume, key: str, block_size: int) -> RecordTable:
    """Read and verify the table of a record."""
    size_bytes = save.size_bytes(key)
    if size_bytes < HEAD_BYTES:
        raise CorruptRecordError(f"{key}: {size_bytes} bytes are too few for a before-image record")
    head = save.get(key, 0, HEAD_BYTES)
    magic, version, reserved, found_block_size, n, m = _FIXED.unpack_from(head)
    if (magic, version, reserved, found_block_size) != (_MAGIC, _VERSION, 0, block_size):
        raise CorruptRecordError(f"{key}: no before-image record of version {_VERSION} and {block_size} byte blocks")
    data_offset = HEAD_BYTES + 12 * n + 8 * m
    if not 0 < n <= m <= MAX_RECORD_BLOCKS or data_offset + m * block_size != size_bytes:
        raise CorruptRecordError(f"{key}: {n} extents of {m} blocks do not fit into {size_bytes} bytes")
    table = save.get(key, HEAD_BYTES, data_offset)
    if _CHECKSUM.unpack_from(head, _FIXED.size)[0] != _checksum(head[: _FIXED.size], table):
        raise CorruptRecordError(f"{key}: checksum of the table is wrong")
    numbers = struct.unpack(f"<{n}Q{n}I{m}Q", table)
    extents = tuple(Extent(start, count) for start, count in zip(numbers[:n], numbers[n : 2 * n], strict=True))
    if total(extents) != m:
        raise CorruptRecordError(f"{key}: its extents do not have {m} blocks")
    return RecordTable(extents, numbers[2 * n :], data_offset)


class AreaMap:
    """Which blocks a save area keeps, and where; rebuilt from the records themselves (invariant 4).

    Not locked: whoever shares one guards it. The first record of a block counts.
    """

    __slots__ = ("area", "blocks", "next_sequence")

    def __init__(self, area: str) -> None:
        self.area = area
        self.blocks = BlockMap()
        self.next_sequence = 0

    def add(self, sequence: int, extents: Sequence[Extent]) -> None:
        """Enter a record that is durable."""
        index = 0
        for start, count in extents:
            self.blocks.add_new(start, count, sequence << _INDEX_BITS | index)
            index += count
        self.next_sequence = max(self.next_sequence, sequence + 1)

    def load(self, save: SaveVolume, keys: Sequence[str], block_size: int) -> None:
        """Enter the records of ``keys``, ascending."""
        for key in keys:
            self.add(sequence_in(key), read_table(save, key, block_size).extents)


class Saved(NamedTuple):
    """Blocks that a save area keeps: ``place`` tells the record and the index in it."""

    extent: Extent
    area: AreaMap
    place: int


def resolve(areas: Sequence[AreaMap], extents: Sequence[Extent]) -> tuple[list[Saved], list[Extent]]:
    """Look extents up in areas, first area first (FIG. 27); also what none of them keeps."""
    found: list[Saved] = []
    rest = list(extents)
    for area in areas:
        if not rest:
            break
        unknown: list[Extent] = []
        for start, count in rest:
            for piece, place in area.blocks.find(start, count):
                if place is None:
                    unknown.append(piece)
                else:
                    found.append(Saved(piece, area, place))
        rest = unknown
    return found, rest


class AreaReader:
    """Reads blocks out of save areas, each verified against its checksum."""

    def __init__(self, save: SaveVolume, block_size: int) -> None:
        self._save = save
        self._block_size = block_size
        self._tables: dict[str, RecordTable] = {}

    def read(self, saved: Saved, view: memoryview) -> None:
        """Fill ``view`` with the blocks of ``saved``."""
        size = self._block_size
        key = record_key(saved.area.area, sequence_of(saved.place))
        index = saved.place & _INDEX_MASK
        table = self._table(key)
        offset = table.data_offset + index * size
        data = self._save.get(key, offset, offset + saved.extent.count * size)
        for block in range(saved.extent.count):
            part = data[block * size : (block + 1) * size]
            if xxh3_64_intdigest(part) != table.checksums[index + block]:
                raise CorruptRecordError(f"{key}: checksum of block {saved.extent.start + block} is wrong")
        view[:] = data

    def _table(self, key: str) -> RecordTable:
        table = self._tables.get(key)
        if table is None:
            table = read_table(self._save, key, self._block_size)
            if len(self._tables) >= _TABLES_KEPT:
                self._tables = {}
            self._tables[key] = table
        return table
