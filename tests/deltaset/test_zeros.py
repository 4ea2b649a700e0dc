import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replkit.deltaset.pieces import Kind
from replkit.deltaset.zeros import find_pieces, is_zero
from replkit.errors import InvalidArgumentError

BLOCK = 512
CONTENTS = st.sampled_from([bytes(BLOCK), b"\1" * BLOCK, bytes(BLOCK - 1) + b"\1", bytes(9) + b"\1" * (BLOCK - 9)])


@pytest.mark.requirement("D1")
@settings(deadline=None)
@given(st.lists(CONTENTS, max_size=12), st.integers(0, 1 << 40))
def test_zeros_are_found_and_everything_else_is_kept(blocks, start):
    pieces, data = find_pieces(start, b"".join(blocks), BLOCK)
    kinds = {block: piece.kind for piece in pieces for block in range(piece.start, piece.stop)}
    assert kinds == {start + i: Kind.DATA if any(content) else Kind.ZERO for i, content in enumerate(blocks)}
    assert b"".join(data) == b"".join(content for content in blocks if any(content))
    assert [len(part) for part in data] == [piece.count * BLOCK for piece in pieces if piece.kind is Kind.DATA]
    assert all(a.stop == b.start and a.kind != b.kind for a, b in itertools.pairwise(pieces))


def test_data_is_passed_by_reference():
    buffer = bytearray(b"\1" * BLOCK)
    _, (part,) = find_pieces(0, buffer, BLOCK)
    assert part.obj is buffer


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, (2 << 20) + 3])
def test_zero_means_that_every_byte_is(size):
    buffer = bytearray(size)
    assert is_zero(memoryview(buffer))
    if size:
        buffer[-1] = 1
        assert not is_zero(memoryview(buffer))


def test_part_of_a_block_is_refused():
    with pytest.raises(InvalidArgumentError):
        find_pieces(0, bytes(BLOCK + 8), BLOCK)
