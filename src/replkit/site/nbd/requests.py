"""Answers to the requests that the hot loop does not carry out itself: a table of commands, and the checks before each.

A request that is refused or that fails changes nothing beyond what the volume itself did; the connection goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from replkit.site.nbd import codec
from replkit.site.nbd import protocol as p
from replkit.site.nbd.access import ByteAccess, errno_of

ErrorSink = Callable[[str, Exception], None]


class Request(NamedTuple):
    """The header of a request; ``payload`` only where it is a write."""

    flags: int
    kind: int
    cookie: int
    offset: int
    length: int
    payload: memoryview | None = None


class _Refused(Exception):  # noqa: N818 - an answer
    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number
        self.text = text


class Command(NamedTuple):
    """What a command may carry and what it does; its function returns a reply where it is no plain success."""

    run: Callable[[Request], bytes | None]
    flags: int = 0
    changes: bool = False
    past_end: int = p.EINVAL
    """The error that the specification wants for a range beyond the end."""
    has_range: bool = True


class RequestHandler:
    """Answers one connection's requests."""

    def __init__(
        self,
        access: ByteAccess,
        *,
        name: str,
        read_only: bool,
        structured: bool,
        allocation_context: bool,
        on_error: ErrorSink,
    ) -> None:
        self._access = access
        self._name = name
        self._read_only = read_only
        self._structured = structured
        self._allocation_context = allocation_context
        self._on_error = on_error
        zero_flags = p.CMD_FLAG_NO_HOLE | p.CMD_FLAG_FAST_ZERO
        self._commands = {
            p.CMD_WRITE: Command(self._write, changes=True, past_end=p.ENOSPC),
            p.CMD_FLUSH: Command(self._flush, has_range=False),
            p.CMD_TRIM: Command(self._trim, changes=True),
            p.CMD_CACHE: Command(self._cache),
            p.CMD_WRITE_ZEROES: Command(self._write_zeroes, flags=zero_flags, changes=True, past_end=p.ENOSPC),
            p.CMD_BLOCK_STATUS: Command(self._block_status, flags=p.CMD_FLAG_REQ_ONE),
        }

    def answer(self, request: Request) -> bytes:
        """Carry ``request`` out and return the reply."""
        try:
            command = self._check(request)
            reply = command.run(request)
            if command.changes and request.flags & p.CMD_FLAG_FUA:
                self._access.volume.flush()
        except _Refused as refusal:
            return self.error_reply(request, refusal.number, refusal.text)
        except Exception as error:  # noqa: BLE001, RUF100 - whatever a backend raises, the client gets an answer
            return self.failure_reply(request, error)
        return codec.simple_reply(request.cookie) if reply is None else reply

    def failure_reply(self, request: Request, error: Exception) -> bytes:
        """The reply to a request whose call on the volume raised ``error``, which is told to the site too."""
        what = f"NBD export {self._name!r}: command {request.kind} at {request.offset} of {request.length} bytes failed"
        self._on_error(what, error)
        return self.error_reply(request, errno_of(error), str(error))

    def error_reply(self, request: Request, number: int, text: str) -> bytes:
        """A refusal in the form that the client negotiated."""
        if self._structured:
            return codec.structured_error(request.cookie, number, text)
        return codec.simple_reply(request.cookie, number)

    def refuse_read(self, request: Request) -> bytes:
        """The refusal of a read, or nothing when it may go on."""
        if request.flags & ~(p.CMD_FLAG_FUA | p.CMD_FLAG_DF):
            return self.error_reply(request, p.EINVAL, f"flags {request.flags:#x} are not known for a read")
        if not 0 < request.length <= p.MAX_PAYLOAD_BYTES:
            return self.error_reply(request, p.EINVAL, f"a read of {request.length} bytes is not 1 byte to 32 MiB")
        if request.offset + request.length > self._access.volume.size_bytes:
            return self.error_reply(request, p.EINVAL, "the range ends beyond the volume")
        return b""

    def _check(self, request: Request) -> Command:
        command = self._commands.get(request.kind)
        if command is None:
            raise _Refused(p.EINVAL, f"command {request.kind} is not known")
        if request.flags & ~(command.flags | p.CMD_FLAG_FUA):
            raise _Refused(p.EINVAL, f"flags {request.flags:#x} are not known for command {request.kind}")
        if command.changes and self._read_only:
            raise _Refused(p.EPERM, f"export {self._name!r} is read-only")
        if command.has_range and request.offset + request.length > self._access.volume.size_bytes:
            raise _Refused(command.past_end, "the range ends beyond the volume")
        return command

    def _write(self, request: Request) -> None:
        if request.payload:
            self._access.write(request.offset, request.payload)

    def _flush(self, request: Request) -> None:  # noqa: ARG002 - a flush covers the whole volume
        self._access.volume.flush()

    def _trim(self, request: Request) -> None:
        self._access.trim(request.offset, request.length)

    def _cache(self, request: Request) -> None:
        self._access.cache(request.offset, request.length)

    def _write_zeroes(self, request: Request) -> None:
        keep_space = bool(request.flags & p.CMD_FLAG_NO_HOLE)
        if request.flags & p.CMD_FLAG_FAST_ZERO and (keep_space or not self._access.zeroes_fast):
            raise _Refused(p.ENOTSUP, "zeroing is not faster than writing here")
        self._access.zero(request.offset, request.length, keep_space=keep_space)

    def _block_status(self, request: Request) -> bytes:
        if not self._allocation_context or not request.length:
            raise _Refused(p.EINVAL, "block status needs a negotiated metadata context and a length")
        limit = 1 if request.flags & p.CMD_FLAG_REQ_ONE else p.MAX_STATUS_EXTENTS
        extents: list[tuple[int, int]] = []
        for length, state in self._access.status(request.offset, request.length):
            if extents and extents[-1][1] == state:  # neighbours of one state are one extent
                extents[-1] = (extents[-1][0] + length, state)
            elif len(extents) == limit:
                break
            else:
                extents.append((length, state))
        return codec.block_status(request.cookie, extents)
