import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replkit.blocks.extent import Extent
from replkit.deltaset.pieces import PIECE_BYTES, Kind, Piece, data_blocks, decode_pieces, encode_pieces
from replkit.errors import CorruptRecordError, InvalidArgumentError

BLOCKS = 1 << 40
STEPS = st.lists(st.tuples(st.integers(0, 1 << 33), st.integers(1, (1 << 32) - 1), st.sampled_from(Kind)), max_size=20)


def laid_out(steps):
    pieces, at = [], 0
    for gap, count, kind in steps:
        pieces.append(Piece(at + gap, count, kind))
        at += gap + count
    return pieces


@pytest.mark.requirement("D3")
@settings(deadline=None)
@given(STEPS)
def test_pieces_come_back_from_their_columns(steps):
    pieces = laid_out(steps)
    encoded = encode_pieces(pieces)
    assert len(encoded) == len(pieces) * PIECE_BYTES
    decoded = decode_pieces(memoryview(encoded), BLOCKS)
    assert decoded == pieces
    assert all(isinstance(piece.kind, Kind) for piece in decoded)
    assert data_blocks(decoded) == sum(p.count for p in pieces if p.kind is Kind.DATA)


def columns(starts, counts, kinds):
    return struct.pack(f"<{len(starts)}Q{len(counts)}I{len(kinds)}B", *starts, *counts, *kinds)


@pytest.mark.requirement("D3")
@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (columns([0], [1], [0]) + b"\0", "no whole number"),
        (columns([5, 0], [1, 1], [0, 0]), "not ascending"),
        (columns([0, 1], [2, 1], [0, 0]), "not ascending"),
        (columns([0, 5], [1, 0], [0, 0]), "empty"),
        (columns([99], [2], [0]), "reaches to block 101 of a volume of 100"),
        (columns([(1 << 64) - 1], [1], [0]), "reaches to block"),
        (columns([0], [1], [3]), "3 is no kind"),
    ],
)
def test_pieces_that_cannot_be_are_refused(data, fault):
    with pytest.raises(CorruptRecordError, match=f"key 7: .*{fault}"):
        decode_pieces(data, 100, what="key 7")


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_pieces_in_order_or_refused(data):
    try:
        pieces = decode_pieces(data, 1000)
    except CorruptRecordError:
        return
    assert encode_pieces(pieces) == data
    assert all(0 <= p.start < p.stop <= 1000 for p in pieces)


def test_a_piece_that_does_not_fit_its_columns_is_not_written():
    with pytest.raises(InvalidArgumentError):
        encode_pieces([Piece(0, 1 << 32, Kind.ZERO)])
    assert Piece(3, 4, Kind.DATA).extent == Extent(3, 4)
