"""What was written to a bucket volume and is not put yet, and the overlay of what is put but not in the map's pages."""

from __future__ import annotations

from collections.abc import Iterable

from replkit.blocks.blockmap import BlockMap
from replkit.blocks.extent import Extent

ZERO = 1 << 62
"""Overlay: a value from here on means that the block was discarded; below it is a place."""
_RUN_BYTES = 64


class WriteBuffer:
    """Written blocks and discarded runs, disjoint. The caller holds a lock."""

    __slots__ = ("block_size", "blocks", "gone")

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.blocks: dict[int, bytes] = {}
        self.gone = BlockMap()

    def __bool__(self) -> bool:
        return bool(self.blocks) or bool(self.gone)

    @property
    def size_bytes(self) -> int:
        """Memory that it takes, about."""
        return len(self.blocks) * self.block_size + (len(self.gone) * _RUN_BYTES if self.gone else 0)

    def write(self, start: int, view: memoryview) -> None:
        """Copy blocks."""
        size = self.block_size
        count = view.nbytes // size
        if self.gone:
            self.gone.remove(start, count)
        if count == 1:
            self.blocks[start] = bytes(view)
        else:
            for index in range(count):
                self.blocks[start + index] = bytes(view[index * size : (index + 1) * size])

    def discard(self, start: int, count: int) -> None:
        """Forget blocks, and remember that they are gone."""
        if count < len(self.blocks):
            for block in range(start, start + count):
                self.blocks.pop(block, None)
        else:
            for block in [block for block in self.blocks if start <= block < start + count]:
                del self.blocks[block]
        self.gone.add(start, count, start)

    def discards(self) -> list[Extent]:
        """The discarded runs, ascending."""
        return [extent for extent, _ in self.gone.runs()]

    def read(self, start: int, view: memoryview) -> list[tuple[int, memoryview]]:
        """Fill what is here; the ranges that are not."""
        size = self.block_size
        count = view.nbytes // size
        left: list[tuple[int, memoryview]] = []
        for extent, value in self.gone.find(start, count) if self.gone else [(Extent(start, count), None)]:
            part = view[(extent.start - start) * size : (extent.stop - start) * size]
            if value is not None:
                part[:] = bytes(part.nbytes)
            elif not self.blocks:
                left.append((extent.start, part))
            else:
                left += self._read_blocks(extent.start, part)
        return left

    def _read_blocks(self, start: int, view: memoryview) -> list[tuple[int, memoryview]]:
        size, left, begin = self.block_size, [], 0
        count = view.nbytes // size
        for index in range(count):
            data = self.blocks.get(start + index)
            if data is not None:
                if begin < index:
                    left.append((start + begin, view[begin * size : index * size]))
                view[index * size : (index + 1) * size] = data
                begin = index + 1
        if begin < count:
            left.append((start + begin, view[begin * size :]))
        return left


def overlay(target: BlockMap, runs: Iterable[tuple[int, int, int | None]]) -> None:
    """Enter what a data object maps; the caller holds a lock."""
    for start, count, place in runs:
        target.add(start, count, ZERO + start if place is None else place)
