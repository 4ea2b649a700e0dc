"""Snapshots without room, in races with writers and readers, and with damage or errors under them."""

from __future__ import annotations

import threading

import pytest

from replkit.backends.memory import MemorySaveVolume, MemoryVolume
from replkit.blocks.extent import Extent
from replkit.errors import (
    CorruptRecordError,
    SaveVolumeFailedError,
    SaveVolumeFullError,
    SnapshotInvalidError,
    VolumeFailedError,
)
from replkit.snapshot.intents import IntentLog
from replkit.snapshot.reader import SnapshotReader
from replkit.snapshot.records import CellSnapshotTable
from replkit.snapshot.snapped import SnappedVolume
from replkit.testing.runtime import ThreadRuntime

from .snapped_world import World, block, read


@pytest.fixture
def world():
    return World()


@pytest.mark.requirement("P1")
def test_without_room_the_oldest_snapshot_that_is_not_held_is_invalidated_visibly():
    world = World(areas_bytes=3 * 700)
    world.volume.write(0, block(1, 8))
    world.volume.create_snapshot("old")
    world.volume.write(0, block(2))
    world.volume.write(1, block(2))
    world.volume.create_snapshot("new")
    world.volume.write(2, block(3))
    shot = world.volume.open_snapshot("old")
    world.volume.write(3, block(3))
    assert [(record.name, record.valid) for record in world.volume.snapshots()] == [("old", False), ("new", True)]
    with pytest.raises(SnapshotInvalidError, match="old"):
        read(shot, 0)
    with pytest.raises(SnapshotInvalidError, match="old"):
        world.volume.open_snapshot("old")
    with pytest.raises(SnapshotInvalidError, match="old"):
        read(SnapshotReader("old", world.disk, world.save, world.table), 0)
    assert world.image("new") == [2, 2, 1, 1, 1, 1, 1, 1]
    world.volume.delete_snapshot("old")
    assert [record.name for record in world.volume.snapshots()] == ["new"]


def test_for_a_held_snapshot_the_writer_waits_and_says_for_what():
    world = World(areas_bytes=700)
    world.volume.write(0, block(1, 8))
    world.volume.create_snapshot("held", held=True)
    world.volume.write(0, block(2))
    written = threading.Event()
    waits = threading.Event()
    real_wait = world.volume.queue.room.wait

    def wait(timeout=None):
        waits.set()
        return real_wait(timeout)

    world.volume.queue.room.wait = wait

    def writer():
        world.volume.write(1, block(2))
        written.set()

    thread = threading.Thread(target=writer, daemon=True)
    thread.start()
    assert waits.wait(30)
    assert "held snapshots" in world.volume.waits_for
    assert not written.is_set()
    assert world.image("held") == [1] * 8
    world.volume.delete_snapshot("held")
    assert written.wait(30)
    thread.join(30)
    assert read(world.volume, 0, 2) == [2, 2]
    assert world.volume.waits_for == ""


def test_a_close_wakes_the_writer_that_waits():
    world = World(areas_bytes=700)
    world.volume.write(0, block(1, 8))
    world.volume.create_snapshot("held", held=True)
    failed = threading.Event()

    def writer():
        try:
            world.volume.write(0, block(2, 8))
        except VolumeFailedError:
            failed.set()

    thread = threading.Thread(target=writer, daemon=True)
    thread.start()
    world.volume.close()
    assert failed.wait(30)
    thread.join(30)


def test_for_a_held_snapshot_a_write_fails_where_it_may_not_wait():
    world = World(areas_bytes=700, waits_for_room=False)
    world.volume.write(0, block(1, 8))
    world.volume.create_snapshot("held", held=True)
    with pytest.raises(SaveVolumeFullError, match="held"):
        world.volume.write(0, block(2, 8))
    assert read(world.volume, 0, 8) == [1] * 8
    world.volume.hold_snapshot("held", held=False)
    world.volume.write(0, block(2, 8))
    assert read(world.volume, 0, 8) == [2] * 8
    assert not world.volume.snapshot("held").valid


def test_a_held_snapshot_keeps_what_an_invalidated_newer_one_saved_for_it():
    world = World(areas_bytes=3 * 700, waits_for_room=False)
    world.volume.write(0, block(1, 8))
    world.volume.create_snapshot("held", held=True)
    world.volume.create_snapshot("newer")
    world.volume.write(0, block(2))
    world.volume.write(1, block(2))
    world.volume.write(2, block(2))
    with pytest.raises(SaveVolumeFullError):
        world.volume.write(3, block(2))
    assert [record.valid for record in world.volume.snapshots()] == [True, False]
    assert world.image("held") == [1] * 8


