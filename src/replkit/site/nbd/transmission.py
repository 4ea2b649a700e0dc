"""The hot loop of one connection: many requests of one receive, their writes in one call, their replies in one send.

A client may count on no order among requests that it has not seen answered, so the plain writes of a receive are
carried out together, after its plain reads. Whatever else there is, a flush above all, comes after the writes
before it.
"""

from __future__ import annotations

import mmap
import socket
from contextlib import suppress
from struct import Struct
from typing import NoReturn

from replkit.errors import ProtocolError
from replkit.site.nbd import protocol as p
from replkit.site.nbd.access import ByteAccess
from replkit.site.nbd.requests import Request, RequestHandler

_HEAD_BYTES = p.REQUEST.size
_BASE = mmap.PAGESIZE - _HEAD_BYTES
"""Where the first header lies, so that its payload begins on a page."""
_WINDOW_BYTES = 256 << 10
"""What one receive may bring, beyond one large write, and how many bytes of replies are gathered before a send."""
_WINDOW_END = _BASE + _WINDOW_BYTES
_CAPACITY_BYTES = _WINDOW_END + p.MAX_PAYLOAD_BYTES + mmap.PAGESIZE
_KEEP_BYTES = 4 << 20
"""Memory that a connection keeps between requests; what a larger one touched is given back."""

# Magic, flags and command as one number: a request is recognised by one comparison. A cookie stays bytes, since joining
# the cookies of a batch with the head of a good reply between them is all its replies in one call.
_UNPACK = Struct(">Q8sQI").unpack_from
_PLAIN_READ = p.REQUEST_MAGIC << 32 | p.CMD_READ
_PLAIN_WRITE = p.REQUEST_MAGIC << 32 | p.CMD_WRITE
_GOOD_REPLY = p.SIMPLE_REPLY.pack(p.SIMPLE_REPLY_MAGIC, p.OK, 0)[:8]
_DATA_HEAD = Struct(">8s8sIQ")  # magic, flags and type; cookie, bytes of payload, offset
_DATA_REPLY = p.STRUCTURED_REPLY.pack(p.STRUCTURED_REPLY_MAGIC, p.REPLY_FLAG_DONE, p.REPLY_OFFSET_DATA, 0, 0)[:8]


