"""A buffer is used again only when nobody can see it any more."""

import pytest

from replkit.contracts.bufferpool import BufferPool


def test_a_buffer_nobody_holds_is_used_again():
    pool = BufferPool()
    first = pool.take(100)
    first[:] = b"x" * 100
    del first
    assert bytes(pool.take(50)) == b"x" * 50


@pytest.mark.parametrize("part", [slice(None), slice(10, 20), slice(5, 5)])
def test_a_buffer_of_which_somebody_holds_a_part_is_left_alone(part):
    pool = BufferPool()
    held = pool.take(100)[part]
    before = bytes(held)
    for _ in range(5):
        pool.take(100)[:] = b"y" * 100
    assert bytes(held) == before


def test_a_larger_buffer_takes_the_place_of_a_smaller_one_and_all_can_be_given_back():
    pool = BufferPool()
    pool.take(10)
    pool.take(1000)
    assert [len(each) for each in pool._buffers] == [1000]
    pool.clear()
    assert not pool._buffers


def test_more_buffers_are_held_than_are_kept():
    pool = BufferPool()
    held = [pool.take(10) for _ in range(10)]
    for index, view in enumerate(held):
        view[:] = bytes([index]) * 10
    assert [view[0] for view in held] == list(range(10))
    assert len(pool._buffers) < 10
