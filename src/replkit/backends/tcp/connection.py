"""One TCP connection with a time limit for each direction and a ``close`` that any thread may call.

The socket blocks, and the kernel keeps the time (``SO_RCVTIMEO``, ``SO_SNDTIMEO``): with ``MSG_WAITALL`` a chunk of
4 MiB is one system call, without a poll and without the interpreter lock between its segments.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

from replkit.contracts.buffers import Buffer
from replkit.errors import LinkClosedError

_TIMEVAL = struct.Struct("@ll")
_SHORTEST_S = 0.001
"""A limit that rounds to zero would mean none to the kernel."""
_UNACKNOWLEDGED_MS = 30_000
"""How long sent bytes may stay unacknowledged before the kernel gives the peer up (half-open connections)."""


class Connection:
    """A connected socket; at most one thread receives and one sends, at the same time."""

    def __init__(self, connected: socket.socket, peer: str) -> None:
        self.peer = peer
        self._socket = connected
        self._lock = threading.Lock()
        self._users = 0
        self._is_closed = False
        self._limits: dict[int, float] = {}
        connected.settimeout(None)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
        self._waker = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def receive(self, size: int, timeout_s: float, *, whole: bool = True) -> bytes | None:
        """Up to ``size`` bytes, ``None`` when none came in time; ``whole`` waits for all of them."""
        with self._using() as connected:
            wait = self._limit(connected, socket.SO_RCVTIMEO, timeout_s)
            try:
                # recv makes a bytes object without zeroing it first, and fills it in place.
                data = connected.recv(size, wait | (socket.MSG_WAITALL if whole else 0))
            except BlockingIOError:
                return None
            except OSError as error:
                self._fail(error)
        if not data:
            raise LinkClosedError(f"{self.peer} closed the connection")
        return data

    def receive_or_wake(self, size: int, timeout_s: float) -> bytes | None:
        """Up to ``size`` bytes as soon as some are there; ``None`` when none came in time or before a ``wake``."""
        data = self.receive(size, 0)
        if data is not None or timeout_s <= 0:
            return data
        with self._using() as connected:
            poll = select.poll()
            poll.register(connected, select.POLLIN)
            poll.register(self._waker, select.POLLIN)
            ready = {fd for fd, _events in poll.poll(timeout_s * 1000)}
            if self._waker in ready:
                os.eventfd_read(self._waker)
        return self.receive(size, 0) if ready else None

    def wake(self) -> None:
        """End the wait of ``receive_or_wake``; where nobody waits, that of the next call."""
        with self._lock:
            if not self._is_closed:
                os.eventfd_write(self._waker, 1)

    def receive_into(self, view: memoryview, timeout_s: float) -> int | None:
        """Fill ``view`` or a part of it; ``None`` when nothing came in time."""
        with self._using() as connected:
            wait = self._limit(connected, socket.SO_RCVTIMEO, timeout_s)
            try:
                count = connected.recv_into(view, 0, wait | socket.MSG_WAITALL)
            except BlockingIOError:
                return None
            except OSError as error:
                self._fail(error)
        if not count:
            raise LinkClosedError(f"{self.peer} closed the connection")
        return count

    def send(self, parts: Sequence[Buffer], timeout_s: float) -> int:
        """Send what goes out in time; the number of bytes that did."""
        with self._using() as connected:
            wait = self._limit(connected, socket.SO_SNDTIMEO, timeout_s)
            try:
                return connected.sendmsg(parts, (), wait | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return 0
            except OSError as error:
                self._fail(error)

    def close(self) -> None:
        """Wake both directions; the descriptor is given back when neither is in a system call any more."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            with suppress(OSError):  # the peer may have reset it already
                self._socket.shutdown(socket.SHUT_RDWR)
            self._release()

    def _release(self) -> None:
        if self._is_closed and not self._users:
            self._socket.close()
            os.close(self._waker)

    @contextmanager
    def _using(self) -> Iterator[socket.socket]:
        """Keep the descriptor from being closed, and its number from being used for another file, meanwhile."""
        with self._lock:
            if self._is_closed:
                raise LinkClosedError(f"the connection with {self.peer} is closed")
            self._users += 1
        try:
            yield self._socket
        finally:
            with self._lock:
                self._users -= 1
                self._release()

    def _limit(self, connected: socket.socket, option: int, timeout_s: float) -> int:
        """Set the kernel's time limit of one direction; the flag to call with, where it is not to wait at all."""
        if timeout_s <= 0:
            return socket.MSG_DONTWAIT
        if self._limits.get(option) != timeout_s:
            seconds, fraction = divmod(max(timeout_s, _SHORTEST_S), 1)
            try:
                connected.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(int(seconds), int(fraction * 1e6)))
            except OSError as error:
                self._fail(error)
            self._limits[option] = timeout_s
        return 0

    def _fail(self, error: OSError) -> NoReturn:
        raise LinkClosedError(f"the connection with {self.peer} broke: {error.strerror or error}") from None
