"""Differentials between snapshots: the figures, the errors, and random histories against naive images (P5)."""

from __future__ import annotations

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replkit.blocks.extent import Extent
from replkit.errors import InvalidArgumentError, NotFoundError, SnapshotInvalidError
from replkit.snapshot.differential import differential, undo_differential

BLOCKS = 64


def blocks(extents):
    return [number for extent in extents for number in range(extent.start, extent.stop)]


def queue_of(stack, older, newer):
    """The snapshots L to M-1 of the queue, and M, as the figures see them: bit map and meta bit map of each."""
    layers = {layer.record.name: layer for layer in stack.snapped.queue.layers}
    names = list(layers)
    if names.index(newer) <= names.index(older):
        return None, None
    saved = {
        name: {b for area in layers[name].areas for e, _ in area.blocks.runs() for b in blocks([e])} for name in names
    }
    used = {name: set(blocks(stack.in_use(name))) for name in names}
    return [(saved[name], used[name]) for name in names[names.index(older) : names.index(newer)]], used[newer]


def figure_34_and_35(stack, older, newer):
    bit_maps, _used = queue_of(stack, older, newer)
    assert bit_maps is not None  # 581: M > L
    returned = []
    for block in range(BLOCKS):  # 583, 588, 591
        for bit_map, _meta in bit_maps:  # 584, 586, 587
            if block in bit_map:  # 585
                returned.append(block)  # 589, 590
                break
    return returned


def figure_39(stack, older, newer):
    bit_maps, used_in_m = queue_of(stack, older, newer)
    returned = []
    for block in range(BLOCKS):  # 653, 654
        if block not in used_in_m:  # 655
            continue
        if any(block in saved for saved, _ in bit_maps):  # 656
            returned.append(block)  # 658
        elif not all(block in meta for _, meta in bit_maps):  # 657
            returned.append(block)
    return returned


def figure_40(stack, older, newer):
    bit_maps, used_in_m = queue_of(stack, older, newer)
    returned = []
    for block in range(BLOCKS):
        if block not in used_in_m:  # 665
            continue
        for saved, meta in bit_maps:  # 666, 669, 670
            if block in saved or block not in meta:  # 667, 668
                returned.append(block)  # 671
                break
    return returned


def five_snapshots(stack):
    stack.write(0, 1, 32)
    stack.snapshot("a")
    stack.write(3, 2, 2)
    stack.snapshot("b")
    stack.write(10, 3)
    stack.write(40, 3, 4)
    stack.snapshot("c")
    stack.volume.discard(20, 4)
    stack.volume.discard(41, 1)
    stack.write(3, 4)
    stack.snapshot("d")
    stack.write(21, 5)
    stack.snapshot("e")
    return [(older, newer) for older in "abcde" for newer in "abcde" if older < newer]


@pytest.mark.requirement("P5")
def test_fig_34_a_block_that_a_bit_map_from_l_to_m_has_is_returned_and_l_not_below_m_is_an_error(new_stack):
    stack = new_stack(BLOCKS)
    stack.write(0, 1, BLOCKS)  # all in use, as the figure has no meta bit maps
    for number, name in enumerate("abcd"):
        stack.snapshot(name)
        stack.write(number * 3, 2 + number, 5)
    for older, newer in (("a", "b"), ("a", "d"), ("b", "c"), ("c", "d")):
        found = differential(stack.snapped, older, newer)
        assert blocks(found.data) == figure_34_and_35(stack, older, newer)
        assert found.discards == []
    for older, newer in (("b", "a"), ("d", "a"), ("c", "c")):
        with pytest.raises(InvalidArgumentError, match=r"L >= M"):  # 582
            differential(stack.snapped, older, newer)


@pytest.mark.requirement("P5")
def test_fig_35_blocks_come_in_block_order_with_their_data_in_snapshot_m_up_to_the_end_of_the_volume(stack):
    stack.write(0, 1, BLOCKS)
    stack.snapshot("l")
    for start in (63, 7, 30, 8):
        stack.write(start, 2)
    stack.snapshot("m")
    stack.write(0, 3, BLOCKS)
    found = differential(stack.snapped, "l", "m")
    assert found.data == [Extent(7, 2), Extent(30, 1), Extent(63, 1)]
    assert [stack.image("m")[block] for block in blocks(found.data)] == [2] * 4
    assert blocks(found.data) == figure_34_and_35(stack, "l", "m")


@pytest.mark.requirement("P5")
def test_fig_39_no_data_of_a_block_unused_in_m_and_none_is_missed_that_was_unused_between(stack):
    for older, newer in five_snapshots(stack):
        assert blocks(differential(stack.snapped, older, newer).data) == figure_39(stack, older, newer)
    found = differential(stack.snapped, "a", "e")
    assert found.data == [Extent(3, 2), Extent(10, 1), Extent(21, 1), Extent(40, 1), Extent(42, 2)]
    assert found.discards == [Extent(20, 1), Extent(22, 2), Extent(41, 1)]


@pytest.mark.requirement("P5")
def test_fig_40_one_walk_from_l_to_m_over_bit_map_and_meta_bit_map_finds_the_same(stack):
    for older, newer in five_snapshots(stack):
        assert blocks(differential(stack.snapped, older, newer).data) == figure_40(stack, older, newer)


