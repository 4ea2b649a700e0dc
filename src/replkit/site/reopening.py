"""A volume that another process writes, where a reader stays at the state that it met: opened again for each copy.

A bucket volume is such a one. Without this a new copy, or a difference, of a snapshot would be read from a state that
is older than the snapshot, and what was written between the two would be missing (C1).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from replkit.blocks.extent import Extent
from replkit.contracts.buffers import Buffer
from replkit.contracts.volume import BlockVolume
from replkit.errors import ReadOnlyError


class ReopeningVolume(BlockVolume):
    """The volume that ``open_volume`` opens for reading; ``refresh`` opens it anew."""

    read_only = True

    def __init__(self, open_volume: Callable[[], BlockVolume]) -> None:
        self._open_volume, self._lock = open_volume, threading.Lock()
        self._inner = open_volume()
        self._before: BlockVolume | None = None
        self._take_over()

    def _take_over(self) -> None:
        inner = self._inner
        self.block_size, self.size_bytes = inner.block_size, inner.size_bytes
        self.tells_in_use, self.discards = inner.tells_in_use, inner.discards

    def refresh(self) -> None:
        """See what was flushed before the call. Reads under way end on the state before."""
        with self._lock:
            newer = self._open_volume()
            if self._before is not None:
                self._before.close()
            self._before, self._inner = self._inner, newer
            self._take_over()

    def read_into(self, start: int, buffer: Buffer) -> None:
        """As of the newest refresh, or later."""
        self._inner.read_into(start, buffer)

    def in_use(self) -> Iterator[Extent]:
        """As of the newest refresh, or later."""
        return self._inner.in_use()

    def write(self, start: int, buffer: Buffer) -> None:
        """Refused."""
        raise ReadOnlyError(f"a reader does not write: {memoryview(buffer).nbytes} bytes at block {start}")

    def flush(self) -> None:
        """Nothing to flush."""

    def close(self) -> None:
        """Close it."""
        with self._lock:
            for volume in (self._before, self._inner):
                if volume is not None:
                    volume.close()
            self._before = None
