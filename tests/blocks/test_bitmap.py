import itertools
import sys
import threading
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replkit.blocks.bitmap import PagedBitmap
from replkit.blocks.extent import Extent, normalise
from replkit.blocks.pages import PAGE_BLOCKS
from replkit.errors import InvalidArgumentError

BLOCKS = 3 * PAGE_BLOCKS + 17
NEAR_BORDERS = st.one_of(
    st.sampled_from(
        [0, 1, PAGE_BLOCKS - 1, PAGE_BLOCKS, PAGE_BLOCKS + 1, 2 * PAGE_BLOCKS, 3 * PAGE_BLOCKS, BLOCKS - 1]
    ),
    st.integers(0, BLOCKS - 1),
)
RANGES = st.tuples(NEAR_BORDERS, NEAR_BORDERS).map(lambda ends: (min(ends), max(ends) - min(ends) + 1))
EDITS = st.lists(st.tuples(st.sampled_from(["add", "set", "clear"]), RANGES), max_size=8)
QUICK = settings(max_examples=60, deadline=None)


def apply(bitmap, model, edits):
    """``model`` is a plain integer whose bits are the blocks: an oracle that shares nothing with the pages."""
    for action, (start, count) in edits:
        run = ((1 << count) - 1) << start
        if action == "add":
            bitmap.add(start)
            model |= 1 << start
        elif action == "set":
            bitmap.set_run(start, count)
            model |= run
        else:
            bitmap.clear_run(start, count)
            model &= ~run
    return model


def as_number(bitmap):
    runs = list(bitmap.runs())
    assert all(a.stop < b.start for a, b in itertools.pairwise(runs)), "runs are the longest ones"
    return sum(((1 << count) - 1) << start for start, count in runs)


def built(edits):
    bitmap = PagedBitmap(BLOCKS)
    return bitmap, apply(bitmap, 0, edits)


@pytest.mark.requirement("D1", "P4")
@QUICK
@given(EDITS, RANGES)
def test_a_bit_map_agrees_with_a_plain_set(edits, queried):
    bitmap, model = built(edits)
    start, count = queried
    inside = (model >> start) & ((1 << count) - 1)
    assert as_number(bitmap) == model
    assert bitmap.count() == model.bit_count()
    assert bool(bitmap) == (model != 0)
    assert (start in bitmap) == bool(model >> start & 1)
    assert bitmap.any_in(start, count) == (inside != 0)
    assert bitmap.all_in(start, count) == (inside.bit_count() == count)
    clipped = sum(((1 << c) - 1) << s for s, c in bitmap.runs(start, start + count))
    missing = sum(((1 << c) - 1) << s for s, c in bitmap.gaps(start, start + count))
    assert clipped == inside << start
    assert missing == (((1 << count) - 1) << start) & ~model


@QUICK
@given(EDITS, EDITS)
def test_update_and_subtract_are_or_and_difference(edits, other_edits):
    left, left_model = built(edits)
    other, other_model = built(other_edits)
    less = left.copy()
    left.update(other)
    less.subtract(other)
    assert as_number(left) == left_model | other_model
    assert as_number(less) == left_model & ~other_model
    assert as_number(other) == other_model


@QUICK
@given(EDITS, EDITS, EDITS)
def test_a_copy_and_its_source_change_apart(edits, source_edits, copy_edits):
    source, model = built(edits)
    twin = source.copy()
    third = twin.copy()
    assert apply(source, model, source_edits) == as_number(source)
    assert apply(twin, model, copy_edits) == as_number(twin)
    assert as_number(third) == model


@QUICK
@given(EDITS, st.integers(0, 5 * PAGE_BLOCKS))
def test_resizing_drops_what_is_beyond_and_adds_nothing(edits, block_count):
    bitmap, model = built(edits)
    bitmap.resize(block_count)
    kept = model & ((1 << block_count) - 1)
    assert as_number(bitmap) == kept
    bitmap.resize(6 * PAGE_BLOCKS)
    assert as_number(bitmap) == kept
    bitmap.set_run(0, 6 * PAGE_BLOCKS)
    assert bitmap.count() == 6 * PAGE_BLOCKS


@QUICK
@given(EDITS)
def test_compacting_changes_no_block(edits):
    bitmap, model = built(edits)
    bitmap.compact()
    assert as_number(bitmap) == model
    bitmap.clear()
    assert not bitmap


