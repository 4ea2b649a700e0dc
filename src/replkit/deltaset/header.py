"""The header of a delta set, put last: without it there is no set (D3, invariant 5); and its block lists."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta
from xxhash import xxh3_128

from replkit.blocks.record import seal, unseal
from replkit.contracts.position import Epoch, Position
from replkit.deltaset.pieces import Piece, decode_pieces, encode_pieces
from replkit.errors import CorruptRecordError, InvalidArgumentError

HEADER_MAGIC: Final = b"RKSH"
HEADER_VERSION: Final = 1
BLOCK_LIST_MAGIC: Final = b"RKBL"
BLOCK_LIST_VERSION: Final = 1
MAX_HEADER_BYTES: Final = 16 << 20
MAX_BLOCK_LIST_BYTES: Final = 16 << 20
MAX_PROMOTION_CHARACTERS: Final = 64

Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Identity = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
ShortText = Annotated[str, Meta(max_length=200)]
BlockSize = Annotated[int, Meta(ge=512, le=1 << 24)]


class Mark(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every playback pass and every coalescing stops at: make a snapshot, or verify."""

    kind: Literal["snapshot", "verify"]
    name: ShortText


class SetHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is true of a whole delta set.

    A set as first cut has ``first_number == number`` and one identity. A coalesced set spans several positions and
    carries the identities of all of them; it applies to a replica that stands at ``base_identity`` or at any of the
    identities but the last.
    """

    lineage: ShortText
    epoch: Epoch
    first_number: Count
    number: Count
    base_identity: Identity
    """Identity of the position before ``first_number``."""
    identities: tuple[Identity, ...]
    """Of the positions ``first_number`` to ``number``; the last is this set's."""
    volume_size_bytes: Count
    block_size: BlockSize
    block_count: Count
    """Blocks in the set, of all kinds."""
    data_bytes: Count
    """Plain bytes of its DATA pieces."""
    chunk_count: Count
    list_count: Count
    created_s: float
    """Wall clock at the cut, for people and lag."""
    writer: ShortText
    marks: tuple[Mark, ...] = ()
    digest: Identity
    """``SetDigest`` over the set's chunk records, in order."""

    @property
    def position(self) -> Position:
        """Where a replica stands that has played the set."""
        return Position(self.epoch, self.number, self.identities[-1])

    @property
    def volume_block_count(self) -> int:
        """Number of blocks of the volume, the partial last one included."""
        return -(-self.volume_size_bytes // self.block_size)


class SetDigest:
    """Digest over the chunks of a set: fed with ``chunk.record_checksum`` of each, in order."""

    def __init__(self) -> None:
        self._digest = xxh3_128()

    def update(self, record_checksum: bytes) -> None:
        """Add the next chunk."""
        self._digest.update(record_checksum)

    def hexdigest(self) -> str:
        """The digest of the chunks so far, 32 hex digits."""
        return self._digest.hexdigest()


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(SetHeader)


def encode_header(header: SetHeader) -> bytes:
    """The header as a record."""
    fault = _find_fault(header)
    if fault:
        raise InvalidArgumentError(f"header of set {header.number}: {fault}")
    plain = _encoder.encode(header)
    if len(plain) > MAX_HEADER_BYTES:
        raise InvalidArgumentError(f"header of set {header.number} has {len(plain)} bytes, more than is allowed")
    return seal(HEADER_MAGIC, HEADER_VERSION, plain)


def decode_header(record: bytes | bytearray | memoryview, *, what: str = "set header") -> SetHeader:
    """The header of a record; ``CorruptRecordError`` naming ``what`` if it is anything but one that makes sense."""
    plain = unseal(HEADER_MAGIC, HEADER_VERSION, memoryview(record), max_plain_bytes=MAX_HEADER_BYTES, what=what)
    try:
        header = _decoder.decode(plain)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptRecordError(f"{what}: {error}") from error
    fault = _find_fault(header)
    if fault:
        raise CorruptRecordError(f"{what}: {fault}")
    return header


def encode_block_list(pieces: Sequence[Piece]) -> bytes:
    """A record of the pieces of a set, without their data."""
    plain = encode_pieces(pieces)
    if len(plain) > MAX_BLOCK_LIST_BYTES:
        raise InvalidArgumentError(f"a block list of {len(pieces)} pieces is too long for one record")
    return seal(BLOCK_LIST_MAGIC, BLOCK_LIST_VERSION, plain)


def decode_block_list(
    record: bytes | bytearray | memoryview, block_count: int, *, what: str = "block list"
) -> list[Piece]:
    """The pieces of a block list of a volume of ``block_count`` blocks; ``CorruptRecordError`` for anything else."""
    view = memoryview(record)
    plain = unseal(BLOCK_LIST_MAGIC, BLOCK_LIST_VERSION, view, max_plain_bytes=MAX_BLOCK_LIST_BYTES, what=what)
    return decode_pieces(plain, block_count, what=what)


def _find_fault(header: SetHeader) -> str:
    """What the types do not say: the first way in which the numbers of a header do not fit together."""
    spanned = f"sets {header.first_number} to {header.number}"
    faults = (
        (not 1 <= header.first_number <= header.number, f"it spans {spanned}"),
        (
            len(header.identities) != header.number - header.first_number + 1,
            f"it has {len(header.identities)} identities for {spanned}",
        ),
        (header.block_size & (header.block_size - 1), f"block size {header.block_size} is no power of two"),
        (
            header.block_count > header.volume_block_count,
            f"it has {header.block_count} blocks of a volume of {header.volume_block_count}",
        ),
        (
            header.data_bytes > header.block_count * header.block_size or header.data_bytes % header.block_size,
            f"{header.data_bytes} bytes are not the data of at most {header.block_count} blocks",
        ),
        (header.block_count and not header.chunk_count, f"it has {header.block_count} blocks and no chunk"),
        (
            header.epoch.count < 0 or len(header.epoch.promotion) > MAX_PROMOTION_CHARACTERS,
            f"epoch {header.epoch.count} of {len(header.epoch.promotion)} characters cannot be",
        ),
        (not isfinite(header.created_s), f"it was created at {header.created_s}"),
    )
    return next((fault for is_met, fault in faults if is_met), "")
