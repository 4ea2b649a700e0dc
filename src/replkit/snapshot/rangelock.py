"""Locks on ranges of blocks: one task at a time reads old blocks, saves them and marks them saved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from replkit.blocks.extent import Extent
from replkit.contracts.runtime import Runtime


class RangeLock:
    """Mutual exclusion on ranges of blocks; all ranges of one holder are taken at once, so nobody waits in a circle."""

    def __init__(self, runtime: Runtime) -> None:
        self._changed = runtime.condition()
        self._held: list[Sequence[Extent]] = []

    @contextmanager
    def lock(self, start: int, count: int) -> Iterator[None]:
        """Hold the blocks ``[start, start + count)``. Not re-entrant."""
        with self.lock_extents((Extent(start, count),)):
            yield

    @contextmanager
    def lock_extents(self, extents: Sequence[Extent]) -> Iterator[None]:
        """Hold all blocks of ``extents``. Not re-entrant."""
        with self._changed:
            while any(_overlap(extents, held) for held in self._held):
                self._changed.wait()
            self._held.append(extents)
        try:
            yield
        finally:
            with self._changed:
                self._held[:] = [held for held in self._held if held is not extents]
                self._changed.notify_all()


def _overlap(left: Sequence[Extent], right: Sequence[Extent]) -> bool:
    return any(a.start < b.start + b.count and b.start < a.start + a.count for a in left for b in right)
