"""The change log: marks, cuts given back, and what is believed after a close and after a crash."""

from __future__ import annotations

import pytest

from replkit.backends.memory import MemorySaveVolume
from replkit.blocks.extent import Extent
from replkit.errors import CorruptRecordError
from replkit.replication.changelog import ChangeLog
from replkit.snapshot.intents import IntentLog
from replkit.testing.runtime import ThreadRuntime

BLOCKS = 1024


@pytest.fixture
def save():
    return MemorySaveVolume()


def new_log(save, block_count=BLOCKS):
    intents = IntentLog(save, ThreadRuntime(), block_count=block_count, block_size=4096)
    log = ChangeLog(save, intents, block_count=block_count)
    log.begin_writing()
    return log, intents


def changed(log):
    return list(log.current.runs()), list(log.discarded.runs())


def test_a_new_log_is_clean_and_empty(save):
    log, _intents = new_log(save)
    assert log.was_clean
    assert changed(log) == ([], [])


@pytest.mark.requirement("D1")
def test_a_block_written_again_is_no_longer_discarded(save):
    log, _intents = new_log(save)
    log.mark([(0, 10)])
    log.mark_discarded(0, 10)
    log.mark([(4, 1), (8, 2)])
    assert changed(log) == ([Extent(0, 10)], [Extent(0, 4), Extent(5, 3)])


@pytest.mark.requirement("D1")
def test_a_cut_given_back_is_in_the_next_with_the_newer_kind(save):
    log, _intents = new_log(save)
    log.mark([(0, 4)])
    log.mark_discarded(0, 4)
    old = log.swap()
    assert changed(log) == ([], [])
    log.mark([(1, 1), (9, 1)])
    log.mark_discarded(9, 1)
    log.give_back(old)
    assert changed(log) == ([Extent(0, 4), Extent(9, 1)], [Extent(0, 1), Extent(2, 2), Extent(9, 1)])
    log.mark([(0, 1)])
    assert 0 not in log.discarded


def test_a_region_is_busy_while_either_map_has_a_block_of_it(save):
    log, _intents = new_log(save)
    log.mark([(300, 1)])
    assert not log.is_busy(Extent(0, 256))
    assert log.is_busy(Extent(256, 256))
    log.swap()
    assert log.is_busy(Extent(256, 256))
    log.old = None
    assert not log.is_busy(Extent(256, 256))


@pytest.mark.requirement("S5")
def test_after_a_clean_close_the_maps_are_exact(save):
    log, intents = new_log(save)
    intents.ensure([(300, 1), (5, 1)])
    log.mark([(300, 1), (5, 1)])
    log.mark_discarded(5, 1)
    log.save_clean()
    again, _intents = new_log(save)
    assert again.was_clean
    assert changed(again) == ([Extent(5, 1), Extent(300, 1)], [Extent(5, 1)])
    again.mark([(5, 1)])
    assert 5 not in again.discarded


@pytest.mark.requirement("S5")
def test_after_a_crash_every_region_with_an_intent_is_changed(save):
    log, intents = new_log(save)
    intents.ensure([(5, 1)])
    log.mark([(5, 1)])
    log.save_clean()
    crashed, intents = new_log(save)
    intents.ensure([(700, 1)])
    crashed.mark([(700, 1)])
    after, _intents = new_log(save)
    assert not after.was_clean
    assert changed(after) == ([Extent(0, 256), Extent(512, 256)], [])


def test_only_the_newest_saved_map_is_kept(save):
    for block in range(3):
        log, intents = new_log(save)
        intents.ensure([(block, 1)])
        log.mark([(block, 1)])
        log.save_clean()
    assert len(save.list("lists/changes/")) == 1


@pytest.mark.requirement("X5")
def test_a_saved_map_is_read_at_another_size(save):
    log, intents = new_log(save)
    intents.ensure([(5, 1)])
    log.mark([(5, 1)])
    log.save_clean()
    assert changed(new_log(save, 2 * BLOCKS)[0])[0] == [Extent(5, 1)]


def test_a_cell_that_names_no_map_is_refused(save):
    save.swap("changes", b'{"key": 5}', 0)
    with pytest.raises(CorruptRecordError, match="changes"):
        new_log(save)
