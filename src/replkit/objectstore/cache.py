"""Caches of blocks that were read from a bucket: one in memory, one that may outlive the process.

Both are keyed by the place of a block (data object and slot). Data objects are never changed and never named again once
they are condemned, so what is cached is never stale.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from xxhash import xxh3_64_intdigest

from replkit.blocks.extent import Extent
from replkit.contracts.runtime import Lock
from replkit.contracts.volume import BlockVolume
from replkit.errors import InvalidArgumentError, StorageError
from replkit.objectstore.map_pages import SLOT_BITS

_SLOT_MASK = (1 << SLOT_BITS) - 1
_SUM_BYTES: Final = 8
_SPREAD = 0x9E3779B97F4A7C15
_TABLE_RUN = 4096


class MemoryCache:
    """Blocks by place, least recently used ones dropped beyond ``max_bytes``."""

    def __init__(self, max_bytes: int, lock: Lock) -> None:
        self._max_bytes = max_bytes
        self._lock = lock
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._size = 0

    def get(self, place: int, count: int) -> list[bytes | None]:
        """The blocks of ``count`` places, ``None`` for those that are not cached."""
        with self._lock:
            found = [self._blocks.get(number) for number in range(place, place + count)]
            for index, data in enumerate(found):
                if data is not None:
                    self._blocks.move_to_end(place + index)
        return found

    def add(self, place: int, blocks: Iterable[bytes]) -> None:
        """Keep blocks of consecutive places."""
        with self._lock:
            for number, data in enumerate(blocks, place):
                if number not in self._blocks:
                    self._blocks[number] = data
                    self._size += len(data)
            while self._size > self._max_bytes:
                self._size -= len(self._blocks.popitem(last=False)[1])


class LocalCache:
    """Blocks of one bucket volume on a local volume, of any backend; they are there again after a restart.

    The first part of ``volume`` is a table: for each cell of the rest the checksum, seeded with the place, of the block
    that lies there, or 0. A block is looked for in one cell only. What was lost or torn in a crash, or belongs to
    another place or bucket volume, does not have the checksum and is not found: so no order of writes matters.

    Args:
        volume: open for writing, of the block size of the bucket volume; closed by the caller after ``flush``.
        lock: guards the table.
    """

    def __init__(self, volume: BlockVolume, lock: Lock) -> None:
        self._volume = volume
        self._lock = lock
        self._block_size = volume.block_size
        per_block = self._block_size // _SUM_BYTES
        self._table_blocks = -(-volume.block_count // (per_block + 1))
        self._cells = volume.size_bytes // self._block_size - self._table_blocks
        if self._cells < 1:
            raise InvalidArgumentError(f"a cache of {volume.size_bytes} bytes has no room for a block")
        self._sums = array("Q")
        for first in range(0, self._table_blocks, _TABLE_RUN):
            raw = bytearray(min(_TABLE_RUN, self._table_blocks - first) * self._block_size)
            volume.read_into(first, raw)
            self._sums.frombytes(raw)
        self._changed: set[int] = set()
        self._salt = 0

    def attach(self, volume_id: str, block_size: int) -> None:
        """Serve this bucket volume; blocks that were cached for another one are not found."""
        if block_size != self._block_size:
            raise InvalidArgumentError(f"the cache has blocks of {self._block_size} bytes, the volume of {block_size}")
        self._salt = xxh3_64_intdigest(volume_id.encode())

    def _cell(self, place: int) -> int:
        return (((place >> SLOT_BITS) * _SPREAD >> 16) + (place & _SLOT_MASK)) % self._cells

    def _sum(self, place: int, data: bytes | memoryview) -> int:
        return xxh3_64_intdigest(data, seed=(place ^ self._salt) & ((1 << 64) - 1)) or 1

    def get(self, place: int, count: int) -> list[bytes | None]:
        """The blocks of ``count`` places, ``None`` for those that are not cached or damaged."""
        found: list[bytes | None] = []
        for first, run in self._runs(place, count):
            if not any(self._sums[first : first + run]):
                found += [None] * run
                continue
            raw = bytearray(run * self._block_size)
            try:
                self._volume.read_into(self._table_blocks + first, raw)
            except StorageError:  # a cache that fails is a cache without the block
                found += [None] * run
                continue
            at = place + len(found)
            for index in range(run):
                data = bytes(memoryview(raw)[index * self._block_size : (index + 1) * self._block_size])
                found.append(data if self._sums[first + index] == self._sum(at + index, data) else None)
        return found

    def add(self, place: int, blocks: list[bytes]) -> None:
        """Keep blocks of consecutive places; a cache volume that fails keeps none."""
        done = 0
        for first, run in self._runs(place, len(blocks)):
            part = blocks[done : done + run]
            try:
                self._volume.write(self._table_blocks + first, b"".join(part))
            except StorageError:
                return
            with self._lock:
                for index, data in enumerate(part):
                    self._sums[first + index] = self._sum(place + done + index, data)
                per_block = self._block_size // _SUM_BYTES
                self._changed.update(range(first // per_block, (first + run - 1) // per_block + 1))
            done += run

    def _runs(self, place: int, count: int) -> list[Extent]:
        """Cells of consecutive places; more than one run where they wrap around."""
        runs = []
        while count:
            first = self._cell(place)
            run = min(count, self._cells - first)
            runs.append(Extent(first, run))
            place, count = place + run, count - run
        return runs

    def flush(self) -> None:
        """Write the table, so that the blocks are found after a restart."""
        with self._lock:
            changed, self._changed = sorted(self._changed), set()
            per_block = self._block_size // _SUM_BYTES
            tables = [self._sums[number * per_block : (number + 1) * per_block].tobytes() for number in changed]
        self._volume.write_extents(list(zip(changed, tables, strict=True)))
        self._volume.flush()
