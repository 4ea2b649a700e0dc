"""A chunk: part of a delta set in ascending block order, the unit of storing, sending and resuming (D3).

The record is a fixed part, a head (MessagePack), the columns of its pieces, and the data of its DATA pieces one after
another, plain or as one zstd frame. One checksum covers fixed part, head and pieces; another the data as stored. The
field table is in ``docs/reference/formats.md``; a test compares it with ``CHUNK_FIELDS``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import msgspec
from msgspec.structs import replace
from xxhash import xxh3_64, xxh3_128

from replkit.blocks.record import compress, decompress
from replkit.contracts.buffers import Buffer
from replkit.contracts.position import Epoch
from replkit.deltaset.header import BlockSize, Count, ShortText
from replkit.deltaset.pieces import PIECE_BYTES, Piece, data_blocks, decode_pieces, encode_pieces
from replkit.errors import CorruptRecordError, InvalidArgumentError

CHUNK_MAGIC: Final = b"RKDC"
CHUNK_VERSION: Final = 1
MAX_CHUNK_BYTES: Final = 64 << 20
"""Of a whole record, and of its plain data; what one message can carry."""
MAX_CHUNK_PIECES: Final = 1 << 20
MAX_HEAD_BYTES: Final = 4096
CHUNK_FIELDS: Final = (
    ("magic", "4s"),
    ("version", "H"),
    ("reserved", "H"),
    ("head bytes", "I"),
    ("pieces", "I"),
    ("stored bytes", "Q"),
    ("data checksum", "16s"),
    ("head checksum", "Q"),
)
_FIXED = struct.Struct("<" + "".join(code for _, code in CHUNK_FIELDS))
_CHECKSUM_BYTES: Final = 8
_COVERED_BYTES: Final = _FIXED.size - _CHECKSUM_BYTES
_CHECKSUMS = slice(_COVERED_BYTES - 16, _FIXED.size)


class ChunkHead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which part of which set a chunk is, and how its data is stored."""

    lineage: ShortText
    epoch: Epoch
    number: Count
    writer: ShortText
    index: Count
    block_size: BlockSize
    compression: Literal["none", "zstd"]
    plain_bytes: Count
    """Bytes of the data before compression: all blocks of DATA pieces, each whole."""


class Chunk(NamedTuple):
    """A decoded chunk; ``data`` is the plain content of its DATA pieces one after another."""

    head: ChunkHead
    pieces: list[Piece]
    data: memoryview


class _Fixed(NamedTuple):
    magic: bytes
    version: int
    reserved: int
    head_bytes: int
    piece_count: int
    stored_bytes: int
    data_checksum: bytes
    head_checksum: int

    @property
    def data_offset(self) -> int:
        return _FIXED.size + self.head_bytes + self.piece_count * PIECE_BYTES


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ChunkHead)


def encode_chunk(head: ChunkHead, pieces: Sequence[Piece], data: Sequence[Buffer]) -> list[Buffer]:
    """The parts of a chunk record, to be put or sent one after another; plain data is not copied.

    With ``head.compression == "zstd"`` the data is compressed if that makes it smaller; the head that is written
    says what was done.
    """
    views = [memoryview(part).cast("B") for part in data]
    plain_bytes = sum(map(len, views))
    if plain_bytes != head.plain_bytes or plain_bytes != data_blocks(pieces) * head.block_size:
        raise InvalidArgumentError(
            f"chunk {head.index} of set {head.number}: {plain_bytes} bytes of data, head says {head.plain_bytes}, "
            f"pieces have {data_blocks(pieces)} blocks of {head.block_size}"
        )
    stored: list[memoryview] = views
    compression: Literal["none", "zstd"] = "none"
    if head.compression == "zstd" and plain_bytes:
        frame = compress(views)
        if len(frame) < plain_bytes:
            compression, stored = "zstd", [memoryview(frame)]
    digest = xxh3_128()
    for view in stored:
        digest.update(view)
    head_bytes = _encoder.encode(head if head.compression == compression else replace(head, compression=compression))
    stored_bytes = sum(map(len, stored))
    tail = head_bytes + encode_pieces(pieces)
    _check_sizes(head, len(head_bytes), len(pieces), _FIXED.size + len(tail) + stored_bytes, plain_bytes)
    fixed = _FIXED.pack(CHUNK_MAGIC, CHUNK_VERSION, 0, len(head_bytes), len(pieces), stored_bytes, digest.digest(), 0)[
        :_COVERED_BYTES
    ]
    checksum = xxh3_64(fixed + tail).intdigest().to_bytes(_CHECKSUM_BYTES, "little")
    return [b"".join((fixed, checksum, tail)), *stored]


