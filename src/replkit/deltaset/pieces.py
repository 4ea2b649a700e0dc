"""Pieces: extents with a kind, in which delta sets and block lists are written down."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from itertools import islice
from operator import add, le
from typing import Final, NamedTuple

from replkit.blocks.extent import Extent
from replkit.errors import CorruptRecordError, InvalidArgumentError

PIECE_BYTES: Final = 8 + 4 + 1
MAX_PIECE_BLOCKS: Final = (1 << 32) - 1


class Kind(IntEnum):
    """What a set says of the blocks of a piece."""

    DATA = 0
    """Their content is in the set."""
    ZERO = 1
    """They were written, with zeros."""
    DISCARD = 2
    """They are no longer in use, and read as zeros."""


_KINDS = tuple(Kind)


class Piece(NamedTuple):
    """The blocks ``[start, start + count)``, all of one kind; ``count`` is below 2**32."""

    start: int
    count: int  # type: ignore[assignment]  # as in Extent
    kind: Kind

    @property
    def stop(self) -> int:
        """The first block after the piece."""
        return self.start + self.count

    @property
    def extent(self) -> Extent:
        """The blocks of the piece."""
        return Extent(self.start, self.count)


def encode_pieces(pieces: Sequence[Piece]) -> bytes:
    """Three columns, little-endian: all starts (u64), all counts (u32), all kinds (u8)."""
    if not pieces:
        return b""
    starts, counts, kinds = zip(*pieces, strict=True)
    try:
        columns = struct.pack(f"<{len(pieces)}Q", *starts) + struct.pack(f"<{len(pieces)}I", *counts)
    except struct.error as error:
        raise InvalidArgumentError(f"pieces {pieces[0]} to {pieces[-1]} do not fit their columns: {error}") from error
    return columns + bytes(kinds)


def decode_pieces(data: bytes | bytearray | memoryview, block_count: int, *, what: str = "pieces") -> list[Piece]:
    """Pieces from their columns: ascending, disjoint, not empty, within ``block_count`` blocks (invariant 12)."""
    piece_count, rest = divmod(len(data), PIECE_BYTES)
    if rest:
        raise CorruptRecordError(f"{what}: {len(data)} bytes are no whole number of pieces")
    if not piece_count:
        return []
    starts: tuple[int, ...] = struct.unpack_from(f"<{piece_count}Q", data)
    counts: tuple[int, ...] = struct.unpack_from(f"<{piece_count}I", data, piece_count * 8)
    kinds = bytes(data[piece_count * 12 :])
    stops = list(map(add, starts, counts))
    if not all(counts) or not all(map(le, stops, islice(starts, 1, None))):
        raise CorruptRecordError(f"{what}: pieces are empty or not ascending and disjoint")
    if stops[-1] > block_count:
        raise CorruptRecordError(f"{what}: reaches to block {stops[-1]} of a volume of {block_count}")
    if max(kinds) >= len(_KINDS):
        raise CorruptRecordError(f"{what}: {max(kinds)} is no kind of piece")
    return list(map(Piece, starts, counts, map(_KINDS.__getitem__, kinds)))


def data_blocks(pieces: Sequence[Piece]) -> int:
    """Number of blocks whose content the pieces carry."""
    return sum(count for _, count, kind in pieces if kind == Kind.DATA)
