"""An open cut: blocks of the old map at their value at the cut, until a delta set has them (FIG. 10; D1, D5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from typing import Final

from replkit.blocks.extent import Extent, split, total
from replkit.contracts.buffers import Buffer
from replkit.contracts.runtime import Runtime
from replkit.contracts.volume import BlockVolume
from replkit.deltaset.pieces import Kind, Piece
from replkit.deltaset.zeros import find_pieces, find_pieces_of
from replkit.errors import LocalProtocolError
from replkit.replication.changelog import OldMap
from replkit.snapshot.rangelock import RangeLock

COPIED_AHEAD_BYTES: Final = 64 << 20


class OpenCut:
    """What ``LoggedVolume.begin_cut`` gives: copy all of ``runs``, then ``finish``; or ``abandon`` at any time.

    A writer that comes first to a block not yet copied hands its old content over (copy-ahead), up to
    ``ahead_limit_bytes`` in all; beyond that it waits for the copier. One task copies; it may be any.
    """

    def __init__(
        self,
        old: OldMap,
        volume: BlockVolume,
        ranges: RangeLock,
        runtime: Runtime,
        end: Callable[[OpenCut, bool], None],
        *,
        ahead_limit_bytes: int = COPIED_AHEAD_BYTES,
    ) -> None:
        self.old = old
        self._volume = volume
        self._ranges = ranges
        self._end = end
        self._limit_bytes = ahead_limit_bytes
        self._remaining = old.changed.copy()
        self._uncopied = old.changed.copy()
        self._uncopied.subtract(old.discarded)  # a discarded block is known without being read
        self._ahead: dict[int, bytes] = {}
        self._changed = runtime.condition()
        self._is_over = False

    @property
    def runs(self) -> list[Extent]:
        """Blocks of the cut, ascending."""
        return list(self.old.changed.runs())

    @property
    def block_count(self) -> int:
        """Number of blocks of the cut."""
        return self.old.changed.count()

    def ranges(self, blocks_a_range: int) -> Iterator[Extent]:
        """Yield ranges, ascending, for ``copy_range``; each has about so many blocks to read.

        A run of discarded blocks is not divided, and counts as one block: a volume that grew has a long one.
        """
        live = self.old.changed.copy()
        live.subtract(self.old.discarded)
        parts = merge(split(live.runs(), blocks_a_range), self.old.discarded.runs())
        start = stop = taken = 0
        discarded = self.old.discarded
        for part in parts:
            cost = 1 if discarded.any_in(part.start, 1) else part.count
            if taken and taken + cost > blocks_a_range:
                yield Extent(start, stop - start)
                taken = 0
            if not taken:
                start = part.start
            stop = part.stop
            taken += cost
        if taken:
            yield Extent(start, stop - start)

    @property
    def copied_ahead_bytes(self) -> int:
        """Memory that copied-ahead blocks take now."""
        return len(self._ahead) * self._volume.block_size

    def copy_range(self, start: int, stop: int) -> tuple[list[Piece], list[Buffer]]:
        """Pieces of the cut in ``[start, stop)`` and the data of the DATA pieces, at their value at the cut.

        Each block is handed out once; kind and data belong together, as a discard holds the gate alone.
        """
        with self._ranges.lock(start, stop - start):
            self._check_open()
            live = list(self._uncopied.runs(start, stop))
            data = memoryview(bytearray(total(live) * self._volume.block_size))
            self._volume.read_extents(live, data)
            with self._changed:
                self._uncopied.clear_run(start, stop - start)
                ahead = sorted((block, old) for block, old in self._ahead.items() if start <= block < stop)
                for block, _old in ahead:
                    del self._ahead[block]
                self._changed.notify_all()
        discarded = [
            part for run in self.old.discarded.runs(start, stop) for part in self._remaining.runs(run.start, run.stop)
        ]
        self._remaining.clear_run(start, stop - start)
        if ahead:
            return self._pieces([*self._parts(live, data), *_join(ahead, self._volume.block_size)], discarded)
        pieces, found = find_pieces_of(live, data, self._volume.block_size)
        if discarded:
            pieces = sorted([*pieces, *(Piece(start, count, Kind.DISCARD) for start, count in discarded)])
        return pieces, list(found)

    def _parts(self, live: list[Extent], data: memoryview) -> list[tuple[int, memoryview]]:
        parts: list[tuple[int, memoryview]] = []
        offset = 0
        for start, count in live:
            size = count * self._volume.block_size
            parts.append((start, data[offset : offset + size]))
            offset += size
        return parts

    def _pieces(self, parts: list[tuple[int, memoryview]], discarded: list[Extent]) -> tuple[list[Piece], list[Buffer]]:
        found = [find_pieces(start, view, self._volume.block_size) for start, view in sorted(parts, key=_first)]
        pieces = [piece for some, _data in found for piece in some]
        pieces.extend(Piece(start, count, Kind.DISCARD) for start, count in discarded)
        pieces.sort()
        return pieces, [part for _pieces, data in found for part in data]

    def finish(self) -> None:
        """The set is committed: forget the old map. ``LocalProtocolError`` while a block was not copied."""
        self._check_open()
        if self._remaining:
            raise LocalProtocolError(f"{self._remaining.count()} blocks of the cut were not copied into its set")
        self._close()
        self._end(self, True)

    def abandon(self) -> None:
        """The set could not be committed: the blocks go back into the current map. May be repeated."""
        if not self._is_over:
            self._close()
            self._end(self, False)

    def _close(self) -> None:
        with self._changed:
            self._is_over = True
            self._ahead = {}
            self._changed.notify_all()

    def _check_open(self) -> None:
        if self._is_over:
            raise LocalProtocolError("the cut is finished or abandoned already")

    # --- for writers (OldBlockTaker) ----------------------------------------------------------------------------

    def needs(self, start: int, count: int) -> bool:
        """Whether a block was not copied yet, or was a moment ago."""
        return self._uncopied.any_in(start, count)

    def wanted(self, extents: Sequence[Extent]) -> list[Extent]:
        """Blocks not copied yet; the range lock is held."""
        if self._is_over:
            return []
        return [run for extent in extents for run in self._uncopied.runs(extent.start, extent.stop)]

    def has_room(self, blocks: int) -> bool:
        """Whether so many blocks more may be copied ahead; always when there is none yet."""
        return not self._ahead or (len(self._ahead) + blocks) * self._volume.block_size <= self._limit_bytes

    def take(self, extent: Extent, data: memoryview) -> None:
        """Keep old blocks in memory until the copier comes to them."""
        size = self._volume.block_size
        with self._changed:
            if not self._is_over:
                for index in range(extent.count):
                    self._ahead[extent.start + index] = bytes(data[index * size : (index + 1) * size])
            self._uncopied.clear_run(*extent)

    def wait_for_room(self, blocks: int) -> None:
        """Wait outside the gate until the copier has taken enough of what was copied ahead."""
        with self._changed:
            while not self._is_over and not self.has_room(blocks):
                self._changed.wait()


def _first(part: tuple[int, memoryview]) -> int:
    return part[0]


def _join(ahead: list[tuple[int, bytes]], block_size: int) -> list[tuple[int, memoryview]]:
    """Copied-ahead blocks, ascending, with neighbours joined."""
    joined: list[tuple[int, list[bytes]]] = []
    for block, old in ahead:
        if joined and joined[-1][0] + len(joined[-1][1]) == block:
            joined[-1][1].append(old)
        else:
            joined.append((block, [old]))
    return [(start, memoryview(b"".join(olds))) for start, olds in joined if block_size]
