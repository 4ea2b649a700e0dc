"""One connection: requests go out together, replies come back in any order. Used by one thread at a time."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from replkit.errors import OutOfSpaceError, ProtocolError, ReadOnlyError, ReplkitError, VolumeFailedError
from replkit_nbd import wire as w
from replkit_nbd.negotiation import negotiate, receive, receive_exactly

_WINDOW = 64
"""Requests on the way: so few that their headers, or the replies to writes, fit into any socket buffer. That is why
sending all before receiving any cannot lock up both sides."""
_MAX_ERROR_BYTES = 64 << 10


@dataclass(kw_only=True)
class Request:
    """A request, and what its replies said."""

    command: int
    offset: int = 0
    length: int = 0
    payload: memoryview | None = None
    into: memoryview | None = None
    extents: list[tuple[int, int]] = field(default_factory=list)
    received_bytes: int = 0
    error: int = 0
    reason: str = ""


class Connection:
    """An export opened over one socket."""

    def __init__(self, address: w.Address) -> None:
        self.address = address
        self._cookie = 0
        self._socket = address.connect()
        try:
            self.info = negotiate(self._socket, address)
            self._socket.settimeout(w.REQUEST_TIMEOUT_S)
        except BaseException:
            self._socket.close()
            raise

    def run(self, requests: Sequence[Request]) -> None:
        """Carry all out; raises the error of the first that failed. OSError or ProtocolError end the connection."""
        for at in range(0, len(requests), _WINDOW):
            batch = requests[at : at + _WINDOW]
            waiting = self._send(batch)
            while waiting:
                self._receive_reply(waiting)
            for request in batch:
                if request.error:
                    raise self._error_of(request)

    def close(self) -> None:
        """Say goodbye and hang up."""
        try:
            self._socket.sendall(w.REQUEST.pack(w.REQUEST_MAGIC, 0, w.CMD_DISCONNECT, 0, 0, 0))
        except OSError:
            pass  # the server hung up first
        finally:
            self._socket.close()

    def _send(self, batch: Sequence[Request]) -> dict[int, Request]:
        waiting: dict[int, Request] = {}
        heads = bytearray()
        for request in batch:
            self._cookie += 1
            waiting[self._cookie] = request
            command = request.command
            heads += w.REQUEST.pack(w.REQUEST_MAGIC, 0, command, self._cookie, request.offset, request.length)
            if request.payload is not None:
                self._socket.sendall(heads, socket.MSG_MORE)
                self._socket.sendall(request.payload)
                heads.clear()
        if heads:
            self._socket.sendall(heads)
        return waiting

    def _receive_reply(self, waiting: dict[int, Request]) -> None:
        head = receive(self._socket, 16)
        (magic,) = struct.unpack_from(">I", head)
        if magic == w.SIMPLE_REPLY_MAGIC:
            error, cookie = struct.unpack_from(">IQ", head, 4)
            request = self._waiting(waiting, cookie)
            request.error = error
            if request.into is not None and not error:
                receive_exactly(self._socket, request.into)
                request.received_bytes = request.length
            self._finish(waiting, cookie)
        elif magic == w.STRUCTURED_REPLY_MAGIC:
            flags, kind, cookie = struct.unpack_from(">HHQ", head, 4)
            (length,) = struct.unpack(">I", receive(self._socket, 4))
            self._receive_chunk(self._waiting(waiting, cookie), kind, length)
            if flags & w.REPLY_DONE:
                self._finish(waiting, cookie)
        else:
            raise ProtocolError(f"{self.address.url}: a reply begins with {magic:#x}")

    def _waiting(self, waiting: dict[int, Request], cookie: int) -> Request:
        request = waiting.get(cookie)
        if request is None:
            raise ProtocolError(f"{self.address.url}: a reply to a request that was not sent")
        return request

    def _finish(self, waiting: dict[int, Request], cookie: int) -> None:
        request = waiting.pop(cookie)
        if request.into is not None and not request.error and request.received_bytes != request.length:
            raise ProtocolError(
                f"{self.address.url}: a read of {request.length} bytes was answered by {request.received_bytes}"
            )

    def _receive_chunk(self, request: Request, kind: int, length: int) -> None:
        if kind == w.REPLY_NONE and not length:
            return
        if kind == w.REPLY_DATA and length > 8:
            (offset,) = struct.unpack(">Q", receive(self._socket, 8))
            receive_exactly(self._socket, self._part(request, offset, length - 8))
        elif kind == w.REPLY_HOLE and length == 12:
            offset, count = struct.unpack(">QI", receive(self._socket, 12))
            self._part(request, offset, count)[:] = bytes(count)
        elif kind == w.REPLY_STATUS and length % 8 == 4 and length <= _MAX_ERROR_BYTES:
            body = receive(self._socket, length)
            if struct.unpack_from(">I", body) == (self.info.allocation_id,):
                request.extents = list(struct.iter_unpack(">II", body[4:]))
        elif kind & w.REPLY_ERROR and 6 <= length <= _MAX_ERROR_BYTES:
            body = receive(self._socket, length)
            error, text_bytes = struct.unpack_from(">IH", body)
            request.error = error or 5  # an error chunk without a number is an error still
            request.reason = body[6 : 6 + text_bytes].decode(errors="replace")
        else:
            raise ProtocolError(f"{self.address.url}: a reply of type {kind} with {length} bytes")

    def _part(self, request: Request, offset: int, count: int) -> memoryview:
        """The place of a piece of a read, which must lie within what was asked for."""
        first = offset - request.offset
        if request.into is None or first < 0 or first + count > request.length:
            raise ProtocolError(f"{self.address.url}: {count} bytes at {offset} were not asked for")
        request.received_bytes += count
        return request.into[first : first + count]

    def _error_of(self, request: Request) -> ReplkitError:
        what = request.reason or f"error {request.error}"
        message = f"{self.address.url}: command {request.command} of {request.length} bytes at {request.offset}: {what}"
        if request.error == w.ENOSPC:
            return OutOfSpaceError(message)
        return ReadOnlyError(message) if request.error == w.EPERM else VolumeFailedError(message)
