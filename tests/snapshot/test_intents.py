"""The write-intent log."""

from __future__ import annotations

import threading

import pytest

from replkit.blocks.extent import Extent
from replkit.errors import CorruptRecordError, SaveVolumeFailedError
from replkit.snapshot.intents import MAX_REGIONS, IntentLog, region_shift
from replkit.testing.crashing import CrashSaveVolume, Power
from replkit.testing.runtime import ThreadRuntime

MIB_BLOCKS = 256


def new_log(save, block_count=64 * MIB_BLOCKS):
    return IntentLog(save, ThreadRuntime(), block_count=block_count, block_size=4096)


@pytest.fixture
def save():
    return CrashSaveVolume(Power())


@pytest.mark.requirement("S5")
def test_an_intent_is_durable_when_ensure_returns(save):
    new_log(save).ensure([(3 * MIB_BLOCKS + 7, 1)])
    assert new_log(save).dirty_extents() == [Extent(3 * MIB_BLOCKS, MIB_BLOCKS)]


def test_a_covered_block_costs_no_swap(save):
    log = new_log(save)
    log.ensure([(0, 1)])
    version = save.load("intents").version
    log.ensure([(5, 100)])
    assert save.load("intents").version == version


def test_a_range_over_several_regions_is_covered_whole(save):
    log = new_log(save)
    log.ensure([(MIB_BLOCKS - 1, 2)])
    assert log.covers(0, 2 * MIB_BLOCKS)
    assert not log.covers(0, 2 * MIB_BLOCKS + 1)


def test_a_writer_in_order_has_the_next_regions_set_in_one_swap(save):
    log = new_log(save)
    log.ensure([(0, 1)])
    log.ensure([(MIB_BLOCKS, 1)])
    assert log.covers(0, 10 * MIB_BLOCKS)


@pytest.mark.parametrize("block_count", [1, 256, 1 << 24, 1 << 34])
def test_no_volume_has_more_regions_than_allowed_and_none_is_below_1_mib(block_count):
    shift = region_shift(block_count, 4096)
    assert 4096 << shift >= 1 << 20
    assert -(-block_count >> shift) <= MAX_REGIONS


def test_callers_that_come_together_share_swaps(save):
    log = new_log(save)
    arrived = threading.Barrier(8)
    swapping, real = threading.Event(), save.swap
    go = threading.Event()

    def slow_swap(cell, value, version):
        swapping.set()
        assert go.wait(30)
        return real(cell, value, version)

    save.swap = slow_swap

    def writer(number):
        arrived.wait(30)
        log.ensure([(number * 8 * MIB_BLOCKS, 1)])

    threads = [threading.Thread(target=writer, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    assert swapping.wait(30)
    go.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert all(log.covers(number * 8 * MIB_BLOCKS, 1) for number in range(8))
    assert len(new_log(save).dirty_extents()) == 8
    assert save.load("intents").version <= 8


def test_a_failed_swap_leaves_no_intent_to_rely_on_and_the_next_call_tries_again(save):
    log, real = new_log(save), save.swap

    def failing(cell, value, version):
        raise SaveVolumeFailedError("the disk is gone")

    save.swap = failing
    with pytest.raises(SaveVolumeFailedError):
        log.ensure([(0, 1)])
    assert not log.covers(0, 1)
    save.swap = real
    log.ensure([(0, 1)])
    assert log.covers(0, 1)


@pytest.mark.requirement("S5")
def test_clearing_is_durable_only_at_drop_and_the_next_writer_must_ensure_again(save):
    log = new_log(save)
    log.ensure([(0, 1)])
    idle = log.take_idle(log.idle_candidates(lambda region: False), lambda region: False)
    assert not log.covers(0, 1)
    assert new_log(save).covers(0, 1)
    log.drop(idle)
    assert new_log(save).dirty_extents() == []


def test_an_intent_ensured_while_it_is_being_cleared_stays(save):
    log = new_log(save)
    log.ensure([(0, 1)])
    idle = log.take_idle(log.idle_candidates(lambda region: False), lambda region: False)
    log.ensure([(0, 1)])
    log.drop(idle)
    assert log.covers(0, 1)
    assert new_log(save).covers(0, 1)


def test_a_busy_region_keeps_its_intent(save):
    log = new_log(save)
    log.ensure([(0, 1)])
    assert log.idle_candidates(lambda region: region.start == 0) == []


def test_intents_put_back_are_relied_on_again(save):
    log = new_log(save)
    log.ensure([(0, 1)])
    log.put_back(log.take_idle([0], lambda region: False))
    assert log.covers(0, 1)


@pytest.mark.requirement("X5")
def test_intents_survive_a_resize(save):
    log = new_log(save)
    log.ensure([(5 * MIB_BLOCKS, 1)])
    log.resize(1 << 30)
    assert log.covers(5 * MIB_BLOCKS, 1)
    assert new_log(save, 1 << 30).covers(5 * MIB_BLOCKS, 1)


@pytest.mark.parametrize("change", [lambda v: v[:10], lambda v: b"XXXX" + v[4:], lambda v: v[:-1] + b"\xee"])
def test_a_damaged_map_is_refused(save, change):
    new_log(save).ensure([(0, 1)])
    value, version = save.load("intents")
    save.swap("intents", change(value), version)
    with pytest.raises(CorruptRecordError, match="intents"):
        new_log(save)
