"""A small NBD client: what the demo, ``compare`` and tests need to read and write an export by bytes.

Fixed newstyle with ``NBD_OPT_GO`` and simple replies. One thread uses a client at a time.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from replkit.contracts.buffers import Buffer
from replkit.errors import InvalidArgumentError, LinkClosedError, NotFoundError, ProtocolError, VolumeFailedError
from replkit.site.nbd import protocol as p

MAX_REQUEST_BYTES = 1 << 20
MAX_IN_FLIGHT = 16


class NbdClient:
    """A connection to one export of a server at ``unix:/path`` or ``host:port``."""

    def __init__(self, address: str, export: str, *, timeout_s: float = 30.0) -> None:
        self.address = address
        self.export = export
        self._cookie = 0
        try:
            self._socket = _connect(address, timeout_s)
        except OSError as error:
            raise LinkClosedError(f"no NBD server answers at {address}: {error}") from error
        try:
            self.size_bytes, self.flags = self._negotiate(export.encode())
        except BaseException:
            self._socket.close()
            raise

    @property
    def read_only(self) -> bool:
        """Whether the server refuses writes."""
        return bool(self.flags & p.CAN_READ_ONLY)

    def read(self, offset: int, count: int) -> bytearray:
        """The bytes ``[offset, offset + count)``."""
        data = bytearray(count)
        view = memoryview(data)
        for at in range(0, count, MAX_REQUEST_BYTES):
            part = view[at : at + MAX_REQUEST_BYTES]
            self._send(p.CMD_READ, offset + at, len(part))
            self._take_reply("read", offset + at)
            self._fill(part)
        return data

    def write_many(self, writes: Iterable[tuple[int, Buffer]]) -> int:
        """Write all ``(offset, data)``, several in flight; return the bytes written. Durable after ``flush``."""
        in_flight = written = 0
        for offset, data in writes:
            view = memoryview(data).cast("B")
            for at in range(0, len(view), MAX_REQUEST_BYTES):
                part = view[at : at + MAX_REQUEST_BYTES]
                self._send(p.CMD_WRITE, offset + at, len(part), part)
                written += len(part)
                in_flight += 1
                if in_flight == MAX_IN_FLIGHT:
                    self._take_reply("write", offset + at)
                    in_flight -= 1
        for _ in range(in_flight):
            self._take_reply("write", 0)
        return written

    def write(self, offset: int, data: Buffer) -> None:
        """Write ``data`` from ``offset``."""
        self.write_many([(offset, data)])

    def flush(self) -> None:
        """Return when every write that was answered is durable."""
        self._send(p.CMD_FLUSH, 0, 0)
        self._take_reply("flush", 0)

    def trim(self, offset: int, count: int) -> None:
        """Give the bytes back: they read as zeros."""
        self._send(p.CMD_TRIM, offset, count)
        self._take_reply("trim", offset)

    def close(self) -> None:
        """Say goodbye and disconnect."""
        try:
            self._send(p.CMD_DISCONNECT, 0, 0)
        except LinkClosedError:
            return
        finally:
            self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _negotiate(self, name: bytes) -> tuple[int, int]:
        magic, option_magic, _flags = p.GREETING.unpack(self._receive(p.GREETING.size))
        if (magic, option_magic) != (p.NBD_MAGIC, p.OPTION_MAGIC):
            raise ProtocolError(f"{self.address} does not speak NBD (fixed newstyle)")
        data = p.U32.pack(len(name)) + name + p.U16.pack(0)
        client_flags = p.CLIENT_FLAGS.pack(p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES)
        self._send_all(client_flags + p.OPTION.pack(p.OPTION_MAGIC, p.OPT_GO, len(data)) + data)
        found: tuple[int, int] | None = None
        while True:
            magic, _option, reply, length = p.OPTION_REPLY.unpack(self._receive(p.OPTION_REPLY.size))
            if magic != p.OPTION_REPLY_MAGIC or length > MAX_REQUEST_BYTES:
                raise ProtocolError(f"{self.address} answered with what is no option reply")
            body = self._receive(length)
            if reply == p.REP_ACK:
                break
            if reply & 0x80000000:
                raise NotFoundError(f"{self.address} does not serve {self.export!r}: {body.decode(errors='replace')}")
            if reply == p.REP_INFO and len(body) == p.INFO_EXPORT_REPLY.size:
                info, size_bytes, flags = p.INFO_EXPORT_REPLY.unpack(body)
                found = (size_bytes, flags) if info == p.INFO_EXPORT else found
        if found is None:
            raise ProtocolError(f"{self.address} did not tell the size of {self.export!r}")
        return found

    def _send(self, command: int, offset: int, count: int, data: Buffer = b"") -> None:
        self._cookie += 1
        self._send_all(p.REQUEST.pack(p.REQUEST_MAGIC, 0, command, self._cookie, offset, count))
        if command == p.CMD_WRITE:
            self._send_all(data)

    def _take_reply(self, what: str, offset: int) -> None:
        magic, error, _cookie = p.SIMPLE_REPLY.unpack(self._receive(p.SIMPLE_REPLY.size))
        if magic != p.SIMPLE_REPLY_MAGIC:
            raise ProtocolError(f"{self.address} answered with what is no reply")
        if error:
            raise VolumeFailedError(f"{what} of {self.export!r} near byte {offset} failed with NBD error {error}")

    def _send_all(self, data: Buffer) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise LinkClosedError(f"the NBD server at {self.address} went away: {error}") from error

    def _receive(self, count: int) -> bytes:
        data = bytearray(count)
        self._fill(memoryview(data))
        return bytes(data)

    def _fill(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            try:
                count = self._socket.recv_into(view[done:])
            except OSError as error:
                raise LinkClosedError(f"the NBD server at {self.address} went away: {error}") from error
            if count == 0:
                raise LinkClosedError(f"the NBD server at {self.address} closed the connection")
            done += count


def _connect(address: str, timeout_s: float) -> socket.socket:
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout_s)
        try:
            sock.connect(address.removeprefix("unix:"))
        except OSError:
            sock.close()
            raise
        return sock
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal():
        raise InvalidArgumentError(f"NBD address {address!r} is neither unix:/path nor host:port")
    return socket.create_connection((host.strip("[]"), int(port)), timeout_s)
