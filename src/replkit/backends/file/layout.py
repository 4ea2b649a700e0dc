"""What a file save volume looks like on disk.

A save volume is a directory::

    format.json          written last when it is created: identity and layout; without it there is no save volume
    lock                 the producer holds an flock on it
    cells.sqlite3        the cells
    feed                 a ring in shared memory that tells readers of puts and deletes; worth nothing after a crash
    sets, areas, lists   one file a partition, an array of slots

A *segment* is a run of neighbouring slots: two copies of a segment head, then records, each at a multiple of 512 bytes
with the next one right behind it, then an end mark if the segment was closed in peace. A segment whose records are all
deleted gives its slots back, as a wrap-around buffer does (FIG. 8). All numbers little-endian. Segment head:

====== ==== =======================================================
offset size field
====== ==== =======================================================
0      4    magic ``RKS1``
4      4    version, 1
8      8    generation of the segment, larger than that of any earlier one of the partition
16     8    offset of the segment in the file
24     8    XXH3-64 of bytes 0 to 23, seeded with the identity
====== ==== =======================================================

Record head, 512 bytes with the key and zeros; the data follows, padded to 512 bytes:

====== ==== =======================================================
offset size field
====== ==== =======================================================
0      4    magic ``RKR1``
4      2    version, 1
6      1    state: ``L`` live, ``D`` deleted, ``E`` end mark; overwritten in place, in no checksum
7      1    length of the key
8      8    sequence number of the put; the upper 24 bits count the producers
16     8    generation of the segment
24     8    highest sequence number known to be durable when this was written
32     8    offset of this head in the file
40     8    length of the data
48     8    XXH3-64 of the data
56     8    XXH3-64 of bytes 0 to 55 (state as 0) and the key, seeded with the identity
64     n    key
====== ==== =======================================================
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import msgspec
from xxhash import xxh3_64_intdigest

from replkit.contracts.savevolume import Partition
from replkit.errors import CorruptRecordError, InvalidArgumentError

SECTOR_BYTES = 512
SEGMENT_HEAD_BYTES = 2 * SECTOR_BYTES
STATE_OFFSET = 6
LIVE, DEAD, END = b"L", b"D", b"E"
FORMAT_VERSION = 1
DEFAULT_CAPACITY_BYTES = 1 << 30
MIN_CAPACITY_BYTES = 1 << 20
SHARES = {Partition.SETS: 60, Partition.AREAS: 30, Partition.LISTS: 10}
"""Percent of the capacity that each partition has as its quota (invariant 11)."""

_SEGMENT = struct.Struct("<4sIQQ")
_RECORD = struct.Struct("<4sHBBQQQQQQ")
_CHECKSUM = struct.Struct("<Q")
_KEY_OFFSET = _RECORD.size + _CHECKSUM.size
_SEGMENT_MAGIC, RECORD_MAGIC = b"RKS1", b"RKR1"
_MAX_SEGMENT_BYTES = 64 << 20
_MIN_SLOT_BYTES, _MAX_SLOT_BYTES = 4 << 10, 4 << 20


class PartitionLayout(msgspec.Struct, frozen=True, kw_only=True):
    """Slots of one partition file; a segment that is as long as ``segment_bytes`` is not extended any more."""

    slot_bytes: int
    slot_count: int
    segment_bytes: int

    @property
    def size_bytes(self) -> int:
        """Size of the partition file when all slots are in it."""
        return self.slot_bytes * self.slot_count


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """Contents of ``format.json``."""

    version: int
    identity: int
    capacity_bytes: int
    partitions: dict[Partition, PartitionLayout]


class RecordHead(NamedTuple):
    """A record head that passed its checks."""

    state: bytes
    key: str
    sequence: int
    generation: int
    synced: int
    offset: int
    size: int
    checksum: int

    @property
    def next_offset(self) -> int:
        """Where the next record of the segment begins."""
        return self.offset + span_bytes(self.size)


def plan(capacity_bytes: int, identity: int) -> Layout:
    """Divide a capacity: about a thousand slots a partition, about 32 segments, so small ones work too."""
    if capacity_bytes < MIN_CAPACITY_BYTES:
        raise InvalidArgumentError(f"a file save volume has at least {MIN_CAPACITY_BYTES} bytes, not {capacity_bytes}")
    partitions = {}
    for partition, percent in SHARES.items():
        quota = capacity_bytes * percent // 100
        slot = min(_MAX_SLOT_BYTES, max(_MIN_SLOT_BYTES, 1 << (quota // 1024).bit_length() - 1))
        partitions[partition] = PartitionLayout(
            slot_bytes=slot, slot_count=quota // slot, segment_bytes=max(slot, min(quota // 32, _MAX_SEGMENT_BYTES))
        )
    return Layout(version=FORMAT_VERSION, identity=identity, capacity_bytes=capacity_bytes, partitions=partitions)


def decode_layout(data: bytes, where: str) -> Layout:
    """Parse ``format.json`` and refuse what no version of this code writes."""
    try:
        layout = msgspec.json.decode(data, type=Layout)
    except (msgspec.MsgspecError, ValueError) as error:
        raise CorruptRecordError(f"{where}: is no format of a save volume: {error}") from error
    if layout.version != FORMAT_VERSION:
        raise CorruptRecordError(f"{where}: format version {layout.version}; this side knows {FORMAT_VERSION}")
    if layout != plan(layout.capacity_bytes, layout.identity):
        raise CorruptRecordError(f"{where}: the layout is not that of a capacity of {layout.capacity_bytes} bytes")
    return layout


def span_bytes(size: int) -> int:
    """Bytes that a record with ``size`` bytes of data takes: head, data, padding."""
    return SECTOR_BYTES + -(-size // SECTOR_BYTES) * SECTOR_BYTES


def encode_segment_head(generation: int, offset: int, identity: int) -> bytes:
    """Both copies of a segment head; one of them may rot."""
    fixed = _SEGMENT.pack(_SEGMENT_MAGIC, FORMAT_VERSION, generation, offset)
    return (fixed + _CHECKSUM.pack(xxh3_64_intdigest(fixed, identity))).ljust(SECTOR_BYTES, b"\0") * 2


def decode_segment_head(data: bytes, offset: int, identity: int) -> int | None:
    """Generation in the two copies of a segment head at ``offset``, the higher one; None if there is none."""
    found = None
    for copy in (0, SECTOR_BYTES):
        fixed = data[copy : copy + _SEGMENT.size]
        if len(data) < copy + SECTOR_BYTES or not fixed.startswith(_SEGMENT_MAGIC):
            continue
        _, version, generation, own_offset = _SEGMENT.unpack(fixed)
        (checksum,) = _CHECKSUM.unpack_from(data, copy + _SEGMENT.size)
        if checksum == xxh3_64_intdigest(fixed, identity) and (version, own_offset) == (FORMAT_VERSION, offset):
            found = max(found or 0, generation)
    return found


def encode_record_head(head: RecordHead, identity: int) -> bytes:
    """The 512 bytes before the data of a record."""
    key = head.key.encode()
    rest = (head.sequence, head.generation, head.synced, head.offset, head.size, head.checksum)
    plain = _RECORD.pack(RECORD_MAGIC, FORMAT_VERSION, 0, len(key), *rest)
    checksum = _CHECKSUM.pack(xxh3_64_intdigest(plain + key, identity))
    stated = b"".join((plain[:STATE_OFFSET], head.state, plain[STATE_OFFSET + 1 :]))
    return (stated + checksum + key).ljust(SECTOR_BYTES, b"\0")


def decode_record_head(data: bytes | memoryview, offset: int, identity: int) -> RecordHead | None:
    """The record head in the first bytes of ``data``, which were read at ``offset``; None if they are none."""
    if len(data) < SECTOR_BYTES or bytes(data[:4]) != RECORD_MAGIC:
        return None
    _, version, state, key_bytes, sequence, generation, synced, own_offset, size, checksum = _RECORD.unpack_from(data)
    (own_checksum,) = _CHECKSUM.unpack_from(data, _RECORD.size)
    plain = bytearray(data[: _RECORD.size])
    plain[STATE_OFFSET] = 0
    key = bytes(data[_KEY_OFFSET : _KEY_OFFSET + key_bytes])
    if own_checksum != xxh3_64_intdigest(bytes(plain) + key, identity):
        return None
    if (version, own_offset) != (FORMAT_VERSION, offset) or bytes((state,)) not in {LIVE, DEAD, END}:
        return None
    try:
        name = key.decode()
    except UnicodeDecodeError:
        return None
    return RecordHead(bytes((state,)), name, sequence, generation, synced, offset, size, checksum)
