"""The volume stack of a primary: the rules of cuts, marks and resizes one by one, and cuts while threads write."""

from __future__ import annotations

import random
import threading

import pytest

from replkit.backends.memory import MemorySaveVolume, MemoryVolume
from replkit.deltaset.pieces import Kind, Piece
from replkit.errors import LocalProtocolError
from replkit.replication.logged import LoggedVolume
from replkit.snapshot.records import CellSnapshotTable
from replkit.testing.runtime import ThreadRuntime

from .logged_world import SIZE, World, block


def new_stack(**options):
    disk, save = MemoryVolume(1 << 20, block_size=SIZE), MemorySaveVolume()
    stack = LoggedVolume.open(disk, save, CellSnapshotTable(save), ThreadRuntime(), **options)
    return disk, save, stack


def test_only_one_cut_is_open_and_it_ends_once():
    _disk, _save, stack = new_stack()
    cut = stack.begin_cut()
    with pytest.raises(LocalProtocolError, match="open already"):
        stack.begin_cut()
    cut.finish()
    with pytest.raises(LocalProtocolError, match="finished or abandoned"):
        cut.copy_range(0, 1)
    cut.abandon()
    stack.begin_cut().abandon()


@pytest.mark.requirement("D1")
def test_a_cut_is_not_finished_before_all_its_blocks_are_copied():
    _disk, _save, stack = new_stack()
    stack.write(7, block(1))
    cut = stack.begin_cut()
    with pytest.raises(LocalProtocolError, match="1 blocks"):
        cut.finish()
    assert cut.copy_range(0, 2048)[0] == [Piece(7, 1, Kind.DATA)]
    assert cut.copy_range(0, 2048) == ([], [])
    cut.finish()


@pytest.mark.requirement("D1")
def test_an_old_block_is_read_once_for_the_before_image_and_the_cut(monkeypatch):
    disk, save, stack = new_stack()
    stack.write(7, block(1, 4))
    cut = stack.begin_cut("s")
    reads = []
    real = disk.read_into
    monkeypatch.setattr(disk, "read_into", lambda start, view: (reads.append(start), real(start, view)))
    stack.write(7, block(2, 4))
    assert reads == [7]
    pieces, data = cut.copy_range(0, 2048)
    assert (pieces, b"".join(data)) == ([Piece(7, 4, Kind.DATA)], block(1, 4))
    assert reads == [7]
    assert len(save.list("areas/")) == 1


def test_the_writer_waits_for_the_copier_when_too_much_was_copied_ahead():
    _disk, _save, stack = new_stack(ahead_limit_bytes=2 * SIZE)
    stack.write(0, block(1, 8))
    cut = stack.begin_cut()
    stack.write(0, block(2, 2))
    assert cut.copied_ahead_bytes == 2 * SIZE
    waits, real_wait = threading.Event(), cut._changed.wait

    def wait(timeout=None):
        waits.set()
        return real_wait(timeout)

    cut._changed.wait = wait
    thread = threading.Thread(target=stack.write, args=(4, block(3)), daemon=True)
    thread.start()
    assert waits.wait(30)
    assert World.read(stack, 4) == 1
    pieces, data = cut.copy_range(0, 2)
    assert (pieces, b"".join(data)) == ([Piece(0, 2, Kind.DATA)], block(1, 2))
    thread.join(30)
    assert not thread.is_alive()
    assert b"".join(cut.copy_range(2, 2048)[1]) == block(1, 6)
    cut.finish()


def test_abandoning_wakes_a_writer_that_waits_for_the_copier():
    _disk, _save, stack = new_stack(ahead_limit_bytes=SIZE)
    stack.write(0, block(1, 8))
    cut = stack.begin_cut()
    stack.write(0, block(2))
    thread = threading.Thread(target=stack.write, args=(1, block(3, 4)), daemon=True)
    thread.start()
    cut.abandon()
    thread.join(30)
    assert not thread.is_alive()
    assert stack.dirty_blocks == 8


