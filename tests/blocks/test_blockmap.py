import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replkit.blocks import blockmap
from replkit.blocks.blockmap import BlockMap
from replkit.blocks.extent import Extent
from replkit.errors import InvalidArgumentError

SPACE = 120
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "add_new", "remove"]),
        st.integers(0, SPACE),
        st.integers(0, 15),
        st.integers(0, 40),
    ),
    max_size=60,
)


def built(edits):
    block_map, model = BlockMap(), {}
    for action, start, count, value in edits:
        if action == "add":
            block_map.add(start, count, value)
            model.update({start + i: value + i for i in range(count)})
        elif action == "add_new":
            block_map.add_new(start, count, value)
            model = {start + i: value + i for i in range(count)} | model
        else:
            block_map.remove(start, count)
            for block in range(start, start + count):
                model.pop(block, None)
    return block_map, model


def expand(found):
    return {e.start + i: value + i for e, value in found if value is not None for i in range(e.count)}


@pytest.fixture(autouse=True, params=[3, 1024], ids=["small leaves", "real leaves"])
def leaf_runs(request, monkeypatch):
    monkeypatch.setattr(blockmap, "_LEAF_RUNS", request.param)


@settings(max_examples=150, deadline=None)
@given(edits=EDITS, start=st.integers(0, SPACE), count=st.integers(0, 40))
def check_against_a_dictionary(edits, start, count):
    block_map, model = built(edits)
    runs = list(block_map.runs())
    assert expand(runs) == model
    assert block_map.block_total() == len(model)
    assert len(block_map) == len(runs)
    assert bool(block_map) == bool(model)
    ends = [(e.stop, v + e.count) for e, v in runs]
    assert all((a != (e.start, v)) and a[0] <= e.start for a, (e, v) in zip(ends, runs[1:], strict=False)), (
        "merged, ascending"
    )
    wanted = range(start, start + count)
    found = block_map.find(start, count)
    assert [b for e, _ in found for b in range(e.start, e.stop)] == list(wanted)
    assert expand(found) == {b: model[b] for b in wanted if b in model}
    assert block_map.covers(start, count) == all(b in model for b in wanted)
    missing = block_map.missing(start, count)
    assert [b for e in missing for b in range(e.start, e.stop)] == [b for b in wanted if b not in model]
    assert list(BlockMap.from_bytes(block_map.to_bytes()).runs()) == runs


@pytest.mark.requirement("P4")
def test_a_block_map_agrees_with_a_dictionary():
    check_against_a_dictionary()


def test_runs_that_continue_each_other_become_one():
    block_map = BlockMap()
    block_map.add(10, 5, 100)
    block_map.add(20, 5, 110)
    block_map.add(15, 5, 105)
    assert list(block_map.runs()) == [(Extent(10, 15), 100)]
    block_map.add(12, 1, 7)
    assert list(block_map.runs()) == [(Extent(10, 2), 100), (Extent(12, 1), 7), (Extent(13, 12), 103)]
    block_map.clear()
    assert block_map.find(10, 2) == [(Extent(10, 2), None)]


@pytest.mark.parametrize("run", [(-1, 1, 0), (0, -1, 0), (0, 1, -1), (1 << 63, 1, 0), (0, 2, (1 << 63) - 2)])
def test_what_cannot_be_is_refused(run):
    block_map = BlockMap()
    with pytest.raises(InvalidArgumentError):
        block_map.add(*run)
    with pytest.raises(InvalidArgumentError):
        block_map.add_new(*run)
    with pytest.raises(InvalidArgumentError):
        block_map.remove(-1, 1)
    assert not block_map


def test_memory_is_in_proportion_to_runs():
    runs = 10_000
    tracemalloc.start()
    try:
        block_map = BlockMap()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(runs):
            block_map.add(number * 80_000, 70_000, (runs - number) * 80_000)
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(block_map) == runs
    assert used < runs * (200 if blockmap._LEAF_RUNS == 3 else 40)
