"""A message, and how a byte stream carries one: a fixed prefix, a small body, an optional payload.

The frame, all numbers little-endian:

====== ==== ==========================================================
offset size field
====== ==== ==========================================================
0      2    magic ``RF``
2      1    version of the frame, 1
3      1    kind of the message
4      4    length of the body in bytes, at most 1 MiB
8      4    length of the payload in bytes, at most 64 MiB
12     4    reserved, zero
16     8    XXH3-64 of bytes 0 to 15 followed by the body
====== ==== ==========================================================

The body follows the prefix, the payload the body. The payload carries a checksum of its own in its record format.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from xxhash import xxh3_64

from replkit.contracts.buffers import Buffer
from replkit.errors import ProtocolError

PREAMBLE = b"RCP/1.0\n"
"""The first bytes of an RCP connection, sent once by the side that connects (FIG. 19, T9)."""
PREFIX_BYTES = 24
MAX_BODY_BYTES = 1 << 20
MAX_PAYLOAD_BYTES = 64 << 20
_MAGIC = b"RF"
_VERSION = 1
_PREFIX = struct.Struct("<2sBBIII")
_CHECKSUM = struct.Struct("<Q")


class Message(NamedTuple):
    """A typed header and an optional payload; the payload is passed by reference and never changed."""

    kind: int
    body: bytes = b""
    payload: Buffer = b""


class Prefix(NamedTuple):
    """A parsed frame prefix; ``checksum`` is verified with the body by ``check_body``."""

    kind: int
    body_bytes: int
    payload_bytes: int
    covered: bytes
    checksum: int


def encode_frame_head(message: Message) -> bytes:
    """Prefix and body of the frame; the caller sends the payload after it."""
    fixed = _PREFIX.pack(_MAGIC, _VERSION, message.kind, len(message.body), memoryview(message.payload).nbytes, 0)
    return fixed + _CHECKSUM.pack(xxh3_64(fixed + message.body).intdigest()) + message.body


def parse_prefix(data: Buffer) -> Prefix:
    """Parse the ``PREFIX_BYTES`` of a frame; lengths are refused before anything is allocated for them."""
    fixed = bytes(memoryview(data)[: _PREFIX.size])
    magic, version, kind, body_bytes, payload_bytes, reserved = _PREFIX.unpack(fixed)
    if magic != _MAGIC:
        raise ProtocolError(f"frame begins with {magic!r}, not with {_MAGIC!r}")
    if version != _VERSION:
        raise ProtocolError(f"frame has version {version}; this side knows {_VERSION}")
    if body_bytes > MAX_BODY_BYTES or payload_bytes > MAX_PAYLOAD_BYTES or reserved:
        raise ProtocolError(f"frame announces {body_bytes} + {payload_bytes} bytes, more than is allowed")
    (checksum,) = _CHECKSUM.unpack_from(data, _PREFIX.size)
    return Prefix(kind, body_bytes, payload_bytes, fixed, checksum)


def check_body(prefix: Prefix, body: bytes) -> None:
    """Refuse a body whose checksum is not the one that the prefix announced."""
    if xxh3_64(prefix.covered + body).intdigest() != prefix.checksum:
        raise ProtocolError(f"frame of kind {prefix.kind}: checksum of prefix and body is wrong")
