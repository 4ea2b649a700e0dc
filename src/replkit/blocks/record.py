"""The envelope of every small record: magic, version, lengths checked before allocation, one checksum over all.

The field table is in ``docs/reference/formats.md``; a test compares it with ``ENVELOPE_FIELDS``.
"""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING, Final

from xxhash import xxh3_64

from replkit.errors import CorruptRecordError

if TYPE_CHECKING or sys.version_info < (3, 14):
    from backports import zstd
else:
    from compression import zstd

ENVELOPE_FIELDS: Final = (
    ("magic", "4s"),
    ("version", "H"),
    ("encoding", "H"),
    ("stored bytes", "Q"),
    ("plain bytes", "Q"),
)
_FIXED = struct.Struct("<" + "".join(code for _, code in ENVELOPE_FIELDS))
_CHECKSUM = struct.Struct("<Q")
ENVELOPE_BYTES = _FIXED.size + _CHECKSUM.size
_PLAIN, _ZSTD = 0, 1
_LEVEL = 1
_WORTH_BYTES = 64
_WINDOW_LOG_MAX = 24


def compress(parts: list[memoryview]) -> bytes:
    """One zstd frame of the concatenation of ``parts``, at the level that costs a cut least."""
    compressor = zstd.ZstdCompressor(level=_LEVEL)
    frame = [compressor.compress(part) for part in parts]
    frame.append(compressor.flush())
    return b"".join(frame)


def decompress(stored: memoryview, plain_bytes: int, what: str) -> bytes:
    """Undo ``compress``; never makes more than ``plain_bytes`` + 1 bytes, whatever the frame says (invariant 12)."""
    decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX})
    try:
        plain = decompressor.decompress(stored, max_length=plain_bytes + 1)
    except (zstd.ZstdError, MemoryError) as error:
        raise CorruptRecordError(f"{what}: compressed data is damaged: {error}") from error
    if len(plain) != plain_bytes or not decompressor.eof or decompressor.unused_data:
        raise CorruptRecordError(f"{what}: compressed data does not hold the announced {plain_bytes} bytes")
    return plain


def seal(magic: bytes, version: int, plain: bytes) -> bytes:
    """A record that carries ``plain``, compressed where that makes it smaller."""
    encoding, stored = _PLAIN, plain
    if len(plain) > _WORTH_BYTES:
        frame = compress([memoryview(plain)])
        if len(frame) < len(plain):
            encoding, stored = _ZSTD, frame
    fixed = _FIXED.pack(magic, version, encoding, len(stored), len(plain))
    digest = xxh3_64(fixed)
    digest.update(stored)
    return b"".join((fixed, _CHECKSUM.pack(digest.intdigest()), stored))


def unseal(magic: bytes, version: int, record: memoryview, *, max_plain_bytes: int, what: str) -> bytes:
    """The plain bytes of a record made by ``seal``; anything else is a ``CorruptRecordError`` that names ``what``."""
    if len(record) < ENVELOPE_BYTES:
        raise CorruptRecordError(f"{what}: {len(record)} bytes are too few for a record")
    found_magic, found_version, encoding, stored_bytes, plain_bytes = _FIXED.unpack_from(record)
    if found_magic != magic:
        raise CorruptRecordError(f"{what}: begins with {found_magic!r}, not with {magic!r}")
    if found_version != version:
        raise CorruptRecordError(f"{what}: has format version {found_version}; this replkit reads {version}")
    if stored_bytes != len(record) - ENVELOPE_BYTES:
        raise CorruptRecordError(f"{what}: announces {stored_bytes} bytes, holds {len(record) - ENVELOPE_BYTES}")
    if plain_bytes > max_plain_bytes:
        raise CorruptRecordError(f"{what}: announces {plain_bytes} plain bytes; at most {max_plain_bytes} can be")
    stored = record[ENVELOPE_BYTES:]
    digest = xxh3_64(record[: _FIXED.size])
    digest.update(stored)
    if _CHECKSUM.unpack_from(record, _FIXED.size)[0] != digest.intdigest():
        raise CorruptRecordError(f"{what}: checksum is wrong")
    if encoding == _ZSTD:
        return decompress(stored, plain_bytes, what)
    if encoding != _PLAIN or plain_bytes != stored_bytes:
        raise CorruptRecordError(f"{what}: encoding {encoding} of {stored_bytes} bytes as {plain_bytes} is not known")
    return bytes(stored)