def test_a_snapshot_that_cannot_be_published_leaves_the_one_before_whole(world):
    world.volume.write(0, block(1, 8))
    world.volume.create_snapshot("a")
    real = world.disk.flush

    def failing():
        world.volume.write(0, block(2))
        raise VolumeFailedError("the disk is gone")

    world.disk.flush = failing
    with pytest.raises(VolumeFailedError):
        world.volume.create_snapshot("b")
    world.disk.flush = real
    world.volume.write(1, block(2))
    assert world.image("a") == [1] * 8
    world.open()
    assert [record.name for record in world.volume.snapshots()] == ["a"]
    assert world.image("a") == [1] * 8


def test_a_snapshot_whose_publication_is_in_doubt_stays_whole(world):
    world.volume.write(0, block(1, 8))
    real = world.table.store

    def store_and_fail(records):
        real(records)
        raise SaveVolumeFailedError("who knows")

    world.table.store = store_and_fail
    with pytest.raises(SaveVolumeFailedError):
        world.volume.create_snapshot("a")
    world.table.store = real
    world.volume.write(0, block(2))
    world.open()
    assert world.image("a") == [1] * 8


def test_a_live_block_overwritten_during_a_read_is_taken_from_its_before_image(world):
    world.volume.write(0, block(1, 8))
    world.volume.create_snapshot("a")
    for shot in (world.volume.open_snapshot("a"), SnapshotReader("a", world.disk, world.save, world.table)):
        real = world.disk.read_into

        def overwrite_and_read(start, buffer, real=real):
            world.disk.read_into = real
            world.volume.write(0, block(2, 8))
            real(start, buffer)

        world.disk.read_into = overwrite_and_read
        assert read(shot, 0, 8) == [1] * 8
        world.disk.read_into = real


def test_a_changed_byte_of_a_before_image_is_found(world):
    world.volume.write(0, block(1, 8))
    world.volume.create_snapshot("a")
    world.volume.write(0, block(2))
    (key,) = world.save.list("areas/")
    good = world.save._records[key]
    for at in (len(good) - 1, 40, 25, 0):
        world.save._records[key] = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        with pytest.raises(CorruptRecordError, match=key):
            read(world.volume.open_snapshot("a"), 0)
    world.save._records[key] = good
    world.open()
    assert world.image("a") == [1] * 8


@pytest.mark.requirement("P1", "D5")
def test_snapshots_taken_and_read_while_threads_write_are_cuts_in_write_order():
    disk, save, runtime = MemoryVolume(256 * 4096), MemorySaveVolume(), ThreadRuntime()
    intents = IntentLog(save, runtime, block_count=256, block_size=4096)
    volume = SnappedVolume(disk, save, CellSnapshotTable(save), intents, runtime)
    stop, faults = threading.Event(), []

    def writer(first):
        number = 0
        while not stop.is_set():
            number += 1
            for at in (first, first + 64):  # the second block is never newer than the first
                volume.write(at, number.to_bytes(8, "little") * 512)

    def values(shot, at):
        buffer = bytearray(4096)
        shot.read_into(at, buffer)
        if buffer != buffer[:8] * 512:
            faults.append("torn")
        return int.from_bytes(buffer[:8], "little")

    threads = [threading.Thread(target=writer, args=(first,), daemon=True) for first in (0, 1, 2)]
    for thread in threads:
        thread.start()
    seen = {}
    for round_number in range(40):
        name = f"s{round_number}"
        volume.create_snapshot(name)
        shot = volume.open_snapshot(name)
        seen[name] = [(values(shot, first), values(shot, first + 64)) for first in (0, 1, 2)]
        if round_number % 3 == 2:
            gone = f"s{round_number - 1}"
            volume.delete_snapshot(gone)
            del seen[gone]
        for old, image in seen.items():
            shot = volume.open_snapshot(old)
            if [(values(shot, first), values(shot, first + 64)) for first in (0, 1, 2)] != image:
                faults.append(old)
        faults.extend(pair for pair in seen.get(name, ()) if not 0 <= pair[0] - pair[1] <= 1)
    stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert faults == []


@pytest.mark.requirement("P2")
def test_a_block_written_while_a_snapshot_is_published_stays_in_use_after_a_crash(world, monkeypatch):
    """Invariant 4: the map of the snapshot must not replace a newer one for which intents were cleared."""
    world.volume.checkpoint()
    put = world.save.sync

    def sync():
        monkeypatch.undo()
        put()
        world.volume.write(7, block(1))
        world.volume.clear_intents()

    with monkeypatch.context():
        monkeypatch.setattr(world.save, "sync", sync)
        world.volume.create_snapshot("a")
    world.volume.close()
    world.open()
    assert Extent(7, 1) in list(world.volume.in_use())
