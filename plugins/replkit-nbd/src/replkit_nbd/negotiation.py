"""The client's handshake: structured replies and ``base:allocation`` where the server has them, then the export."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from replkit.errors import NotFoundError, ProtocolError, RefusedError
from replkit_nbd import wire as w

_MAX_REPLY_BYTES = 64 << 10


@dataclass(frozen=True, kw_only=True)
class ExportInfo:
    """What the server said of the export."""

    size_bytes: int
    flags: int
    minimum_block_bytes: int = 1
    max_payload_bytes: int = w.MAX_PAYLOAD_BYTES
    allocation_id: int | None = None
    """The id under which block status tells what is allocated; None where the server cannot."""


def receive_exactly(sock: socket.socket, view: memoryview) -> None:
    """Fill ``view``; ConnectionError when the server hangs up before."""
    while len(view):
        got = sock.recv_into(view)
        if not got:
            raise ConnectionError("the server hung up")
        view = view[got:]


def receive(sock: socket.socket, count: int) -> bytes:
    """The next ``count`` bytes."""
    data = bytearray(count)
    receive_exactly(sock, memoryview(data))
    return bytes(data)


def negotiate(sock: socket.socket, address: w.Address) -> ExportInfo:
    """Choose the export; NotFoundError where the server does not have it."""
    if receive(sock, 16) != w.GREETING:
        raise ProtocolError(f"{address.url}: this is no newstyle NBD server")
    (server_flags,) = struct.unpack(">H", receive(sock, 2))
    if not server_flags & 1:
        raise ProtocolError(f"{address.url}: the server does not speak the fixed newstyle protocol")
    sock.sendall(struct.pack(">I", server_flags & 3))
    allocation_id = None
    name = _counted(address.export)
    if _option(sock, address, w.OPT_STRUCTURED_REPLY)[-1][0] == w.REP_ACK:
        query = name + struct.pack(">I", 1) + _counted("base:allocation")
        for kind, data in _option(sock, address, w.OPT_SET_META_CONTEXT, query):
            if kind == w.REP_META_CONTEXT and data[4:] == b"base:allocation":
                (allocation_id,) = struct.unpack_from(">I", data)
    replies = _option(sock, address, w.OPT_GO, name + struct.pack(">HH", 1, w.INFO_BLOCK_SIZE))
    kind, reason = replies[-1]
    if kind != w.REP_ACK:
        what = reason.decode(errors="replace") or f"error {kind & 0xFFFF}"
        if kind == w.REP_ERR_UNKNOWN:
            raise NotFoundError(f"{address.url}: the server has no export {address.export!r}: {what}")
        raise RefusedError(f"{address.url}: the server refused the export: {what}")
    return _info(address, [data for kind, data in replies if kind == w.REP_INFO], allocation_id)


def _info(address: w.Address, infos: list[bytes], allocation_id: int | None) -> ExportInfo:
    size_bytes, flags, minimum, maximum = -1, 0, 1, w.MAX_PAYLOAD_BYTES
    for data in infos:
        if data[:2] == struct.pack(">H", w.INFO_EXPORT) and len(data) == 12:
            size_bytes, flags = struct.unpack(">QH", data[2:])
        elif data[:2] == struct.pack(">H", w.INFO_BLOCK_SIZE) and len(data) == 14:
            minimum, _, largest = struct.unpack(">III", data[2:])
            maximum = min(maximum, largest)
    if size_bytes < 0 or not minimum or maximum < minimum:
        raise ProtocolError(f"{address.url}: the server did not tell a size, or told block sizes that cannot be")
    return ExportInfo(
        size_bytes=size_bytes,
        flags=flags,
        minimum_block_bytes=minimum,
        max_payload_bytes=maximum,
        allocation_id=allocation_id,
    )


def _counted(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">I", len(data)) + data


def _option(sock: socket.socket, address: w.Address, option: int, data: bytes = b"") -> list[tuple[int, bytes]]:
    """Send an option and return its replies; the last is an acknowledgement or an error."""
    sock.sendall(w.OPTION_MAGIC + struct.pack(">II", option, len(data)) + data)
    replies: list[tuple[int, bytes]] = []
    while len(replies) < 64:
        magic, answered, kind, length = w.OPTION_REPLY.unpack(receive(sock, w.OPTION_REPLY.size))
        if magic != w.OPTION_REPLY_MAGIC or answered != option or length > _MAX_REPLY_BYTES:
            raise ProtocolError(f"{address.url}: a malformed reply to option {option}")
        replies.append((kind, receive(sock, length)))
        if kind == w.REP_ACK or kind & w.REP_ERROR:
            return replies
    raise ProtocolError(f"{address.url}: the replies to option {option} do not end")
