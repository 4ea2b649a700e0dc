"""Many extents read into one buffer give the same pieces and data as each by itself."""

import os

import pytest

from replkit.blocks.extent import Extent
from replkit.deltaset.pieces import Kind, Piece
from replkit.deltaset.zeros import find_pieces, find_pieces_of

BLOCK = 512
EXTENTS = [Extent(3, 2), Extent(5, 1), Extent(40, 4), Extent(100, 1)]


@pytest.mark.parametrize("zeros", [set(), {0}, {2}, {3, 4, 5}, {7}, set(range(8))])
def test_extents_together_are_as_each_by_itself(zeros):
    blocks = [bytes(BLOCK) if index in zeros else os.urandom(BLOCK) for index in range(8)]
    if 1 not in zeros:
        blocks[1] = bytes(8) + os.urandom(BLOCK - 8)  # only begins with zeros
    pieces, data = find_pieces_of(EXTENTS, b"".join(blocks), BLOCK)
    expected, at = [], 0
    for start, count in EXTENTS:
        expected += find_pieces(start, b"".join(blocks[at : at + count]), BLOCK)[0]
        at += count
    assert pieces == expected
    assert b"".join(data) == b"".join(block for index, block in enumerate(blocks) if index not in zeros)


def test_without_zeros_the_data_stays_in_one_view():
    content = b"".join(b"\x01" * BLOCK for _ in range(8))
    pieces, data = find_pieces_of(EXTENTS, content, BLOCK)
    assert pieces == [Piece(start, count, Kind.DATA) for start, count in EXTENTS]
    assert len(data) == 1
    assert find_pieces_of([], b"", BLOCK) == ([], [])
