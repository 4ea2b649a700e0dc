"""Block maps: for runs of blocks, where each of them is (P4, FIG. 44)."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Final, Self

from replkit.blocks.extent import Extent
from replkit.blocks.maprecord import decode_runs, encode_runs
from replkit.errors import InvalidArgumentError

_LEAF_RUNS: Final = 1024
_LIMIT: Final = 1 << 63
_Run = tuple[int, int, int]


class _Leaf:
    """Up to 1,024 runs as three sorted columns of 64-bit numbers."""

    __slots__ = ("counts", "starts", "values")

    def __init__(self, runs: list[_Run] | None = None) -> None:
        columns = list(zip(*runs, strict=True)) if runs else [(), (), ()]
        self.starts, self.counts, self.values = (array("q", column) for column in columns)

    def splice(self, low: int, high: int, runs: list[_Run]) -> None:
        """Replace the runs ``[low, high)`` by others."""
        fresh = _Leaf(runs)
        self.starts[low:high] = fresh.starts
        self.counts[low:high] = fresh.counts
        self.values[low:high] = fresh.values

    def cut(self, low: int, high: int) -> _Leaf:
        """A leaf of the runs ``[low, high)``."""
        part = _Leaf()
        part.starts, part.counts, part.values = self.starts[low:high], self.counts[low:high], self.values[low:high]
        return part


class BlockMap:
    """Maps runs of blocks to runs of numbers: block ``start + i`` is at ``value + i``.

    Runs that touch and continue each other's values are merged, so values of things that must stay apart must not
    follow one another. Memory: 24 bytes a run. Threads: readers and writers need the caller's lock.
    """

    __slots__ = ("_block_total", "_firsts", "_leaves")

    def __init__(self) -> None:
        self._leaves: list[_Leaf] = []
        self._firsts: list[int] = []
        self._block_total = 0

    def __len__(self) -> int:
        """Number of runs."""
        return sum(len(leaf.starts) for leaf in self._leaves)

    def __bool__(self) -> bool:
        return bool(self._leaves)

    def add(self, start: int, count: int, value: int) -> None:
        """Map ``[start, start + count)`` to ``[value, value + count)``, in place of what they were mapped to."""
        _check(start, count, value)
        if count and not self._insert(start, count, value):
            self._replace(start, start + count, value)

    def add_new(self, start: int, count: int, value: int) -> None:
        """The same for those of the blocks that are mapped to nothing; the others stay as they are."""
        _check(start, count, value)
        if count and not self._insert(start, count, value):
            for missing in self.missing(start, count):
                self._replace(missing.start, missing.stop, value + missing.start - start)

    def remove(self, start: int, count: int) -> None:
        """Map ``[start, start + count)`` to nothing."""
        if start < 0 or count < 0:
            raise InvalidArgumentError(f"block map: blocks [{start}, {start + count}) cannot be")
        if count:
            self._replace(start, start + count, None)

    def clear(self) -> None:
        """Map every block to nothing."""
        self._leaves, self._firsts, self._block_total = [], [], 0

    def find(self, start: int, count: int) -> list[tuple[Extent, int | None]]:
        """The range in order, as extents with the value of their first block; ``None`` where nothing is mapped."""
        stop = start + count
        if not self._leaves or count <= 0:
            return [(Extent(start, count), None)] if count > 0 else []
        number, index = self._seek(start)
        leaf = self._leaves[number]
        if index < len(leaf.starts):  # most ranges lie in one run, or in none
            run_start = leaf.starts[index]
            if run_start >= stop:
                return [(Extent(start, count), None)]
            if run_start <= start and run_start + leaf.counts[index] >= stop:
                return [(Extent(start, count), leaf.values[index] + start - run_start)]
        return self._find_across(start, stop)

    def covers(self, start: int, count: int) -> bool:
        """Whether every block of the range is mapped; true for no block."""
        at, stop = start, start + count
        for run_start, run_count, _ in self._overlapping(start, stop):
            if run_start > at:
                return False
            at = run_start + run_count
        return at >= stop

    def missing(self, start: int, count: int) -> list[Extent]:
        """What of the range is not mapped, ascending; no two of the extents touch."""
        return [extent for extent, value in self.find(start, count) if value is None]

    def runs(self) -> Iterator[tuple[Extent, int]]:
        """Yield all runs, ascending, with the value of their first block; the map must not change meanwhile."""
        for leaf in self._leaves:
            for start, count, value in zip(leaf.starts, leaf.counts, leaf.values, strict=True):
                yield Extent(start, count), value

    def block_total(self) -> int:
        """Number of blocks that are mapped."""
        return self._block_total

    def to_bytes(self) -> bytes:
        """The map as a record, compressed and with a checksum."""
        leaves = self._leaves
        return encode_runs(
            (start for leaf in leaves for start in leaf.starts),
            (count for leaf in leaves for count in leaf.counts),
            (value for leaf in leaves for value in leaf.values),
        )

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """The map of a record made by ``to_bytes``; else ``CorruptRecordError``."""
        starts, counts, values = decode_runs(memoryview(data))
        block_map = cls()
        runs = list(zip(starts, counts, values, strict=True))
        block_map._leaves = [_Leaf(runs[at : at + _LEAF_RUNS]) for at in range(0, len(runs), _LEAF_RUNS)]
        block_map._firsts = [leaf.starts[0] for leaf in block_map._leaves]
        block_map._block_total = sum(counts)
        return block_map

    # --- leaves -------------------------------------------------------------------------------------------------

    def _seek(self, block: int) -> tuple[int, int]:
        """Leaf and index of the first run that ends after ``block``; the index may be the leaf's length."""
        number = max(0, bisect_right(self._firsts, block) - 1)
        leaf = self._leaves[number]
        index = bisect_right(leaf.starts, block) - 1
        if index >= 0 and leaf.starts[index] + leaf.counts[index] > block:
            return number, index
        return number, index + 1

    def _overlapping(self, start: int, stop: int) -> Iterator[_Run]:
        if not self._leaves or start >= stop:
            return
        number, index = self._seek(start)
        while number < len(self._leaves):
            leaf = self._leaves[number]
            after = bisect_left(leaf.starts, stop, index)
            yield from zip(leaf.starts[index:after], leaf.counts[index:after], leaf.values[index:after], strict=True)
            if after < len(leaf.starts):
                return
            number, index = number + 1, 0

    def _find_across(self, start: int, stop: int) -> list[tuple[Extent, int | None]]:
        found: list[tuple[Extent, int | None]] = []
        at = start
        for run_start, run_count, value in self._overlapping(start, stop):
            low, high = max(run_start, start), min(run_start + run_count, stop)
            if low > at:
                found.append((Extent(at, low - at), None))
            found.append((Extent(low, high - low), value + low - run_start))
            at = high
        if at < stop:
            found.append((Extent(at, stop - at), None))
        return found

    def _insert(self, start: int, count: int, value: int) -> bool:
        """The common case, done fast: the range meets no run, and at most continues the one before it.

        It may touch the next one, if that one's values do not continue its own.
        """
        number = bisect_right(self._firsts, start) - 1
        if number < 0:
            return False
        leaf = self._leaves[number]
        starts = leaf.starts
        index = bisect_right(starts, start)
        before_count = leaf.counts[index - 1]
        before_stop = starts[index - 1] + before_count
        if before_stop > start:
            return False
        if index < len(starts):
            next_start, next_value = starts[index], leaf.values[index]
        elif number + 1 < len(self._firsts):
            next_start, next_value = self._firsts[number + 1], self._leaves[number + 1].values[0]
        else:
            next_start, next_value = _LIMIT, 0
        if next_start <= start + count and (next_start < start + count or next_value == value + count):
            return False
        if before_stop == start and leaf.values[index - 1] + before_count == value:
            leaf.counts[index - 1] = before_count + count
        else:
            starts.insert(index, start)
            leaf.counts.insert(index, count)
            leaf.values.insert(index, value)
            if len(starts) > _LEAF_RUNS:
                self._settle(number)
        self._block_total += count
        return True

    def _replace(self, start: int, stop: int, value: int | None) -> None:
        """Put one run, or nothing, in place of ``[start, stop)``; merge it with neighbours that it continues."""
        if not self._leaves:
            self._leaves, self._firsts = [_Leaf()], [start]
        # One block more on each side, so that neighbours that touch are looked at too.
        old = list(self._overlapping(max(0, start - 1), stop + 1))
        fresh = [] if value is None else [(start, stop - start, value)]
        left = [] if not old or old[0][0] >= start else [_head(old[0], start)]
        right = [] if not old or old[-1][0] + old[-1][1] <= stop else [_tail(old[-1], stop)]
        merged: list[_Run] = []
        for run in (*left, *fresh, *right):
            if merged and _continues(merged[-1], run):
                merged[-1] = (merged[-1][0], merged[-1][1] + run[1], merged[-1][2])
            else:
                merged.append(run)
        self._splice(old[0][0] if old else start, len(old), merged)
        self._block_total += sum(run[1] for run in merged) - sum(run[1] for run in old)

    def _splice(self, first: int, old_count: int, runs: list[_Run]) -> None:
        """Replace ``old_count`` runs, of which the first begins at or after ``first``, by ``runs``."""
        number, index = self._seek(first)
        left = old_count
        taken = min(left, len(self._leaves[number].starts) - index)
        self._leaves[number].splice(index, index + taken, runs)
        left -= taken
        gone = number + 1
        while left and left >= len(self._leaves[gone].starts):
            left -= len(self._leaves[gone].starts)
            gone += 1
        if left:
            self._leaves[gone].splice(0, left, [])
            self._firsts[gone] = self._leaves[gone].starts[0]
        del self._leaves[number + 1 : gone], self._firsts[number + 1 : gone]
        self._settle(number)

    def _settle(self, number: int) -> None:
        """Drop the leaf if it is empty, halve it if it is too long, and set its first block."""
        leaf = self._leaves[number]
        length = len(leaf.starts)
        if not length:
            del self._leaves[number], self._firsts[number]
            return
        self._firsts[number] = leaf.starts[0]
        if length > _LEAF_RUNS:
            # The last leaf of a map that is filled in ascending order stays full.
            middle = _LEAF_RUNS if number == len(self._leaves) - 1 else length // 2
            self._leaves[number : number + 1] = [leaf.cut(0, middle), leaf.cut(middle, length)]
            self._firsts.insert(number + 1, leaf.starts[middle])


def _check(start: int, count: int, value: int) -> None:
    if start < 0 or count < 0 or value < 0 or start + count >= _LIMIT or value + count >= _LIMIT:
        raise InvalidArgumentError(f"block map: blocks [{start}, {start + count}) at {value} cannot be")


def _head(run: _Run, stop: int) -> _Run:
    start, count, value = run
    return start, min(count, stop - start), value


def _tail(run: _Run, start: int) -> _Run:
    first, count, value = run
    skip = max(0, start - first)
    return first + skip, count - skip, value + skip


def _continues(left: _Run, right: _Run) -> bool:
    return left[0] + left[1] == right[0] and left[2] + left[1] == right[2]