@pytest.mark.requirement("D5")
def test_a_snapshot_at_a_cut_is_at_no_boundary_until_it_is_stamped():
    _disk, _save, stack = new_stack()
    stack.begin_cut("s", snapshot_held=True).finish()
    record = stack.snapped.snapshot("s")
    assert (record.at_boundary, record.held) == (False, True)
    assert stack.snapped.restamp("s", None, at_boundary=True).at_boundary


def test_blocks_of_sets_given_up_are_marked():
    _disk, _save, stack = new_stack()
    stack.discard(3, 2)
    stack.begin_cut().abandon()
    stack.mark_changed([(3, 1), (100, 2)])
    cut = stack.begin_cut()
    pieces = cut.copy_range(0, 2048)[0]
    assert pieces == [Piece(3, 1, Kind.ZERO), Piece(4, 1, Kind.DISCARD), Piece(100, 2, Kind.ZERO)]


def test_unaligned_access_may_write_inside_and_keeps_others_out():
    _disk, _save, stack = new_stack()
    threads = []

    def change():
        threads.append(threading.Thread(target=stack.write, args=(0, block(2)), daemon=True))
        threads[-1].start()
        stack.write(0, block(1))
        assert World.read(stack, 0) == 1

    stack.run_alone(change)
    threads[0].join(30)
    assert World.read(stack, 0) == 2


def test_stats_say_what_is_changed_and_what_waits():
    _disk, _save, stack = new_stack()
    stack.write(0, block(1, 3))
    cut = stack.begin_cut()
    stack.write(1, block(2))
    stack.suspend_writes()
    stats = stack.stats()
    expected = {"dirty_blocks": 1, "cut_blocks": 3, "copied_ahead_bytes": SIZE, "writes_suspended": True}
    assert expected.items() <= stats.items()
    stack.resume_writes()
    cut.abandon()
    assert stack.stats()["dirty_blocks"] == 3


@pytest.mark.requirement("X5")
def test_a_resize_between_cuts_keeps_the_marks():
    disk, _save, stack = new_stack()
    stack.write(0, block(1, 8))
    stack.write(2040, block(1, 8))
    with pytest.raises(LocalProtocolError, match="cut is open"):
        _resize_with_a_cut_open(stack)
    stack.resize(2044 * SIZE)
    assert (disk.block_count, stack.dirty_blocks) == (2044, 12)
    stack.resize(4096 * SIZE)
    stack.write(4095, block(3))
    assert stack.dirty_blocks == 12 + 2052  # what is new travels as discarded
    assert World.read(stack, 2045) == 0


def _resize_with_a_cut_open(stack):
    cut = stack.begin_cut()
    try:
        stack.resize(4096 * SIZE)
    finally:
        cut.abandon()


@pytest.mark.requirement("D1", "D5")
def test_cuts_made_while_threads_write_and_discard_are_whole():
    """A replica fed only by the cuts equals the snapshot made at each cut, and the volume in the end."""
    disk, _save, stack = new_stack(ahead_limit_bytes=8 * SIZE)
    replica = MemoryVolume(1 << 20, block_size=SIZE)
    stop = threading.Event()

    def writer(seed):
        chance = random.Random(seed)
        while not stop.is_set():
            start = chance.randrange(60)
            if chance.random() < 0.2:
                stack.discard(start, 4)
            else:
                stack.write_extents([(start, block(chance.randrange(1, 250), 2)), (start + 2, block(seed + 1))])

    def image(volume):
        buffer = bytearray(64 * SIZE)
        volume.read_into(0, buffer)
        return bytes(buffer)

    def cut(name):
        opened = stack.begin_cut(name)
        for start in range(0, 2048, 16):
            pieces, data = opened.copy_range(start, start + 16)
            plain, offset = b"".join(data), 0
            for first, count, kind in pieces:
                if kind is Kind.DATA:
                    replica.write(first, plain[offset : offset + count * SIZE])
                    offset += count * SIZE
                else:
                    replica.discard(first, count)
        opened.finish()

    threads = [threading.Thread(target=writer, args=(seed,), daemon=True) for seed in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(25):
            cut(f"s{number}")
            assert image(replica) == image(stack.snapped.open_snapshot(f"s{number}"))
            stack.clear_idle_intents()
            stack.snapped.delete_snapshot(f"s{number}")
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
    cut(None)
    assert image(replica) == image(disk)
