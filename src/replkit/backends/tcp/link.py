"""Frames on a TCP connection, in both directions, and the stream of a connection that speaks something else."""

from __future__ import annotations

import time

from replkit.backends.tcp.connection import Connection
from replkit.contracts.bufferpool import BufferPool
from replkit.contracts.buffers import Buffer
from replkit.contracts.message import PREFIX_BYTES, Message, Prefix, check_body, encode_frame_head, parse_prefix
from replkit.contracts.transport import Link
from replkit.errors import LinkClosedError, LinkTimeoutError, PeerError

_LARGE_BYTES = 64 << 10
STALL_S = 15.0
"""A frame that has begun and gets no further byte for so long ends the link."""
_OTHER_TIMEOUT_S = 30.0


class TcpLink(Link):
    """A link whose frames may arrive in any pieces; a frame begun goes on in the next ``receive``."""

    def __init__(self, connection: Connection, *, stall_s: float = STALL_S) -> None:
        self.peer = connection.peer
        self._connection = connection
        self._stall_s = stall_s
        self._pool = BufferPool()
        self._prefix: Prefix | None = None
        self._body: bytes | None = None
        self._unfinished: memoryview | None = None
        self._unfinished_bytes = 0
        self._moved_s = 0.0

    def send(self, message: Message, timeout_s: float) -> None:
        """Send head and payload by one call where the kernel takes them; the limit is for time without progress.

        So a large chunk may take long on a slow line; a frame that can go no further is cut in two, and ends the link.
        """
        parts: list[Buffer] = [encode_frame_head(message), memoryview(message.payload).cast("B")]
        left = sum(memoryview(part).nbytes for part in parts)
        try:
            while sent := self._connection.send(parts, timeout_s):
                left -= sent
                if not left:
                    return
                parts = _after(parts, sent)
            raise LinkTimeoutError(f"{self.peer} took nothing for {timeout_s:g} s, {left} bytes of a message are left")
        except PeerError:
            self.close()
            raise

    def receive(self, timeout_s: float) -> Message | None:
        """The next message; ``None`` also while one is still arriving, until that stalls."""
        try:
            return self._receive(time.monotonic() + timeout_s, timeout_s)
        except PeerError:
            self.close()
            raise

    def is_receiving(self) -> bool:
        """Whether a frame has begun to arrive; ``receive`` ends the link when that stalls."""
        return self._prefix is not None or self._unfinished is not None

    def wake(self) -> None:
        """End the wait for the beginning of a message."""
        self._connection.wake()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _receive(self, deadline: float, timeout_s: float) -> Message | None:
        if self._prefix is None:
            data = self._take(PREFIX_BYTES, deadline, timeout_s)
            if data is None:
                if timeout_s > 0:
                    self._pool.clear()  # nothing comes: an idle link holds no large buffer
                return None
            self._prefix = parse_prefix(data)  # refuses lengths before memory is taken for them (invariant 12)
        prefix = self._prefix
        if self._body is None:
            data = self._take(prefix.body_bytes, deadline, timeout_s)
            if data is None:
                return None
            body = bytes(data)
            check_body(prefix, body)  # vouches for the payload's length too, before memory is taken for it
            self._body = body
        payload = self._take(prefix.payload_bytes, deadline, timeout_s)
        if payload is None:
            return None
        message = Message(prefix.kind, self._body, payload)
        self._prefix = self._body = None
        return message

    def _take(self, size: int, deadline: float, timeout_s: float) -> bytes | memoryview | None:
        """``size`` bytes of the stream; ``None`` when time is up, what came so far is kept for the next call."""
        if not size:
            return b""
        if self._unfinished is None and size >= _LARGE_BYTES:
            self._unfinished = self._pool.take(size)
            self._unfinished_bytes = 0
        if self._unfinished is None:
            is_start = self._prefix is None
            receive = self._connection.receive_or_wake if is_start else self._connection.receive
            data = receive(size, timeout_s)
            if data is None:
                self._check_stall()
                return None
            self._moved_s = time.monotonic()
            if len(data) == size:
                return data
            self._unfinished = memoryview(bytearray(size))
            self._unfinished[: len(data)] = data
            self._unfinished_bytes = len(data)
        return self._go_on(self._unfinished, deadline, timeout_s)

    def _go_on(self, unfinished: memoryview, deadline: float, timeout_s: float) -> memoryview | None:
        while self._unfinished_bytes < len(unfinished):
            count = self._connection.receive_into(unfinished[self._unfinished_bytes :], timeout_s)
            if count is None:
                self._check_stall()
                return None
            self._moved_s = time.monotonic()
            self._unfinished_bytes += count
            if self._unfinished_bytes < len(unfinished) and self._moved_s >= deadline:
                return None
        self._unfinished = None
        return unfinished

    def _check_stall(self) -> None:
        if self.is_receiving() and time.monotonic() - self._moved_s >= self._stall_s:
            raise LinkTimeoutError(f"{self.peer} sent nothing for {self._stall_s:g} s in the middle of a frame")


class OtherStream:
    """A connection that is not RCP; the bytes that were looked at come first (T9)."""

    def __init__(self, connection: Connection, first: bytes) -> None:
        self._connection = connection
        self._first = first

    def recv(self, size: int, /) -> bytes:
        """The next bytes; empty at the end."""
        if self._first:
            taken, self._first = self._first[:size], self._first[size:]
            return taken
        try:
            data = self._connection.receive(size, _OTHER_TIMEOUT_S, whole=False)
        except LinkClosedError:
            return b""
        if data is None:
            raise LinkTimeoutError(f"{self._connection.peer} sent nothing for {_OTHER_TIMEOUT_S:g} s")
        return data

    def sendall(self, data: bytes, /) -> None:
        """Send all of ``data``; ``LinkTimeoutError`` when the peer takes none of it for a while."""
        view = memoryview(data)
        while view:
            sent = self._connection.send([view], _OTHER_TIMEOUT_S)
            if not sent:
                raise LinkTimeoutError(f"{self._connection.peer} took nothing for {_OTHER_TIMEOUT_S:g} s")
            view = view[sent:]

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


def _after(parts: list[Buffer], sent: int) -> list[Buffer]:
    """The parts without their first ``sent`` bytes."""
    rest: list[Buffer] = []
    for part in parts:
        view = memoryview(part)
        if sent < view.nbytes:
            rest.append(view[sent:])
        sent = max(0, sent - view.nbytes)
    return rest
