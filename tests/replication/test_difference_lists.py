"""Lists of blocks: from block lists of sets, stored as records, and where sets of several histories are named."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replkit.blocks.bitmap import PagedBitmap
from replkit.contracts.position import Epoch, HistoryEntry, Position
from replkit.errors import CorruptRecordError, InvalidArgumentError, RecordMissingError
from replkit.replication.cells import Difference, Root, Span, WriterRun
from replkit.replication.difference import (
    blocks_between,
    delete_list,
    difference_blocks,
    get_list,
    has_list,
    put_list,
)
from replkit.replication.directory import (
    add_set,
    epoch_at,
    insert_set,
    numbers_between,
    set_after,
    tag_of,
    writer_of,
)
from replkit.testing.crashing import CrashSaveVolume, Power, PowerFailure
from replkit.testing.sim.returning import LIST, Fork
from replkit.testing.sim.sites import Sites, block

KEY = "lists/resync-7"
OLD, NEW = Epoch(1, "a"), Epoch(4, "b")


def bitmap(block_count: int, *runs: tuple[int, int]) -> PagedBitmap:
    blocks = PagedBitmap(block_count)
    for start, count in runs:
        blocks.set_run(start, count)
    return blocks


def runs_of(blocks: PagedBitmap) -> list[tuple[int, int]]:
    return [tuple(run) for run in blocks.runs()]  # type: ignore[misc]


@pytest.mark.requirement("R4")
def test_a_list_comes_back_as_it_was_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replkit.replication.difference.PAGE_BLOCKS", 1000)
    save = CrashSaveVolume(Power())
    blocks = bitmap(4500, (0, 1), (990, 30), (2000, 1000), (4499, 1))
    put_list(save, KEY, blocks)
    assert has_list(save, KEY)
    assert len(save.list(f"{KEY}/")) == 6
    assert runs_of(get_list(save, KEY, 4500)) == runs_of(blocks)
    assert runs_of(get_list(save, KEY, 9000)) == [*runs_of(blocks)[:-1], (4499, 4501)]  # it says nothing of the rest
    assert runs_of(get_list(save, KEY, 2500)) == [(0, 1), (990, 30), (2000, 500)]
    delete_list(save, KEY)
    assert not save.list(KEY)
    with pytest.raises(RecordMissingError):
        get_list(save, KEY, 4500)


@settings(deadline=None)
@given(st.sets(st.integers(0, 299)), st.integers(1, 64))
def test_any_list_comes_back(blocks: set[int], page: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("replkit.replication.difference.PAGE_BLOCKS", page)
        save = CrashSaveVolume(Power())
        put_list(save, KEY, bitmap(300, *((number, 1) for number in blocks)))
        assert {number for run in get_list(save, KEY, 300).runs() for number in range(run.start, run.stop)} == blocks


def test_after_a_crash_at_any_call_a_list_is_whole_or_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replkit.replication.difference.PAGE_BLOCKS", 10)
    wanted = bitmap(40, (5, 20))
    for call in range(1, 100):
        power = Power(call)
        save = CrashSaveVolume(power)
        put_list(save, KEY, bitmap(40, (0, 3)))
        power.fail_at(call)
        try:
            put_list(save, KEY, wanted)
        except PowerFailure:
            power.restore()
            if has_list(save, KEY):
                assert runs_of(get_list(save, KEY, 40)) in ([(0, 3)], [(5, 20)])
            put_list(save, KEY, wanted)
            assert runs_of(get_list(save, KEY, 40)) == [(5, 20)]
            continue
        assert call > 5
        return
    pytest.fail("never ended")


def test_a_damaged_list_and_a_wrong_key_are_said() -> None:
    """Invariant 12."""
    save = CrashSaveVolume(Power())
    put_list(save, KEY, bitmap(40, (5, 20)))
    head = bytearray(save.get(f"{KEY}/head"))
    head[-1] ^= 1
    save.delete([f"{KEY}/head"])
    save.put(f"{KEY}/head", [bytes(head)])
    with pytest.raises(CorruptRecordError, match="lists/resync-7"):
        get_list(save, KEY, 40)
    with pytest.raises(InvalidArgumentError):
        delete_list(save, "sets/0")


@pytest.mark.requirement("R4", "S1")
def test_blocks_between_two_positions_are_those_of_the_sets_between_them() -> None:
    world = Sites("a")
    for start in (3, 10, 20, 30):
        world.a.write(start, block("x", 2))
        world.a.primary.cut()
    root, save = world.a.primary.root, world.a.save
    assert runs_of(blocks_between(save, root, 1, 3, 256)) == [(10, 2), (20, 2)]
    assert runs_of(blocks_between(save, root, 0, 4, 21)) == [(3, 2), (10, 2), (20, 1)]  # the volume is smaller now
    assert not blocks_between(save, root, 4, 4, 256)
    trimmed = msgspec.structs.replace(root, first_listed=3)
    assert runs_of(blocks_between(save, trimmed, 2, 4, 256)) == [(20, 2), (30, 2)]
    with pytest.raises(RecordMissingError, match="list trimmed"):
        blocks_between(save, trimmed, 1, 4, 256)


@pytest.mark.requirement("R4", "X5")
def test_blocks_that_a_volume_lacked_between_two_positions_count_as_changed() -> None:
    """Shrunk and grown again it has zeros there; a copy that was never that small has what was cut off."""
    world = Sites("a", blocks=100)
    world.a.write(0, block("x", 100))
    world.a.primary.cut()
    world.a.primary.resize(80 * 512)
    world.a.primary.resize(90 * 512)
    world.a.write(3, block("y"))
    world.a.primary.cut()
    root = world.a.primary.root
    blocks = blocks_between(world.a.save, root, 1, root.last.number, 100)
    assert runs_of(blocks) == [(3, 1), (80, 20)]


def root_with(*runs: WriterRun, last: int, spans: tuple[Span, ...] = ()) -> Root:
    return Root(
        lineage="l", role="secondary", epoch=NEW, history=(HistoryEntry(OLD, 1), HistoryEntry(NEW, 5)), writers=runs,
        spans=spans, last=Position(NEW, last, "x"),
    )  # fmt: skip


def test_sets_of_older_epochs_keep_theirs_after_a_promotion() -> None:
    root = root_with(WriterRun(1, "w"), last=9)
    assert [epoch_at(root, number) for number in (0, 1, 4, 5, 9)] == [OLD, OLD, OLD, NEW, NEW]
    assert tag_of(root, 2) == "0000000000000002.w"
    assert epoch_at(msgspec.structs.replace(root, history=()), 3) == NEW


def test_a_difference_is_named_before_the_sets_that_came_after_it() -> None:
    root = root_with(WriterRun(1, "old"), last=4)
    later = msgspec.structs.replace(root, last=Position(NEW, 8, "s"))
    later = add_set(later, Span(9, 9), "new", Position(NEW, 9, "t"))
    later = add_set(later, Span(10, 12), "new", Position(NEW, 12, "u"))
    named = insert_set(later, Span(5, 8), "copy-r")
    assert numbers_between(named, 1, 12) == [1, 2, 3, 4, 8, 9, 12]
    assert [writer_of(named, number) for number in (1, 4, 8, 9, 12)] == ["old", "old", "copy-r", "new", "new"]
    assert set_after(named, 4) == Span(5, 8)
    alone = insert_set(msgspec.structs.replace(root, last=Position(NEW, 5, "s")), Span(5, 5), "copy-r")
    assert (alone.spans, [writer_of(alone, number) for number in (4, 5)]) == ((), ["old", "copy-r"])


def test_sets_after_a_difference_keep_the_writer_that_those_before_it_have() -> None:
    root = root_with(WriterRun(1, "w"), last=9)
    named = insert_set(root, Span(5, 8), "copy-r")
    assert [writer_of(named, number) for number in (4, 8, 9)] == ["w", "copy-r", "w"]


@pytest.mark.requirement("R4", "R5")
def test_a_list_that_was_compared_earlier_is_completed_by_what_changed_since() -> None:
    """Invariant 5: the snapshot that was compared can be lost, and a newer one is copied in its place."""
    fork = Fork(blocks=64)
    fork.b.write(5, block("b", 2))
    compared = fork.b.primary.cut()
    fork.b.write(30, block("b", 3))
    stamp = fork.b.primary.cut()
    save, root = fork.b.save, fork.b.primary.root
    differs = PagedBitmap(64)
    differs.set_run(9, 1)
    put_list(save, LIST, differs)
    difference = Difference(fork=fork.fork, list_key=LIST, exact=True, exact_at=compared.number)
    at_the_compared = difference_blocks(save, root, difference, compared.number, 64)
    later = difference_blocks(save, root, difference, stamp.number, 64)
    assert [tuple(run) for run in at_the_compared.runs()] == [(9, 1)]
    assert [tuple(run) for run in later.runs()] == [(9, 1), (30, 3)]