def record_checksum(record: Buffer) -> bytes:
    """Both checksums of a chunk record (or of the first part that ``encode_chunk`` returned), for ``SetDigest``."""
    view = memoryview(record)
    if len(view) < _FIXED.size:
        raise CorruptRecordError(f"chunk: {len(view)} bytes are too few for a record")
    return bytes(view[_CHECKSUMS])


def decode_chunk(record: Buffer, *, block_count: int, what: str = "chunk") -> Chunk:
    """A chunk of a volume of ``block_count`` blocks, every byte of it verified.

    ``data`` is a view of ``record`` where it was stored plain. ``CorruptRecordError`` naming ``what`` for anything
    that ``encode_chunk`` did not make; nothing is allocated by a length that was not checked (invariant 12).
    """
    view = memoryview(record).cast("B")
    fixed = _read_fixed(view, what)
    covered = view[_FIXED.size : fixed.data_offset]
    digest = xxh3_64(view[:_COVERED_BYTES])
    digest.update(covered)
    if digest.intdigest() != fixed.head_checksum:
        raise CorruptRecordError(f"{what}: checksum of its head is wrong")
    head = _read_head(covered[: fixed.head_bytes], what)
    what = f"{what} ({head.index} of set {head.epoch.count}:{head.number})"
    stored = view[fixed.data_offset :]
    if xxh3_128(stored).digest() != fixed.data_checksum:
        raise CorruptRecordError(f"{what}: checksum of its data is wrong")
    pieces = decode_pieces(covered[fixed.head_bytes :], block_count, what=what)
    if head.plain_bytes > MAX_CHUNK_BYTES or head.plain_bytes != data_blocks(pieces) * head.block_size:
        raise CorruptRecordError(f"{what}: {head.plain_bytes} bytes of data do not fit its pieces")
    if head.compression == "zstd":
        return Chunk(head, pieces, memoryview(decompress(stored, head.plain_bytes, what)))
    if len(stored) != head.plain_bytes:
        raise CorruptRecordError(f"{what}: {len(stored)} bytes of data, its head says {head.plain_bytes}")
    return Chunk(head, pieces, stored)


def _read_fixed(view: memoryview, what: str) -> _Fixed:
    """The fixed part, with lengths that fit each other and the record."""
    if not _FIXED.size <= len(view) <= MAX_CHUNK_BYTES:
        raise CorruptRecordError(f"{what}: {len(view)} bytes are no chunk")
    fixed = _Fixed._make(_FIXED.unpack_from(view))
    if fixed.magic != CHUNK_MAGIC:
        raise CorruptRecordError(f"{what}: begins with {fixed.magic!r}, not with {CHUNK_MAGIC!r}")
    if fixed.version != CHUNK_VERSION or fixed.reserved:
        raise CorruptRecordError(f"{what}: has format version {fixed.version}; this replkit reads {CHUNK_VERSION}")
    if fixed.head_bytes > MAX_HEAD_BYTES or fixed.piece_count > MAX_CHUNK_PIECES:
        raise CorruptRecordError(f"{what}: head of {fixed.head_bytes} bytes or {fixed.piece_count} pieces is too much")
    if fixed.data_offset + fixed.stored_bytes != len(view):
        raise CorruptRecordError(f"{what}: its parts do not add up to its {len(view)} bytes")
    return fixed


def _read_head(data: memoryview, what: str) -> ChunkHead:
    try:
        head = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptRecordError(f"{what}: {error}") from error
    if head.epoch.count < 0 or head.block_size & (head.block_size - 1):
        raise CorruptRecordError(f"{what}: epoch {head.epoch.count} or block size {head.block_size} cannot be")
    return head


def _check_sizes(head: ChunkHead, head_bytes: int, piece_count: int, record_bytes: int, plain_bytes: int) -> None:
    """Refuse to write what ``decode_chunk`` would refuse to read."""
    if (
        max(record_bytes, plain_bytes) > MAX_CHUNK_BYTES
        or head_bytes > MAX_HEAD_BYTES
        or piece_count > MAX_CHUNK_PIECES
    ):
        raise InvalidArgumentError(
            f"chunk {head.index} of set {head.number}: head of {head_bytes} bytes, {piece_count} pieces, "
            f"{plain_bytes} bytes of data are more than one chunk can carry"
        )
