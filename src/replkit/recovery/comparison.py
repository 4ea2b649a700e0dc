"""Hashes of a volume compared with those of a snapshot of the peer, a bounded piece at a time (FIG. 28, R4).

A *window* is a part of the volume. Of its ranges that hold blocks in doubt, hashes are compared in one call; in ranges
that differ, blocks are. While this side hashes, the peer does too: it has the question about the blocks of a window and
the one about the ranges of the next window at the same time, and never more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, NamedTuple, TypeVar

from replkit.blocks.bitmap import PagedBitmap
from replkit.contracts.volume import BlockVolume
from replkit.errors import ProtocolError
from replkit.recovery.hashes import HASH_BYTES, block_hashes, range_hashes
from replkit.recovery.peer import Peer, Prepared

RANGE_BYTES: Final = 64 << 10
"""Of what hashes are compared first; in a range that differs the blocks are compared one by one."""
COMPARE_BYTES: Final = 128 << 20
"""How much is compared in one step, ..."""
COMPARE_BLOCKS: Final = 1 << 15
"""... and how many blocks at most."""
T = TypeVar("T")
Work = Callable[[], T]
Later = Callable[[Work[bytes]], Work[bytes]]
"""Begins work, and gives what waits for its result, or raises its error. Several are carried out one after another."""


def when_waited_for(work: Work[bytes]) -> Work[bytes]:
    """A ``Later`` without a second task: the work is done by the one who waits."""
    return work


class _Window(NamedTuple):
    """A part of the volume, and which of its ranges hold blocks in doubt; the peer has the question about these."""

    start: int
    block_count: int
    ranges: PagedBitmap | None
    theirs: Work[bytes]


class Comparison:
    """What differs so far.

    Args:
        prepared: the snapshot of the peer; blocks that it does not have count as different.
        block_count: blocks of the volume here.
        blocks: which are compared; all where it is ``None``.
        later: begins calls of the peer.
    """

    def __init__(
        self,
        prepared: Prepared,
        block_count: int,
        blocks: PagedBitmap | None = None,
        later: Later = when_waited_for,
    ) -> None:
        self.snapshot, self.stamp = prepared.snapshot, prepared.stamp
        self.blocks = blocks
        self.differs = PagedBitmap(block_count)
        self._stop = min(block_count, prepared.block_count)
        self.differs.set_run(self._stop, block_count - self._stop)
        self.next_block = 0
        self._later = later
        self._asked: _Window | None = None

    def advance(self, volume: BlockVolume, peer: Peer) -> bool:
        """Compare the next window; false when nothing is left. After an error the call can be repeated."""
        window, self._asked = self._asked, None  # after an error nothing counts as asked
        range_blocks = max(1, RANGE_BYTES // volume.block_size)
        if window is None:
            window = self._ask(self.next_block, range_blocks, volume.block_size, peer)
        if window is None:
            return False
        start, count, ranges, answer = window
        mine = range_hashes(volume, start, count, range_blocks, ranges)
        suspects = self._suspects(window, _unequal(mine, _of_ranges(answer(), ranges)), range_blocks)
        answer = self._later(partial(peer.block_hashes, self.snapshot, start, suspects)) if suspects else bytes
        after = self._ask(start + count, range_blocks, volume.block_size, peer)
        if suspects:
            mine = block_hashes(volume, start, suspects)
            blocks = [block for extent in suspects.runs() for block in range(extent.start, extent.stop)]
            for place in _unequal(mine, answer()):
                self.differs.add(start + blocks[place])
        self.next_block, self._asked = start + count, after
        return True

    def _ask(self, start: int, range_blocks: int, block_size: int, peer: Peer) -> _Window | None:
        """The next window from a block on that has blocks in doubt; ``None`` when there is none."""
        most = max(1, min(COMPARE_BYTES // block_size, COMPARE_BLOCKS) // range_blocks) * range_blocks
        ranges: PagedBitmap | None = None
        if self.blocks is not None:
            first = next(iter(self.blocks.runs(start, self._stop)), None) if start < self._stop else None
            start = first.start if first is not None else self._stop
        if start >= self._stop:
            return None
        count = min(most, self._stop - start)
        if self.blocks is not None:
            ranges = PagedBitmap(-(-count // range_blocks))
            for run in self.blocks.runs(start, start + count):
                first_range, last_range = (run.start - start) // range_blocks, (run.stop - 1 - start) // range_blocks
                ranges.set_run(first_range, last_range - first_range + 1)
        ask = partial(peer.hashes, self.snapshot, start, count, range_blocks, ranges)
        return _Window(start, count, ranges, self._later(ask))

    def _suspects(self, window: _Window, unequal: list[int], range_blocks: int) -> PagedBitmap:
        """The blocks of the ranges that differ, numbered from the start of the window; only those to be compared."""
        start, count, ranges, _theirs = window
        compared: Iterable[int] = range(-(-count // range_blocks))
        if ranges is not None:
            compared = [one for run in ranges.runs() for one in range(run.start, run.stop)]
        found, numbers = PagedBitmap(count), list(compared)
        for place in unequal:
            first = numbers[place] * range_blocks
            last = min(first + range_blocks, count)
            if self.blocks is None:
                found.set_run(first, last - first)
                continue
            for run in self.blocks.runs(start + first, start + last):
                found.set_run(run.start - start, run.count)
        return found


def _of_ranges(digests: bytes, ranges: PagedBitmap | None) -> bytes:
    """Those of the ranges that were asked for: a site of an older version does not see the map, and answers for all."""
    if ranges is None or len(digests) != ranges.block_count * HASH_BYTES:
        return digests
    parts = (digests[run.start * HASH_BYTES : run.stop * HASH_BYTES] for run in ranges.runs())
    return b"".join(parts)


def _unequal(mine: bytes, theirs: bytes) -> list[int]:
    """Places of the digests that differ."""
    if len(mine) != len(theirs):
        raise ProtocolError(f"{len(theirs)} bytes of hashes instead of {len(mine)}")
    if mine == theirs:
        return []
    places = range(0, len(mine), HASH_BYTES)
    return [at // HASH_BYTES for at in places if mine[at : at + HASH_BYTES] != theirs[at : at + HASH_BYTES]]
