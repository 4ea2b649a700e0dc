"""The form of an encrypted object: a header, then segments that are decrypted one by one.

The field table is in ``docs/reference/bucket-encryption.md``; a test compares it with ``SEALED_FIELDS``. Each object
has a cipher of its own, from the key and a random salt. So a nonce need only be unique in its object: that of a segment
is its number and whether it is the last one. These two, the header and the object's name are authenticated with it, so
that nothing can be cut off, reordered, spliced or put under another name without notice.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from replkit.blocks.record import compress, decompress
from replkit.errors import CorruptRecordError
from replkit.objectstore.keys import KeyRing

SEALED_FIELDS: Final = (
    ("magic", "4s"),
    ("version", "H"),
    ("encoding", "H"),
    ("key id", "8s"),
    ("salt", "16s"),
    ("plain bytes", "Q"),
)
_FIXED = struct.Struct("<" + "".join(code for _, code in SEALED_FIELDS))
SEALED_MAGIC, SEALED_VERSION = b"RKSO", 1
SEGMENT_BYTES = 64 << 10
TAG_BYTES = 16
SALT_BYTES = 16
_RAW, _TABLE = 0, 1
_ENTRY = struct.Struct("<I")
_NONCE = struct.Struct(">Q3xB")
_HEAD_NONCE = b"\xff" * 12
_MAX_SEGMENTS = 1 << 20


def stored_at_most(plain_bytes: int) -> int:
    """Bytes that the segments of so many plain bytes take when nothing is compressed; the header comes to it."""
    return plain_bytes + -(-plain_bytes // SEGMENT_BYTES) * TAG_BYTES


@dataclass(frozen=True)
class SealedHead:
    """What the authenticated header of an object says; ``offsets`` has one more than there are segments."""

    name: str
    what: str
    cipher: AESGCM
    associated: bytes
    plain_bytes: int
    offsets: tuple[int, ...]

    @property
    def stored_bytes(self) -> int:
        """Size of the whole object."""
        return self.offsets[-1]

    def segments(self, start: int, stop: int) -> range:
        """Segments that hold the plain bytes ``[start, stop)``, of which there is at least one."""
        return range(start // SEGMENT_BYTES, -(-stop // SEGMENT_BYTES))

    def unseal(self, segments: range, stored: memoryview) -> list[bytes]:
        """Plain content of ``segments``, which ``stored`` holds; ``CorruptRecordError`` if it was altered."""
        base = self.offsets[segments.start]
        if len(stored) != self.offsets[segments.stop] - base:
            raise CorruptRecordError(f"{self.what} is cut off")
        return [
            self._unseal_one(number, stored[self.offsets[number] - base : self.offsets[number + 1] - base])
            for number in segments
        ]

    def _unseal_one(self, number: int, sealed: memoryview) -> bytes:
        is_last = number == len(self.offsets) - 2
        nonce = _NONCE.pack(number, is_last)
        try:
            data = self.cipher.decrypt(nonce, sealed, nonce + self.associated)
        except InvalidTag:
            raise CorruptRecordError(
                f"{self.what}: segment {number} is not what was encrypted", hint="the bucket altered or damaged it"
            ) from None
        expected = min(SEGMENT_BYTES, self.plain_bytes - number * SEGMENT_BYTES)
        return data if len(data) == expected else decompress(memoryview(data), expected, self.what)


def seal_object(keys: KeyRing, name: str, plain: memoryview, random_bytes: Callable[[int], bytes]) -> bytes:
    """``plain``, which is not empty, as an object of this ``name`` that only ``keys`` can read.

    Each segment is compressed if that makes it smaller, unless the whole would gain nothing.
    """
    key, salt = keys.newest, random_bytes(SALT_BYTES)
    cipher = key.cipher(salt)
    pieces: list[bytes | memoryview] = [plain[at : at + SEGMENT_BYTES] for at in range(0, len(plain), SEGMENT_BYTES)]
    frames = [_smaller(piece) for piece in pieces]
    encoding, table = _RAW, b""
    if sum(map(len, frames)) + len(frames) * _ENTRY.size < len(plain):
        encoding, pieces = _TABLE, frames
        table = b"".join(_ENTRY.pack(len(frame)) for frame in frames)
    fixed = _FIXED.pack(SEALED_MAGIC, SEALED_VERSION, encoding, bytes.fromhex(key.key_id), salt, len(plain)) + table
    associated = fixed[: _FIXED.size] + name.encode()
    sealed = [fixed, cipher.encrypt(_HEAD_NONCE, b"", fixed + name.encode())]
    for number, piece in enumerate(pieces):
        nonce = _NONCE.pack(number, number == len(pieces) - 1)
        sealed.append(cipher.encrypt(nonce, piece, nonce + associated))
    return b"".join(sealed)


def _smaller(piece: bytes | memoryview) -> bytes | memoryview:
    frame = compress([memoryview(piece)])
    return frame if len(frame) < len(piece) else piece


def head_bytes(data: bytes, what: str) -> int:
    """How long the header is that ``data``, the first bytes of an object, begins with; all of it need not be there."""
    encoding, _, _, plain_bytes = _parse_fixed(data, what)
    return _FIXED.size + TAG_BYTES + (-(-plain_bytes // SEGMENT_BYTES) * _ENTRY.size if encoding == _TABLE else 0)


def unseal_head(keys: KeyRing, name: str, data: bytes, what: str) -> SealedHead:
    """Verify the header that ``data`` begins with.

    ``KeyMissingError`` if it names another key, ``CorruptRecordError`` if it is not what was sealed under ``name``.
    """
    encoding, key_id, salt, plain_bytes = _parse_fixed(data, what)
    end = head_bytes(data, what)
    cipher = keys.find(key_id, what).cipher(salt)
    try:
        cipher.decrypt(_HEAD_NONCE, data[end - TAG_BYTES : end], data[: end - TAG_BYTES] + name.encode())
    except InvalidTag:
        raise CorruptRecordError(
            f"{what}: its header is not what was encrypted",
            hint="the bucket altered or damaged it, or it lay under another name or prefix",
        ) from None
    lengths = (
        (length for (length,) in _ENTRY.iter_unpack(data[_FIXED.size : end - TAG_BYTES]))
        if encoding == _TABLE
        else (min(SEGMENT_BYTES, plain_bytes - at) for at in range(0, plain_bytes, SEGMENT_BYTES))
    )
    offsets = [end]
    for length in lengths:
        offsets.append(offsets[-1] + length + TAG_BYTES)
    return SealedHead(name, what, cipher, data[: _FIXED.size] + name.encode(), plain_bytes, tuple(offsets))


def _parse_fixed(data: bytes, what: str) -> tuple[int, str, bytes, int]:
    if data[:4] != SEALED_MAGIC:
        raise CorruptRecordError(
            f"{what} is not encrypted, or damaged", hint="a prefix is either all encrypted or not at all"
        )
    if len(data) < _FIXED.size:
        raise CorruptRecordError(f"{what} is cut off")
    _, version, encoding, key_id, salt, plain_bytes = _FIXED.unpack_from(data)
    if version != SEALED_VERSION or encoding not in {_RAW, _TABLE}:
        raise CorruptRecordError(f"{what} is encrypted in version {version}, form {encoding}: unknown to this replkit")
    if not 0 < plain_bytes <= _MAX_SEGMENTS * SEGMENT_BYTES:  # before anything is allocated by it (invariant 12)
        raise CorruptRecordError(f"{what}: its header says {plain_bytes} bytes")
    return encoding, key_id.hex(), salt, plain_bytes