@pytest.mark.parametrize(("start", "count"), [(-1, 1), (0, BLOCKS + 1), (BLOCKS, 1), (3, -1)])
def test_blocks_outside_the_map_are_refused(start, count):
    bitmap = PagedBitmap(BLOCKS)
    for change in (bitmap.set_run, bitmap.clear_run):
        with pytest.raises(InvalidArgumentError, match=str(BLOCKS)):
            change(start, count)
    assert not bitmap
    with pytest.raises(InvalidArgumentError):
        bitmap.add(BLOCKS)
    with pytest.raises(InvalidArgumentError):
        bitmap.update(PagedBitmap(BLOCKS + 1))
    assert BLOCKS not in bitmap
    assert -1 not in bitmap


@pytest.mark.requirement("P4")
def test_memory_is_in_proportion_to_what_a_16_tib_map_holds():
    block_count = (16 << 40) // 4096
    tracemalloc.start()
    try:
        bitmap = PagedBitmap(block_count)
        for page in range(0, block_count, block_count // 100):
            bitmap.add(page)
        sparse_bytes = tracemalloc.get_traced_memory()[0]
        full = PagedBitmap(block_count)
        full.set_run(0, block_count)
        twin = full.copy()
        full_bytes = tracemalloc.get_traced_memory()[0] - sparse_bytes
    finally:
        tracemalloc.stop()
    assert sparse_bytes < 101 * 4096 * 1.2
    assert full_bytes < 40 << 20  # as bits, each of the two would be 512 MiB
    assert twin.count() == full.count() == block_count
    assert list(full.runs()) == [Extent(0, block_count)]


def test_pages_filled_bit_by_bit_and_emptied_bit_by_bit_are_given_back():
    bitmap = PagedBitmap(PAGE_BLOCKS * 64)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for start in range(0, PAGE_BLOCKS * 64, 256):
            bitmap.set_run(start, 256)
        bitmap.compact()
        assert tracemalloc.get_traced_memory()[0] - before < 32 << 10
        for start in range(0, PAGE_BLOCKS * 64, 256):
            bitmap.clear_run(start, 256)
        bitmap.compact()
        assert tracemalloc.get_traced_memory()[0] - before < 32 << 10
    finally:
        tracemalloc.stop()
    assert not bitmap


@pytest.mark.requirement("D1")
def test_threads_that_mark_without_a_lock_lose_no_mark():
    """DESIGN section 5: a map bit is set by one C call; pages come into being, and are unshared, under contention."""
    rounds, threads = 20, 8
    for _ in range(rounds):
        base = PagedBitmap(4 * PAGE_BLOCKS)
        base.add(3 * PAGE_BLOCKS + threads)
        bitmap = base.copy()
        barrier = threading.Barrier(threads)

        def mark(offset, bitmap=bitmap, barrier=barrier):
            barrier.wait()
            for block in range(offset, 4 * PAGE_BLOCKS, 4096 + threads):
                bitmap.add(block)
            if offset == 0:
                bitmap.set_run(PAGE_BLOCKS, PAGE_BLOCKS)

        workers = [threading.Thread(target=mark, args=(offset,)) for offset in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        expected = {b for o in range(threads) for b in range(o, 4 * PAGE_BLOCKS, 4096 + threads)}
        expected |= set(range(PAGE_BLOCKS, 2 * PAGE_BLOCKS)) | {3 * PAGE_BLOCKS + threads}
        assert {b for s, c in bitmap.runs() for b in range(s, s + c)} == expected
        assert base.count() == 1


@pytest.mark.requirement("D1")
def test_threads_that_mark_and_clear_other_blocks_of_the_same_pages_do_not_disturb_each_other():
    """The copier clears what it copied while writers clear, and mark, elsewhere in the page."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        base = PagedBitmap(2 * PAGE_BLOCKS)
        base.set_run(0, PAGE_BLOCKS)
        bitmap = base.copy()
        barrier = threading.Barrier(4)

        def clear(offset):
            barrier.wait()
            for start in range(offset * 16, PAGE_BLOCKS, 64):
                bitmap.clear_run(start, 16)

        def mark(offset):
            barrier.wait()
            for start in range(PAGE_BLOCKS + offset * 16, 2 * PAGE_BLOCKS, 64):
                bitmap.set_run(start, 16)

        workers = [threading.Thread(target=work, args=(offset,)) for work in (clear, mark) for offset in (0, 2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(interval)
    left = [Extent(start, 16) for start in range(16, PAGE_BLOCKS, 32)]
    marked = [Extent(start, 16) for start in range(PAGE_BLOCKS, 2 * PAGE_BLOCKS, 32)]
    assert list(bitmap.runs()) == normalise([*left, *marked])
    assert base.count() == PAGE_BLOCKS
