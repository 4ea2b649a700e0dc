"""A bundle: many records in one object, written once.

The object ends with the list of its records, so that it can be understood without the journal; all numbers
little-endian:

====== ==== =======================================================
offset size field
====== ==== =======================================================
0      4    magic ``RKB1``
4      4    format version, 1
8      16   identity of the save volume
24          records, one right behind the other
e-32-n n    list: msgpack array of ``[key, offset, size, XXH3-64]``; offsets count from the start of the object
e-32   8    length of the list
e-24   8    XXH3-64 of the list
e-16   8    XXH3-64 of bytes 0 to 23
e-8    8    XXH3-64 of bytes e-32 to e-9
====== ==== =======================================================

where e is the end of the object.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
from xxhash import xxh3_64_intdigest

from replkit.errors import CorruptRecordError

TARGET_BYTES = 8 << 20
"""A bundle that has reached this size takes small records only: the lists and the header of its set."""
FULL_BYTES = 9 << 20
"""One that has reached this size takes none."""
SMALL_RECORD_BYTES = 64 << 10
MAX_BYTES = 16 << 20
"""No bundle is larger, but one whose single record is."""
_HEAD = struct.Struct("<4sI16s")
_FOOT = struct.Struct("<QQQ")
_CHECKSUM = struct.Struct("<Q")
HEAD_BYTES, FOOT_BYTES = _HEAD.size, _FOOT.size + _CHECKSUM.size
_MAGIC, _FORMAT = b"RKB1", 1

Record = tuple[str, int, int, int]
"""Key, offset in the object, size, XXH3-64."""


class Place(NamedTuple):
    """Where a record is, and its checksum."""

    bundle: str
    offset: int
    size: int
    checksum: int


@dataclass(eq=False)
class Bundle:
    """What the producer knows of a bundle. ``data`` is there until the object is durable in the store."""

    name: str
    size: int = HEAD_BYTES
    records: list[Record] = field(default_factory=list)
    """All records, while ``data`` is there."""
    data: dict[int, bytes] | None = None
    """Records by offset."""
    live: dict[str, int] = field(default_factory=dict)
    """Sizes of the records that are in use, by key."""
    live_bytes: int = 0
    """Their sum."""
    published: int = 0
    """How many records the published state has in it; the object is needed while there are any."""
    is_sealed: bool = False
    is_running: bool = False
    """An upload is running."""
    was_tried: bool = False
    """The object may be in the store."""
    failure: Exception | None = None
    is_damaged: bool = False
    """A record of it cannot be read."""

    @property
    def key(self) -> str:
        """Key of the object."""
        return bundle_key(self.name)

    @property
    def is_durable(self) -> bool:
        """Whether the object is in the store for certain."""
        return self.data is None

    @property
    def is_needless(self) -> bool:
        """Whether nothing names it: no record in use, none published."""
        return not self.live and not self.published

    def takes(self, size: int) -> bool:
        """Whether a record of this size still goes into it."""
        limit = FULL_BYTES if size <= SMALL_RECORD_BYTES else TARGET_BYTES
        return self.size < limit and (not self.records or self.size + size <= MAX_BYTES)

    def add(self, key: str, data: bytes, checksum: int) -> Place:
        """Append a record that is kept in memory until the upload is done."""
        assert self.data is not None  # noqa: S101 - only a bundle that is not durable is appended to
        place = Place(self.name, self.size, len(data), checksum)
        self.records.append((key, place.offset, place.size, checksum))
        self.data[place.offset] = data if data else self.data.get(place.offset, b"")  # an empty one has no place
        self.use(key, place.size)
        self.size += place.size
        return place

    def use(self, key: str, size: int) -> None:
        """The record is in use."""
        self.live[key] = size
        self.live_bytes += size

    def unuse(self, key: str) -> None:
        """The record was deleted or moved."""
        self.live_bytes -= self.live.pop(key)


def bundle_key(name: str) -> str:
    """Key of the object of a bundle."""
    return f"bundles/{name}"


def encode_bundle(identity: bytes, bundle: Bundle) -> list[bytes]:
    """The parts of the object."""
    head = _HEAD.pack(_MAGIC, _FORMAT, identity)
    table = msgspec.msgpack.encode(bundle.records)
    foot = _FOOT.pack(len(table), xxh3_64_intdigest(table), xxh3_64_intdigest(head))
    records = (bundle.data or {}).values()
    return [head, *(data for data in records if data), table, foot, _CHECKSUM.pack(xxh3_64_intdigest(foot))]


def decode_table(key: str, data: bytes, identity: bytes) -> Sequence[Record]:
    """The list of records of a whole object; ``CorruptRecordError`` names the object (invariant 12)."""
    if len(data) < HEAD_BYTES + FOOT_BYTES or data[:4] != _MAGIC:
        raise CorruptRecordError(f"{key}: is no bundle: {len(data)} bytes, magic {data[:4]!r}")
    foot = data[-FOOT_BYTES : -_CHECKSUM.size]
    length, table_checksum, head_checksum = _FOOT.unpack(foot)
    if _CHECKSUM.unpack(data[-_CHECKSUM.size :])[0] != xxh3_64_intdigest(foot):
        raise CorruptRecordError(f"{key}: the foot of the bundle is damaged")
    _, form, owner = _HEAD.unpack_from(data)
    if head_checksum != xxh3_64_intdigest(data[:HEAD_BYTES]) or form != _FORMAT or owner != identity:
        raise CorruptRecordError(f"{key}: the head is damaged, or of another save volume or format")
    end = len(data) - FOOT_BYTES
    table = data[max(HEAD_BYTES, end - length) : end]
    if xxh3_64_intdigest(table) != table_checksum:
        raise CorruptRecordError(f"{key}: the list of records is damaged")
    return msgspec.msgpack.decode(table, type=list[Record])
