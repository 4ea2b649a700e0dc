"""The block index of the sets that are received and not yet played: where the newest value of a block is (C3, FIG. 6).

A read resolves all its blocks at once under the lock of the index; that fixes the list of sets that it sees. Sets that
arrive later, and sets that are played and forgotten later, change nothing for it.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from replkit.blocks.blockmap import BlockMap
from replkit.blocks.extent import Extent
from replkit.replication.set_reader import SetReader

_BLOCK_BITS = 40
_BLOCKS = 1 << _BLOCK_BITS


class Place(NamedTuple):
    """Blocks that are in chunk ``chunk`` of set ``number``; in the volume where ``number`` is ``None``."""

    extent: Extent
    number: int | None
    chunk: int


class SetIndex:
    """Block number to set and chunk. The values of its block map are ``slot << 40 | block``, one slot a set.

    Not locked: the caller holds its lock across each call, except for ``load``, which only reads records.
    """

    def __init__(self, reader: SetReader) -> None:
        self._reader = reader
        self._where = BlockMap()
        self._slots: dict[int, _Slot] = {}
        self._numbers: dict[int, int] = {}
        self._next_slot = 0

    @property
    def numbers(self) -> list[int]:
        """The sets in the index, ascending."""
        return sorted(self._slots)

    def load(self, number: int) -> _Slot:
        """Read the block lists of a set."""
        chunks = [
            [Extent(piece.start, piece.count) for piece in self._reader.pieces(number, chunk)]
            for chunk in range(self._reader.header(number).list_count)
        ]
        return _Slot(chunks)

    def add(self, number: int, slot: _Slot) -> None:
        """Let the blocks of a set that is newer than all others be found in it."""
        if not self._slots:
            self._next_slot = 0
        slot.number = self._next_slot
        self._next_slot += 1
        self._slots[number] = slot
        self._numbers[slot.number] = number
        for extents in slot.chunks:
            for start, count in extents:
                self._where.add(start, count, slot.number * _BLOCKS + start)

    def forget(self, number: int) -> None:
        """Drop a set that the volume now holds; blocks that a newer set has stay with that one."""
        slot = self._slots.pop(number)
        del self._numbers[slot.number]
        if not self._slots:
            self._where.clear()
            return
        for extents in slot.chunks:
            for start, count in extents:
                for extent, value in self._where.find(start, count):
                    if value is not None and value // _BLOCKS == slot.number:
                        self._where.remove(extent.start, extent.count)

    def find(self, start: int, count: int) -> list[Place]:
        """Where the blocks are, in order and without gap."""
        places: list[Place] = []
        for extent, value in self._where.find(start, count):
            if value is None:
                places.append(Place(extent, None, 0))
            else:
                number = self._numbers[value // _BLOCKS]
                places.extend(self._slots[number].places(extent, number))
        return places

    def extents(self, number: int) -> list[Extent]:
        """The blocks of a set, ascending; of one that is not in the index none."""
        slot = self._slots.get(number)
        return [] if slot is None else [extent for extents in slot.chunks for extent in extents]

    def changed_blocks(self) -> int:
        """Number of blocks whose newest value is not in the volume yet."""
        return self._where.block_total()


class _Slot:
    """The chunks of one set, and where each begins."""

    def __init__(self, chunks: list[list[Extent]]) -> None:
        self.chunks = chunks
        self.number = 0
        self._firsts = [extents[0].start for extents in chunks]

    def places(self, extent: Extent, number: int) -> list[Place]:
        """Divide blocks of the set by the chunk that holds them."""
        places: list[Place] = []
        at = extent.start
        while at < extent.stop:
            chunk = bisect_right(self._firsts, at) - 1
            after = self._firsts[chunk + 1] if chunk + 1 < len(self._firsts) else extent.stop
            stop = min(extent.stop, after)
            places.append(Place(Extent(at, stop - at), number, chunk))
            at = stop
        return places