@pytest.mark.requirement("P5")
def test_a_snapshot_that_is_missing_or_invalid_is_named(new_stack):
    stack = new_stack(BLOCKS, areas_bytes=700)
    stack.write(0, 1, 8)
    stack.snapshot("a")
    stack.write(0, 2)
    stack.snapshot("b")
    stack.write(1, 2)
    for older, newer in (("a", "b"), ("a", None)):
        with pytest.raises(SnapshotInvalidError, match="snapshot a "):
            differential(stack.snapped, older, newer)
    for older, newer in (("z", "b"), ("b", "z"), ("z", None)):
        with pytest.raises(NotFoundError, match="z"):
            differential(stack.snapped, older, newer)


@pytest.mark.requirement("P5", "X5")
def test_ends_of_different_sizes_are_told_apart(stack):
    stack.write(0, 1, BLOCKS)
    stack.snapshot("long")
    stack.volume.resize((BLOCKS - 8) * 512)
    stack.snapshot("short")
    stack.volume.resize(BLOCKS * 512)
    stack.write(60, 2)
    stack.snapshot("again")
    assert differential(stack.snapped, "long", "short") == ([], [], (BLOCKS - 8) * 512)
    assert differential(stack.snapped, "short", "again") == ([Extent(60, 1)], [], BLOCKS * 512)
    assert differential(stack.snapped, "long") == ([Extent(60, 1)], [Extent(56, 4), Extent(61, 3)], BLOCKS * 512)


@pytest.mark.requirement("P5")
def test_what_was_written_before_the_call_is_in_it_while_a_writer_goes_on(new_stack):
    stack = new_stack(4096)
    stack.write(0, 1, 64)
    stack.snapshot("a")
    stop = threading.Event()
    written = []

    def writer():
        for number in range(4096):
            if stop.is_set():
                return
            stack.write(number, 2)
            written.append(number)

    thread = threading.Thread(target=writer, daemon=True)
    thread.start()
    for _ in range(20):
        before = list(written)
        found = set(blocks(differential(stack.snapped, "a").data))
        assert found.issuperset(before)
        assert len(found) <= len(written) + 1
    stop.set()
    thread.join(30)
    assert not thread.is_alive()


STEP = st.one_of(
    st.tuples(st.just("write"), st.integers(0, BLOCKS - 1), st.integers(1, 6)),
    st.tuples(st.just("discard"), st.integers(0, BLOCKS - 1), st.integers(1, 9)),
    st.tuples(st.just("snapshot"), st.just(0), st.just(0)),
    st.tuples(st.just("delete"), st.integers(0, 9), st.just(0)),
    st.tuples(st.sampled_from(["reopen", "clear"]), st.just(0), st.just(0)),
)


class Model:
    """What was done to each block since each snapshot, and what a naive image of it is."""

    def __init__(self, stack):
        self.stack = stack
        self.touched: dict[str, set[int]] = {}
        self.next = 0

    def run(self, steps):
        for kind, start, count in steps:
            getattr(self, kind)(start, min(count, BLOCKS - start))

    def write(self, start, count):
        self.stack.write(start, 1 + self.next % 250, count)
        self.next += 1
        self.touch(start, count)

    def discard(self, start, count):
        self.stack.volume.discard(start, count)
        self.touch(start, count)

    def touch(self, start, count):
        for touched in self.touched.values():
            touched.update(range(start, start + count))

    def snapshot(self, _start, _count):
        name = f"s{self.next:03}"
        self.next += 1
        self.stack.snapshot(name)
        self.touched[name] = set()

    def delete(self, which, _count):
        if which < len(self.touched):
            name = list(self.touched)[which]
            self.stack.snapped.delete_snapshot(name)
            del self.touched[name]

    def reopen(self, _start, _count):
        self.stack.volume.close_clean()
        self.stack.open()

    def clear(self, _start, _count):
        self.stack.snapped.clear_intents()

    def check(self, granularity):
        names = list(self.touched)
        for at, older in enumerate(names):
            for newer in [*names[at + 1 :], None]:
                self.check_pair(older, newer, granularity)
            self.check_undo(older)

    def check_pair(self, older, newer, granularity):
        found = differential(self.stack.snapped, older, newer)
        target = self.stack.image(newer)
        assert found.data == sorted(found.data)
        assert not set(blocks(found.data)) & set(blocks(found.discards))
        self.apply(list(self.stack.images[older]), found, target)
        touched = self.touched[older]  # bounded: only what was touched since, and what shares its bits
        grouped = {block // granularity for block in touched}
        assert {block // granularity for block in blocks(found.data)} <= grouped
        assert {block // granularity for block in blocks(found.discards)} <= grouped

    def check_undo(self, older):
        self.apply(self.stack.image(), undo_differential(self.stack.snapped, older), self.stack.images[older])

    @staticmethod
    def apply(copy, found, target):
        for block in blocks(found.data):
            copy[block] = target[block]
        for block in blocks(found.discards):
            copy[block] = 0
        assert copy == target


@pytest.mark.requirement("P5")
@pytest.mark.parametrize("shift", [0, 2])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEP, max_size=40))
def test_a_copy_of_one_end_and_the_differential_make_the_other_end(new_stack, shift, steps):
    model = Model(new_stack(BLOCKS, in_use_shift=shift))
    model.run(steps)
    model.check(1 << shift)
