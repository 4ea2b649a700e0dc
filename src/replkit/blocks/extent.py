"""Extents: runs of blocks, and the set arithmetic on ascending lists of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


class Extent(NamedTuple):
    """The blocks ``[start, start + count)``."""

    start: int
    count: int  # type: ignore[assignment]  # a run has a count; nobody counts its items

    @property
    def stop(self) -> int:
        """The first block after the extent."""
        return self.start + self.count


def normalise(extents: Iterable[Extent]) -> list[Extent]:
    """The same blocks as an ascending list of disjoint extents that do not touch."""
    merged: list[Extent] = []
    start = stop = -1
    for next_start, count in sorted(extents):
        if count <= 0:
            continue
        if next_start > stop:
            if stop > start:
                merged.append(Extent(start, stop - start))
            start, stop = next_start, next_start + count
        elif next_start + count > stop:
            stop = next_start + count
    if stop > start:
        merged.append(Extent(start, stop - start))
    return merged


def union(left: Iterable[Extent], right: Iterable[Extent]) -> list[Extent]:
    """Blocks that are in one of the two."""
    return normalise([*left, *right])


def intersect(left: Sequence[Extent], right: Sequence[Extent]) -> list[Extent]:
    """Blocks that are in both; each argument ascending and disjoint."""
    found: list[Extent] = []
    i = j = 0
    while i < len(left) and j < len(right):
        start = max(left[i].start, right[j].start)
        left_stop, right_stop = left[i].stop, right[j].stop
        stop = min(left_stop, right_stop)
        if start < stop:
            found.append(Extent(start, stop - start))
        if left_stop <= right_stop:
            i += 1
        else:
            j += 1
    return found


def subtract(left: Iterable[Extent], right: Sequence[Extent]) -> list[Extent]:
    """Blocks of ``left`` that are not in ``right``; each argument ascending and disjoint."""
    found: list[Extent] = []
    j = 0
    for start, count in left:
        stop = start + count
        at = start
        while j < len(right) and right[j].stop <= at:
            j += 1
        k = j
        while k < len(right) and right[k].start < stop:
            if right[k].start > at:
                found.append(Extent(at, right[k].start - at))
            at = right[k].stop
            k += 1
        if at < stop:
            found.append(Extent(at, stop - at))
        j = max(j, k - 1)  # the last one that was met may reach into the next extent
    return found


def total(extents: Iterable[Extent]) -> int:
    """Number of blocks, each extent counted whole."""
    return sum(count for _, count in extents)


def clip(extents: Iterable[Extent], start: int, stop: int) -> list[Extent]:
    """What of ``extents`` lies in ``[start, stop)``, in the order given."""
    found: list[Extent] = []
    for first, count in extents:
        low, high = max(first, start), min(first + count, stop)
        if low < high:
            found.append(Extent(low, high - low))
    return found


def split(extents: Iterable[Extent], max_count: int) -> Iterator[Extent]:
    """Yield the same blocks in the same order, as extents of at most ``max_count`` blocks."""
    for start, count in extents:
        for first in range(start, start + count, max_count):
            yield Extent(first, min(max_count, start + count - first))
