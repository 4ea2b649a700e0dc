"""A view of a secondary that stays at one boundary as long as somebody is connected to it, and no longer (C3, X1)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from replkit.contracts.buffers import Buffer
from replkit.contracts.position import Position
from replkit.contracts.volume import BlockVolume
from replkit.errors import InconsistentError, ReadOnlyError
from replkit.replication.view import View


class SessionView(BlockVolume):
    """The first client of a ``session`` pins the newest boundary, all who join see the same, the last one releases it.

    So a client that opens several connections reads one boundary, and an export without clients holds nothing back.
    """

    read_only = True

    def __init__(self, newest: View, pin: Callable[[], View]) -> None:
        self.block_size, self.size_bytes = newest.block_size, newest.size_bytes
        self._pin = pin
        self._lock = threading.Lock()
        self._users = 0
        self._view: View | None = None

    @property
    def boundary(self) -> Position | None:
        """Where its clients read; ``None`` while there are none."""
        view = self._view
        return None if view is None else view.boundary

    @contextmanager
    def session(self) -> Iterator[None]:
        """Around all that one client does; ``InconsistentError`` while a new copy runs."""
        with self._lock:
            if self._view is None:
                self._view = self._pin()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                done, self._view = (self._view, None) if not self._users else (None, self._view)
            if done is not None:
                done.close()

    def read_into(self, start: int, buffer: Buffer) -> None:
        """Fill ``buffer`` with blocks of the session's boundary."""
        view = self._view
        if view is None:
            raise InconsistentError("a view was read outside a session", hint="connect to its export")
        view.read_into(start, buffer)

    def write(self, start: int, buffer: Buffer) -> None:
        """Refused: a secondary changes by playback only."""
        raise ReadOnlyError(f"a view cannot be written (block {start}, {memoryview(buffer).nbytes} bytes)")

    def discard(self, start: int, count: int) -> None:
        """Refused, as ``write``."""
        raise ReadOnlyError(f"a view cannot be discarded ({count} blocks from {start})")

    def flush(self) -> None:
        """Nothing to flush."""
