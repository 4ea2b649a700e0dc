import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replkit.blocks.extent import Extent, clip, intersect, normalise, split, subtract, total, union

RUNS = st.lists(st.builds(Extent, st.integers(0, 60), st.integers(0, 12)), max_size=12)


def blocks(extents):
    return {block for start, count in extents for block in range(start, start + count)}


def is_normal(extents):
    return all(e.count > 0 for e in extents) and all(a.stop < b.start for a, b in itertools.pairwise(extents))


def test_an_extent_ends_before_its_stop():
    assert Extent(3, 4).stop == 7
    assert Extent(3, 4).count == 4


@given(RUNS)
def test_normalising_keeps_the_blocks_and_merges_what_touches(runs):
    normal = normalise(runs)
    assert blocks(normal) == blocks(runs)
    assert is_normal(normal)
    assert total(normal) == len(blocks(runs))


@given(RUNS, RUNS)
def test_arithmetic_agrees_with_sets(left, right):
    a, b = normalise(left), normalise(right)
    assert blocks(union(left, right)) == blocks(a) | blocks(b)
    assert blocks(intersect(a, b)) == blocks(a) & blocks(b)
    assert blocks(subtract(a, b)) == blocks(a) - blocks(b)
    for result in (union(left, right), intersect(a, b), subtract(a, b)):
        assert total(result) == len(blocks(result))
        assert all(e.count > 0 for e in result)
        assert result == sorted(result)


@given(RUNS, st.integers(0, 70), st.integers(0, 70))
def test_clipping_keeps_what_lies_in_the_range(runs, start, stop):
    assert blocks(clip(runs, start, stop)) == blocks(runs) & set(range(start, stop))


@given(RUNS, st.integers(1, 5))
def test_splitting_keeps_blocks_and_order_within_the_limit(runs, max_count):
    parts = list(split(runs, max_count))
    assert [b for s, c in parts for b in range(s, s + c)] == [b for s, c in runs for b in range(s, s + c)]
    assert all(0 < e.count <= max_count for e in parts)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([Extent(0, 10)], [Extent(2, 2), Extent(6, 1)], [Extent(0, 2), Extent(4, 2), Extent(7, 3)]),
        ([Extent(0, 2), Extent(4, 2)], [Extent(1, 4)], [Extent(0, 1), Extent(5, 1)]),
    ],
)
def test_subtracting_cuts_holes(left, right, expected):
    assert subtract(left, right) == expected
