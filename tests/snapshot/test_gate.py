"""The gate and the range lock under threads."""

from __future__ import annotations

import threading

import pytest

from replkit.blocks.extent import Extent
from replkit.snapshot.gate import Gate
from replkit.snapshot.rangelock import RangeLock
from replkit.testing.runtime import ThreadRuntime


def run(*targets):
    threads = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    return threads


def join(threads):
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.requirement("D5")
def test_nobody_is_inside_while_the_gate_is_held_alone():
    gate = Gate(ThreadRuntime())
    inside, faults = [], []

    def writer():
        for _ in range(2000):
            with gate.shared():
                inside.append(1)
                inside.pop()

    def cutter():
        for _ in range(300):
            with gate.exclusive():
                before = len(inside)
                if before:
                    faults.append(before)

    join(run(writer, writer, writer, cutter, cutter))
    assert faults == []


def test_who_holds_the_gate_alone_may_also_write_and_hold_it_again():
    gate = Gate(ThreadRuntime())
    with gate.exclusive(), gate.shared(), gate.exclusive():
        assert gate.is_held_by_caller
    assert not gate.is_held_by_caller
    with gate.shared():
        pass


@pytest.mark.requirement("S4")
def test_suspended_writers_wait_and_a_cut_passes():
    gate = Gate(ThreadRuntime())
    written = threading.Event()
    gate.suspend()

    def writer():
        with gate.shared():
            written.set()

    def unaligned_writer():
        with gate.exclusive(as_writer=True):
            assert written.wait(30)

    threads = run(writer)
    with gate.exclusive():
        assert not written.is_set()
    assert gate.is_suspended
    assert not written.is_set()
    gate.resume()
    join(threads)
    join(run(unaligned_writer))
    assert not gate.is_suspended


def test_an_unaligned_writer_waits_until_writes_are_resumed():
    gate = Gate(ThreadRuntime())
    gate.suspend()
    order = []

    def unaligned_writer():
        with gate.exclusive(as_writer=True):
            order.append("written")

    threads = run(unaligned_writer)
    with gate.exclusive():
        order.append("cut")
    gate.resume()
    join(threads)
    assert order == ["cut", "written"]


def test_overlapping_ranges_exclude_each_other_and_disjoint_ones_do_not():
    ranges = RangeLock(ThreadRuntime())
    with ranges.lock(0, 10), ranges.lock_extents([Extent(10, 5), Extent(90, 1)]):
        entered = threading.Event()

        def other():
            with ranges.lock(14, 3):
                entered.set()

        threads = run(other)
        assert not entered.is_set()
    join(threads)
    assert entered.is_set()
