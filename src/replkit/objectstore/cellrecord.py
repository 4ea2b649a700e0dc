"""One version of a cell as it lies in the bucket.

All numbers little-endian:

====== ==== =======================================================
offset size field
====== ==== =======================================================
0      4    magic ``RKC1``
4      2    format version, 1
6      1    kind: ``V`` a version, ``R`` retired (version 1 only)
7      1    zero
8      8    version of the cell
16     16   token of the swap
32     240  tokens of the 15 versions before, newest first; zeros where there was none
272    8    length of the value
280    8    XXH3-64 of the value
288    8    XXH3-64 of bytes 0 to 287, seeded with the XXH3-64 of the cell's name
296    n    value
====== ==== =======================================================
"""

from __future__ import annotations

import struct

import msgspec
from xxhash import xxh3_64_intdigest

from replkit.errors import CorruptRecordError

TOKEN_BYTES = 16
ANCESTORS = 15
_HEAD = struct.Struct(f"<4sHcxQ{TOKEN_BYTES}s{ANCESTORS * TOKEN_BYTES}sQQ")
_CHECKSUM = struct.Struct("<Q")
HEAD_BYTES = _HEAD.size + _CHECKSUM.size
_MAGIC, _FORMAT = b"RKC1", 1
_VERSION, _RETIRED = b"V", b"R"


class CellHead(msgspec.Struct, frozen=True, kw_only=True):
    """What the head of a version says. ``ancestors[i]`` is the token of version ``version - 1 - i``."""

    version: int
    token: bytes
    ancestors: tuple[bytes, ...] = ()
    is_retired: bool = False
    size: int = 0
    checksum: int = 0

    def token_of(self, version: int) -> bytes | None:
        """Token of this version or one of the 15 before; ``None`` for any other."""
        if version == self.version:
            return self.token
        index = self.version - 1 - version
        return self.ancestors[index] if 0 <= index < len(self.ancestors) else None

    def successor(self, token: bytes) -> CellHead:
        """The head of the next version."""
        return CellHead(version=self.version + 1, token=token, ancestors=(self.token, *self.ancestors)[:ANCESTORS])


def encode_cell(name: str, head: CellHead, value: bytes) -> bytes:
    """The object of one version."""
    fixed = _HEAD.pack(
        _MAGIC, _FORMAT, _RETIRED if head.is_retired else _VERSION, head.version, head.token,
        b"".join(head.ancestors), len(value), xxh3_64_intdigest(value),
    )  # fmt: skip
    return fixed + _CHECKSUM.pack(_seal(name, fixed)) + value


def decode_head(name: str, key: str, data: bytes) -> CellHead:
    """Check the head; ``CorruptRecordError`` names the object (invariant 12)."""
    if len(data) < HEAD_BYTES or data[:4] != _MAGIC:
        raise CorruptRecordError(f"{key}: is no version of a cell: {len(data)} bytes, magic {data[:4]!r}")
    fixed = data[: _HEAD.size]
    if _CHECKSUM.unpack_from(data, _HEAD.size)[0] != _seal(name, fixed):
        raise CorruptRecordError(f"{key}: the head of cell {name} is damaged")
    _, form, kind, version, token, chain, size, checksum = _HEAD.unpack(fixed)
    if form != _FORMAT or kind not in {_VERSION, _RETIRED}:
        raise CorruptRecordError(f"{key}: format {form} kind {kind!r} of a cell is unknown", hint="update replkit")
    tokens = [chain[index : index + TOKEN_BYTES] for index in range(0, len(chain), TOKEN_BYTES)]
    return CellHead(
        version=version,
        token=token,
        ancestors=tuple(one for one in tokens if any(one)),
        is_retired=kind == _RETIRED,
        size=size,
        checksum=checksum,
    )


def decode_cell(name: str, key: str, data: bytes) -> tuple[CellHead, bytes]:
    """Check head and value."""
    head, value = decode_head(name, key, data), data[HEAD_BYTES:]
    if len(value) != head.size or xxh3_64_intdigest(value) != head.checksum:
        raise CorruptRecordError(f"{key}: the value of cell {name} is damaged")
    return head, value


def _seal(name: str, fixed: bytes) -> int:
    return xxh3_64_intdigest(fixed, seed=xxh3_64_intdigest(name.encode()))
