"""Where the blocks of a bucket volume are: in memory, in the overlay, or in the pages of its map."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

from replkit.blocks.blockmap import BlockMap
from replkit.blocks.extent import Extent, intersect, normalise, subtract, union
from replkit.contracts.runtime import Lock
from replkit.errors import RecordMissingError
from replkit.objectstore.map_pages import BLOCK_TREE, LEAF_SHIFT, find_runs
from replkit.objectstore.map_tree import Top, Tree
from replkit.objectstore.volume_buffer import ZERO, WriteBuffer
from replkit.objectstore.volume_data import Piece

_SHIFT = LEAF_SHIFT[BLOCK_TREE]
_LEAVES_A_CHUNK = 1 << 10
_LEAVES_AT_ONCE = 256

Range = tuple[int, memoryview]
"""First block, and where its blocks go."""


class Snapshot(NamedTuple):
    """What one moment said of the wanted blocks: pieces to read, and ranges to be looked up under ``top``."""

    top: Top
    pieces: list[Piece]
    left: list[Range]


class State:
    """What changes under readers: the top of the block tree, the overlay over it, the buffers over that, newest first.

    The caller holds a lock. A top never changes; a new one takes its place.
    """

    __slots__ = ("buffers", "overlay", "top")

    def __init__(self, top: Top, block_size: int) -> None:
        self.top = top
        self.overlay = BlockMap()
        self.buffers = [WriteBuffer(block_size)]

    def look(self, wanted: list[Range]) -> Snapshot:
        """Fill what is in memory, and say where the rest is."""
        for buffer in self.buffers:
            if buffer:
                wanted = [rest for start, view in wanted for rest in buffer.read(start, view)]
        if not self.overlay:
            return Snapshot(self.top, [], wanted)
        pieces: list[Piece] = []
        left: list[Range] = []
        size = self.buffers[0].block_size
        for start, view in wanted:
            for extent, value in self.overlay.find(start, view.nbytes // size):
                part = view[(extent.start - start) * size : (extent.stop - start) * size]
                if value is None:
                    left.append((extent.start, part))
                elif value >= ZERO:
                    part[:] = bytes(part.nbytes)
                else:
                    pieces.append(Piece(value, extent.start, part))
        return Snapshot(self.top, pieces, left)

    def written(self) -> tuple[list[Extent], list[Extent]]:
        """Blocks that the buffers hold, and blocks that they say are gone."""
        written: list[Extent] = []
        gone: list[Extent] = []
        for buffer in reversed(self.buffers):
            fresh = normalise(Extent(block, 1) for block in buffer.blocks)
            written = union(subtract(written, buffer.discards()), fresh)
            gone = subtract(union(gone, buffer.discards()), fresh)
        return written, gone


class Lookup:
    """Finds blocks through the tree, and tells which are in use. ``lock`` guards ``state``."""

    def __init__(self, tree: Tree, state: State, lock: Lock, block_size: int) -> None:
        self._tree = tree
        self._state = state
        self._lock = lock
        self._block_size = block_size

    def resolve(self, snapshot: Snapshot) -> list[Piece]:
        """All pieces that are to be read; blocks that nothing maps are filled with zeros."""
        pieces = list(snapshot.pieces)
        leaves: dict[int, list[Range]] = {}
        for start, view in snapshot.left:
            at, stop = start, start + view.nbytes // self._block_size
            while at < stop:
                after = min(stop, ((at >> _SHIFT) + 1) << _SHIFT)
                part = view[(at - start) * self._block_size : (after - start) * self._block_size]
                leaves.setdefault(at >> _SHIFT, []).append((at, part))
                at = after
        refs = ((leaf, self._tree.find(snapshot.top, 0, leaf)) for leaf in leaves)
        pages = dict(self._tree.load((leaf, ref) for leaf, ref in refs if ref is not None))
        for leaf, ranges in leaves.items():
            columns = pages.get(leaf)
            for start, view in ranges:
                first = start - (leaf << _SHIFT)
                count = view.nbytes // self._block_size
                runs = find_runs(columns, first, first + count) if columns is not None else []
                pieces += self._fill(start, view, first, runs)
        return pieces

    def _fill(self, start: int, view: memoryview, first: int, runs: list[tuple[int, int, int]]) -> Iterator[Piece]:
        """Pieces of the mapped ``runs``; zeros into what lies between."""
        size, at = self._block_size, 0
        for run_start, count, place in runs:
            begin = (run_start - first) * size
            if at < begin:
                view[at:begin] = bytes(begin - at)
            at = begin + count * size
            yield Piece(place, start + run_start - first, view[begin:at])
        if at < view.nbytes:
            view[at:] = bytes(view.nbytes - at)

    # --- in use ---------------------------------------------------------------------------------------------------

    def in_use(self, start: int, stop: int) -> Iterator[Extent]:
        """Yield the blocks of ``[start, stop)`` that are mapped or buffered, ascending; none of the extents touch."""
        with self._lock:
            written, gone = self._state.written()
        step = _LEAVES_A_CHUNK << _SHIFT
        before = Extent(start, 0)
        for first in range(start, stop, step):
            chunk = [Extent(first, min(step, stop - first))]
            used = subtract(self._mapped(chunk[0]), gone) if gone else self._mapped(chunk[0])
            for extent in union(used, intersect(_near(written, chunk[0]), chunk)):
                if extent.start == before.stop:
                    before = Extent(before.start, before.count + extent.count)
                    continue
                if before.count:
                    yield before
                before = extent
        if before.count:
            yield before

    def _mapped(self, chunk: Extent) -> list[Extent]:
        while True:
            with self._lock:
                top, overlaid = self._state.top, self._state.overlay.find(chunk.start, chunk.count)
            try:
                found: list[Extent] = []
                for extent, value in overlaid:
                    if value is None:
                        found += self._in_tree(top, extent)
                    elif value < ZERO:
                        found.append(extent)
                return found
            except RecordMissingError:  # our own garbage collection may have rewritten the page
                with self._lock:
                    if self._state.top is top:
                        raise

    def _in_tree(self, top: Top, extent: Extent) -> Iterator[Extent]:
        leaves = list(self._tree.leaves(top, extent.start >> _SHIFT, (extent.stop - 1 >> _SHIFT) + 1))
        for at in range(0, len(leaves), _LEAVES_AT_ONCE):
            for leaf, columns in self._tree.load(leaves[at : at + _LEAVES_AT_ONCE]):
                base = leaf << _SHIFT
                for start, count, _place in find_runs(columns, extent.start - base, extent.stop - base):
                    yield Extent(base + start, count)


def _near(extents: list[Extent], chunk: Extent) -> list[Extent]:
    """Those of ascending extents that may overlap ``chunk``."""
    first = bisect_left(extents, (chunk.start, 0))
    return extents[max(0, first - 1) : bisect_left(extents, (chunk.stop, 0))]
