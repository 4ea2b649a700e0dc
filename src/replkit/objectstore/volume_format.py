"""What a bucket volume stores: names of objects, the root, and data objects.

A block's *place* is ``object number << 16 | slot``. A data object is its blocks, each after its checksum, then an index
of the runs that it holds; so the place alone says where the bytes of a block lie. Object numbers are
``generation << 24 | sequence``: every opening for writing takes a generation of its own, by the swap of the root, so no
two writers use a number or a key twice. The tables are in ``docs/reference/bucket-formats.md``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import islice
from operator import le
from typing import Final, Literal

import msgspec
from xxhash import xxh3_64_intdigest

from replkit.blocks.record import seal, unseal
from replkit.errors import CorruptRecordError
from replkit.objectstore.map_pages import SLOT_BITS, PageRef

ROOT_MAGIC: Final = b"RKVR"
ROOT_VERSION: Final = 1
DATA_MAGIC: Final = b"RKVD"
DATA_VERSION: Final = 1
DATA_FIELDS: Final = (("number", "Q"), ("block size", "I"), ("runs", "I"))
SEQUENCE_BITS: Final = 24
CHECKSUM_BYTES: Final = 8
MAX_SLOTS: Final = (1 << SLOT_BITS) - 1
MAX_ROOT_BYTES: Final = 16 << 20
MAX_RUNS: Final = 1 << 20
_INDEX_HEAD = struct.Struct("<" + "".join(code for _, code in DATA_FIELDS))
_CHECKSUM = struct.Struct("<Q")
_SEED_STEP = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_GROUP_BITS = 12

ObjectKind = Literal["data", "map"]


class WriterRow(msgspec.Struct, frozen=True, array_like=True):
    """One generation of which objects are left: the tag in their keys, and how many there are."""

    tag: str
    objects: int


class Unclean(msgspec.Struct, frozen=True, array_like=True):
    """An earlier writer that may have left objects which nothing names: those from ``first_sequence`` on."""

    generation: int
    tag: str
    first_sequence: int


class DataRow(msgspec.Struct, frozen=True, array_like=True):
    """A data object: blocks of data in it, and the length of its index."""

    number: int
    blocks: int
    index_bytes: int


class PackRow(msgspec.Struct, frozen=True, array_like=True):
    """A pack of map pages: bytes of its pages, how many of them are still named, and the length of its index."""

    page_bytes: int
    live_bytes: int
    index_bytes: int


class Condemned(msgspec.Struct, frozen=True, array_like=True):
    """Objects that root ``version`` and later ones do not name; deleted after a later swap, if no hold is older."""

    version: int
    kind: ObjectKind
    numbers: tuple[int, ...]


class Root(msgspec.Struct, kw_only=True):
    """The root cell of a bucket volume: all that can be seen of the volume is what this names."""

    volume: str
    block_size: int
    size_bytes: int
    site: str = ""
    owner: str = ""
    epoch: int = 0
    generation: int = 0
    next_sequence: int = 0
    writers: dict[int, WriterRow] = {}
    unclean: tuple[Unclean, ...] = ()
    block_top: dict[int, PageRef] = {}
    object_top: dict[int, PageRef] = {}
    packs: dict[int, PackRow] = {}
    recent: tuple[DataRow, ...] = ()
    condemned: tuple[Condemned, ...] = ()
    stored_blocks: int = 0
    live_blocks: int = 0


def encode_root(root: Root) -> bytes:
    """The value of the root cell."""
    return seal(ROOT_MAGIC, ROOT_VERSION, msgspec.msgpack.encode(root))


def decode_root(value: bytes, what: str) -> Root:
    """The root of a value made by ``encode_root``; ``CorruptRecordError`` for anything else."""
    plain = unseal(ROOT_MAGIC, ROOT_VERSION, memoryview(value), max_plain_bytes=MAX_ROOT_BYTES, what=what)
    try:
        root = msgspec.msgpack.decode(plain, type=Root)
    except msgspec.MsgspecError as error:
        raise CorruptRecordError(f"{what}: is no root of a bucket volume: {error}") from error
    size = root.block_size
    if size < 512 or size & (size - 1) or root.size_bytes < 0 or root.generation not in root.writers:
        raise CorruptRecordError(f"{what}: block size {size}, {root.size_bytes} bytes, writer {root.generation}")
    return root


def group_prefix(kind: ObjectKind, generation: int, tag: str, group: int) -> str:
    """What the keys of 4,096 neighbouring objects of one writer begin with."""
    return f"{kind}/{generation:06x}-{tag}/{group:03x}/"


def object_key(kind: ObjectKind, number: int, tag: str) -> str:
    """Key of an object, below the prefix of the volume."""
    generation, sequence = number >> SEQUENCE_BITS, number & ((1 << SEQUENCE_BITS) - 1)
    return f"{group_prefix(kind, generation, tag, sequence >> _GROUP_BITS)}{sequence & ((1 << _GROUP_BITS) - 1):03x}"


def group_of(sequence: int) -> int:
    """The group in which an object with this sequence lies."""
    return sequence >> _GROUP_BITS


def stride(block_size: int) -> int:
    """Bytes that a block takes in a data object."""
    return block_size + CHECKSUM_BYTES


def _seed(block: int, place: int) -> int:
    return (place * _SEED_STEP + block) & _MASK


def pack_blocks(out: memoryview, block_size: int, block: int, place: int, blocks: Iterable[bytes | memoryview]) -> None:
    """Fill ``out`` with consecutive blocks, each after its checksum."""
    step = stride(block_size)
    seed, at = _seed(block, place), 0
    for data in blocks:
        _CHECKSUM.pack_into(out, at, xxh3_64_intdigest(data, seed))
        out[at + CHECKSUM_BYTES : at + step] = data
        seed = (seed + _SEED_STEP + 1) & _MASK
        at += step


def unpack_blocks(raw: memoryview, block_size: int, block: int, place: int, *, out: memoryview, what: str) -> None:
    """Copy consecutive blocks from ``raw`` to ``out``; the first whose checksum is wrong is named in the error."""
    step = stride(block_size)
    seed, at = _seed(block, place), 0
    for to in range(0, out.nbytes, block_size):
        data = raw[at + CHECKSUM_BYTES : at + step]
        if _CHECKSUM.unpack_from(raw, at)[0] != xxh3_64_intdigest(data, seed):
            raise CorruptRecordError(
                f"{what}: block {block + to // block_size} (slot {(place & MAX_SLOTS) + to // block_size}): "
                "checksum is wrong",
                hint="restore the block from another replica",
            )
        out[to : to + block_size] = data
        seed = (seed + _SEED_STEP + 1) & _MASK
        at += step


Run = tuple[int, int]
"""First block and count of a run; a negative count is a discard of as many blocks."""


def encode_index(number: int, block_size: int, runs: Sequence[Run]) -> bytes:
    """The index at the end of a data object; runs are ascending, and data lies in this order."""
    starts = struct.pack(f"<{len(runs)}Q", *(start for start, _ in runs))
    counts = struct.pack(f"<{len(runs)}q", *(count for _, count in runs))
    return seal(DATA_MAGIC, DATA_VERSION, _INDEX_HEAD.pack(number, block_size, len(runs)) + starts + counts)


def decode_index(row: DataRow, block_size: int, record: memoryview, what: str) -> list[Run]:
    """Runs of an index made by ``encode_index`` for this object; ``CorruptRecordError`` for anything else."""
    most_bytes = _INDEX_HEAD.size + 16 * MAX_RUNS
    plain = unseal(DATA_MAGIC, DATA_VERSION, record, max_plain_bytes=most_bytes, what=what)
    if len(plain) < _INDEX_HEAD.size:
        raise CorruptRecordError(f"{what}: {len(plain)} bytes are too few for its head")
    number, found_size, count = _INDEX_HEAD.unpack_from(plain)
    if (number, found_size) != (row.number, block_size):
        raise CorruptRecordError(f"{what}: is of object {number:x} with blocks of {found_size} bytes")
    if len(plain) != _INDEX_HEAD.size + count * 16:
        raise CorruptRecordError(f"{what}: {count} runs do not fill {len(plain)} bytes")
    starts = struct.unpack_from(f"<{count}Q", plain, _INDEX_HEAD.size)
    counts = struct.unpack_from(f"<{count}q", plain, _INDEX_HEAD.size + 8 * count)
    stops = [start + abs(length) for start, length in zip(starts, counts, strict=True)]
    in_order = 0 not in counts and all(map(le, stops, islice(starts, 1, None))) and (not stops or stops[-1] < 1 << 61)
    if not in_order or sum(length for length in counts if length > 0) != row.blocks:
        raise CorruptRecordError(f"{what}: its runs are not ascending runs of {row.blocks} blocks")
    return list(zip(starts, counts, strict=True))