class _Buffer:
    """Anonymous memory for the largest request; its pages appear when they are touched."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _CAPACITY_BYTES)
        self.view = memoryview(self._memory)

    def give_back(self) -> None:
        """Drop the content and the pages beyond what is kept."""
        self._memory.madvise(mmap.MADV_DONTNEED, _KEEP_BYTES, _CAPACITY_BYTES - _KEEP_BYTES)


class _Ended(Exception):  # noqa: N818 - not an error
    """The connection is to end, after the replies that were sent."""


class Transmission:
    """Serves one connection after its handshake; used by one thread."""

    def __init__(
        self, sock: socket.socket, access: ByteAccess, handler: RequestHandler, *, structured: bool, read_only: bool
    ) -> None:
        self._socket = sock
        self._access = access
        self._volume = access.volume
        self._handler = handler
        self._structured = structured
        self._read_only = read_only
        self._in = _Buffer()
        self._out = _Buffer()
        self._read_head_bytes = _DATA_HEAD.size if structured else p.SIMPLE_REPLY.size
        self._used = _BASE  # end of the replies gathered in _out
        self._writes: list[tuple[int, memoryview]] = []
        self._cookies = [b""]  # of _writes, after an empty one
        self._must_flush = False

    def run(self, leftover: bytes) -> None:
        """Answer requests, first those in ``leftover``, until the client goes; ProtocolError when it misbehaves."""
        with suppress(_Ended):
            self._loop(leftover)

    def _loop(self, leftover: bytes) -> None:
        view, shift, mask = self._in.view, self._access.shift, self._access.mask
        writes, cookies, window, receive = self._writes, self._cookies, view[_BASE:_WINDOW_END], self._socket.recv_into
        at, end = _BASE, _BASE + len(leftover)
        view[at:end] = leftover
        while True:
            whole_end = 0 if self._read_only else self._volume.size_bytes & ~mask  # see _whole_end
            while end - at >= _HEAD_BYTES:
                kind, cookie, offset, length = _UNPACK(view, at)
                start = at + _HEAD_BYTES
                stop = start + length
                after = offset + length
                if (
                    kind == _PLAIN_WRITE
                    and stop <= end
                    and not (offset | length) & mask
                    and offset < after <= whole_end
                ):
                    writes.append((offset >> shift, view[start:stop]))
                    cookies.append(cookie)
                    at = stop
                elif kind == _PLAIN_READ:
                    self._read(cookie, offset, length)
                    at = start
                elif taken := self._other(at, end):
                    at += taken
                else:
                    break
            if writes:
                self._commit()
            if self._used > _BASE:
                self._send()
            if at < end:
                at, end = _BASE, self._receive_rest(at, end)
            else:
                if end > _KEEP_BYTES:
                    self._in.give_back()
                at, end = _BASE, _BASE + receive(window)
            if end <= _BASE:  # the client is gone; what it had begun to send was never carried out
                return

    def _whole_end(self) -> int:
        """Where aligned writes cease to be plain ones: at a partial last block, at once on a read-only export."""
        return 0 if self._read_only else self._volume.size_bytes & ~self._access.mask

    def _receive_rest(self, at: int, end: int) -> int:
        """Move the incomplete request to the front and receive more: of a large payload the rest and nothing else.

        Returns where the bytes end, 0 when the client is gone.
        """
        view = self._in.view
        if at > _BASE:
            view[_BASE : _BASE + end - at] = view[at:end]
            end -= at - _BASE
        stop, flags = _WINDOW_END, 0
        if end - _BASE >= _HEAD_BYTES:  # only a write is incomplete with its header there
            payload_end = _BASE + _HEAD_BYTES + _UNPACK(view, _BASE)[3]
            if payload_end > _WINDOW_END:
                stop, flags = payload_end, socket.MSG_WAITALL
        got = self._socket.recv_into(view[end:stop], 0, flags)
        return end + got if got else 0

    def _commit(self) -> None:
        """Carry out the writes gathered so far in one call and gather their replies."""
        writes, cookies = self._writes, self._cookies
        try:
            with self._access.shared:
                if len(writes) == 1 or self._are_disjoint():
                    self._volume.write_extents(writes)
                else:
                    for start, payload in writes:
                        self._volume.write(start, payload)
            if self._must_flush:
                self._volume.flush()
        except Exception:  # noqa: BLE001, RUF100 - a backend may raise anything; each request gets its own answer
            self._commit_one_by_one()
        else:
            if self._used == _BASE:
                self._socket.sendall(_GOOD_REPLY.join(cookies))
            else:
                self._put(_GOOD_REPLY.join(cookies))
        writes.clear()
        del cookies[1:]
        self._must_flush = False

    def _are_disjoint(self) -> bool:
        """Whether no two of the gathered writes overlap, as ``write_extents`` wants it."""
        writes = self._writes
        starts = dict(writes)
        if len(starts) < len(writes):
            return False
        if len(writes) * self._access.block_size == sum(map(len, starts.values())):  # of one block each
            return True
        previous_stop = 0
        for start in sorted(starts):
            if start < previous_stop:
                return False
            previous_stop = start + (len(starts[start]) >> self._access.shift)
        return True

    def _commit_one_by_one(self) -> None:
        """One of the writes failed: repeat each by itself, which changes no content, to tell which."""
        flags = p.CMD_FLAG_FUA if self._must_flush else 0
        for cookie, (start, payload) in zip(self._cookies[1:], self._writes, strict=True):
            (number,) = p.COOKIE.unpack(cookie)
            offset = start << self._access.shift
            self._put(self._handler.answer(Request(flags, p.CMD_WRITE, number, offset, len(payload), payload)))

    def _other(self, at: int, end: int) -> int:
        """Answer a request that is no plain read or write; returns its bytes, or 0 where it is not complete."""
        view = self._in.view
        magic, flags, command, cookie, offset, length = p.REQUEST.unpack_from(view, at)
        stop: int
        if magic != p.REQUEST_MAGIC:
            raise ProtocolError(f"NBD: a request begins with {magic:#x}")
        payload = None
        start = stop = at + _HEAD_BYTES
        if command == p.CMD_WRITE:
            if length > p.MAX_PAYLOAD_BYTES:
                self._refuse_oversize(Request(flags, command, cookie, offset, length))
            stop = start + length
            if stop > end:
                return 0
            payload = view[start:stop]
            if flags == p.CMD_FLAG_FUA and self._gather(payload, cookie, offset):
                return stop - at
        if self._writes:
            self._commit()
        request = Request(flags, command, cookie, offset, length, payload)
        if command == p.CMD_DISCONNECT:
            self._end()
        elif command != p.CMD_READ:
            self._put(self._handler.answer(request))
        elif refusal := self._handler.refuse_read(request):
            self._put(refusal)
        else:  # with a flag that is kept anyhow: a reply is never in fragments
            self._read(p.COOKIE.pack(cookie), offset, length)
        return stop - at

    def _gather(self, payload: memoryview, cookie: int, offset: int) -> bool:
        """Put a write that must be durable with the others, if it is aligned: one flush then does for all of them."""
        length = len(payload)
        if (offset | length) & self._access.mask or not offset < offset + length <= self._whole_end():
            return False
        self._writes.append((offset >> self._access.shift, payload))
        self._cookies.append(p.COOKIE.pack(cookie))
        self._must_flush = True
        return True

    def _refuse_oversize(self, request: Request) -> NoReturn:
        """What follows cannot be told from the payload, so the refusal ends the connection."""
        if self._writes:
            self._commit()
        self._put(self._handler.error_reply(request, p.EINVAL, "a write of more than 32 MiB"))
        self._end()

    def _end(self) -> NoReturn:
        if self._used > _BASE:
            self._send()
        raise _Ended

    def _read(self, cookie: bytes, offset: int, length: int) -> None:
        used = self._used
        if used > _BASE and used + self._read_head_bytes + length > _WINDOW_END:
            self._send()
            used = _BASE
        if not 0 < length <= p.MAX_PAYLOAD_BYTES or offset + length > self._volume.size_bytes:
            self._put(self._handler.refuse_read(_read_request(cookie, offset, length)))
            return
        view, start = self._out.view, used + self._read_head_bytes
        stop = start + length
        try:
            if (offset | length) & self._access.mask:
                self._access.read(offset, view[start:stop])
            else:
                self._volume.read_into(offset >> self._access.shift, view[start:stop])
        except Exception as error:  # noqa: BLE001, RUF100 - see _commit
            self._put(self._handler.failure_reply(_read_request(cookie, offset, length), error))
            return
        if self._structured:
            _DATA_HEAD.pack_into(view, used, _DATA_REPLY, cookie, length + 8, offset)
        else:
            view[used:start] = _GOOD_REPLY + cookie
        self._used = stop
        if stop > _WINDOW_END:
            self._send()

    def _put(self, reply: bytes) -> None:
        """Gather a reply."""
        if self._used + len(reply) > _WINDOW_END:
            self._send()
        after = self._used + len(reply)
        self._out.view[self._used : after] = reply
        self._used = after

    def _send(self) -> None:
        """Send what was gathered."""
        used, self._used = self._used, _BASE
        self._socket.sendall(self._out.view[_BASE:used])
        if used > _KEEP_BYTES:
            self._out.give_back()


def _read_request(cookie: bytes, offset: int, length: int) -> Request:
    return Request(0, p.CMD_READ, p.COOKIE.unpack(cookie)[0], offset, length)
