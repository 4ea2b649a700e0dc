"""Where a snapshot cannot be whole it says so; a writer that needs room never waits inside the gate (inv. 4, 11)."""

from __future__ import annotations

import threading

import pytest

from replkit.errors import CorruptRecordError, SaveVolumeFullError, SnapshotInvalidError
from replkit.snapshot.reader import SnapshotReader
from replkit.snapshot.records import CellSnapshotTable
from replkit.testing.crashing import PowerFailure

SIZE = 512


def run(*works):
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    return threads


def end(threads):
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)


def change_a_byte(stack, number):
    """A read-modify-write, as an export does it."""

    def work():
        block = bytearray(SIZE)
        stack.volume.read_into(number, block)
        block[0] += 1
        stack.volume.write(number, block)

    return work


# --- room, for whoever holds the gate alone ------------------------------------------------------------------------


@pytest.mark.requirement("P1", "S4")
def test_an_unaligned_write_that_needs_room_makes_it_outside_the_gate(new_stack, monkeypatch):
    """A snapshot that is being made at that moment holds the queue, and wants the gate."""
    stack = new_stack(64, areas_bytes=700)
    stack.write(0, 1, 8)
    stack.snapshot("a")
    stack.write(1, 2)
    queue = stack.snapped.queue
    has_queue, snapshotters = threading.Event(), []
    look, invalidate = queue._not_in_use_but_unsaved, queue.invalidate_oldest

    def look_with_queue_held(in_use):
        has_queue.set()
        return look(in_use)

    def invalidate_against_a_snapshot(room_made):
        if not snapshotters:
            snapshotters.extend(run(lambda: stack.snapped.create_snapshot("b")))
            assert has_queue.wait(30)
        return invalidate(room_made)

    monkeypatch.setattr(queue, "_not_in_use_but_unsaved", look_with_queue_held)
    monkeypatch.setattr(queue, "invalidate_oldest", invalidate_against_a_snapshot)
    end(run(lambda: stack.volume.run_alone(change_a_byte(stack, 0))))
    end(snapshotters)
    block = bytearray(SIZE)
    stack.volume.read_into(0, block)
    assert block[:2] == b"\2\1"
    assert not stack.snapped.snapshot("a").valid


@pytest.mark.requirement("D1")
def test_an_unaligned_write_waits_for_the_copier_outside_the_gate(new_stack):
    stack = new_stack(64, ahead_limit_bytes=SIZE)
    stack.write(0, 1, 8)
    cut = stack.volume.begin_cut()
    stack.write(0, 2)
    waits, real = threading.Event(), cut._changed.wait

    def wait(timeout=None):
        waits.set()
        return real(timeout)

    cut._changed.wait = wait
    writers = run(lambda: stack.volume.run_alone(change_a_byte(stack, 4)))
    assert waits.wait(30)
    end(run(stack.snapped.checkpoint))  # it needs the gate
    cut.abandon()
    end(writers)


@pytest.mark.requirement("S4")
def test_an_unaligned_write_fails_where_it_may_not_wait_and_changes_nothing(new_stack):
    stack = new_stack(64, areas_bytes=100, waits_for_room=False)
    stack.write(0, 1)
    stack.snapshot("a", held=True)
    with pytest.raises(SaveVolumeFullError, match="held"):
        stack.volume.run_alone(change_a_byte(stack, 0))
    assert stack.image() == stack.images["a"]
    stack.snapped.run_alone(lambda: stack.write(9, 5))
    assert stack.image()[9] == 5


# --- damage --------------------------------------------------------------------------------------------------------


def damaged(stack, key, at=25):
    data = stack.save._records[key]
    stack.save._records[key] = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.requirement("P6", "S5")
def test_a_block_that_is_damaged_below_a_snapshot_stays_until_that_snapshot_is_given_up(new_stack, monkeypatch):
    """Its old content cannot be saved: a snapshot is not made partly wrong for it, nor given up without a command."""
    stack = new_stack(64)
    stack.write(0, 1, 8)
    stack.snapshot("a")

    def read_into(start, buffer):
        raise CorruptRecordError(f"block {start} does not have its checksum")

    monkeypatch.setattr(stack.disk, "read_into", read_into)
    with pytest.raises(CorruptRecordError, match=r"snapshot a needs this block.*snapshot delete VOLUME a"):
        stack.snapped.write(3, bytes(SIZE))
    stack.snapped.delete_snapshot("a")
    stack.snapped.write(3, bytes(SIZE))
    monkeypatch.undo()
    assert stack.image()[3] == 0
    assert stack.image()[4] == 1


def four_snapshots(new_stack, *, staged=True):
    """With ``staged`` false, as after a crash before the maps of the older ones were written (P4)."""
    stack = new_stack(64)
    stack.write(0, 1, 8)
    for number, name in enumerate("abcd"):
        stack.snapshot(name)
        stack.write(number, 10 + number, 2)
    if not staged:
        for key in stack.save.list("lists/block-maps/"):
            stack.save._records.pop(key)
    return stack, {record.name: record.id for record in stack.snapped.snapshots()}


@pytest.mark.requirement("P1", "P4")
@pytest.mark.parametrize("victim", ["a", "b", "c", "d"])
def test_a_damaged_before_image_record_makes_its_snapshot_and_the_older_ones_invalid_visibly(new_stack, victim):
    stack, areas = four_snapshots(new_stack, staged=False)
    (key,) = stack.save.list(f"areas/{areas[victim]}/")
    damaged(stack, key)
    stack.open()
    for _ in range(2):
        for name in "abcd":
            if name <= victim:
                with pytest.raises(SnapshotInvalidError, match=f"{name} was invalidated: .*{key}"):
                    stack.image(name)
                with pytest.raises(SnapshotInvalidError, match=f"{name} was invalidated: .*{key}"):
                    SnapshotReader(name, stack.disk, stack.save, CellSnapshotTable(stack.save))
            else:
                assert stack.image(name) == stack.images[name]
        stack.write(5, 99)
        stack.open()
    stack.snapped.delete_snapshot(victim)


@pytest.mark.requirement("P1", "P4")
def test_an_older_snapshot_that_needs_nothing_of_a_damaged_area_stays_valid(new_stack):
    stack = new_stack(64)
    stack.write(0, 1, 2)
    stack.snapshot("a")
    stack.write(0, 2, 2)
    stack.snapshot("b")
    stack.write(0, 3, 2)
    area = stack.snapped.snapshot("b").id
    damaged(stack, stack.save.list(f"areas/{area}/")[0])
    stack.open()
    assert stack.image("a") == stack.images["a"]
    assert [record.valid for record in stack.snapped.snapshots()] == [True, False]
    stack.open()
    assert stack.image("a") == stack.images["a"]


@pytest.mark.requirement("P3", "P4")
def test_a_damaged_or_missing_in_use_map_makes_its_snapshot_invalid_and_a_damaged_checkpoint_nothing(new_stack):
    stack, areas = four_snapshots(new_stack)
    damaged(stack, f"lists/block-maps/{areas['b']}", at=-1)
    stack.open()
    assert all(stack.image(name) == stack.images[name] for name in "abcd")
    stack.save._records.pop(f"lists/in-use/{areas['b']}")
    stack.open()
    assert [record.valid for record in stack.snapped.snapshots()] == [False, False, True, True]
    damaged(stack, f"lists/in-use/{areas['d']}", at=-1)
    stack.open()
    assert [record.valid for record in stack.snapped.snapshots()] == [False] * 4
    stack.write(0, 50)
    stack.snapshot("e")
    stack.write(0, 51)
    assert stack.image("e") == stack.images["e"]


@pytest.mark.requirement("P4")
def test_a_checkpoint_that_goes_bad_while_the_volume_is_open_is_made_good_from_the_records(new_stack):
    stack, areas = four_snapshots(new_stack)
    damaged(stack, f"lists/block-maps/{areas['a']}", at=-1)
    stack.save._records.pop(f"lists/block-maps/{areas['b']}")
    assert all(stack.image(name) == stack.images[name] for name in "abcd")


@pytest.mark.requirement("P1", "P4")
def test_a_crash_at_any_call_while_a_damaged_snapshot_is_invalidated_leaves_it_invalid_at_last(new_stack):
    fail_at = 0
    while True:
        fail_at += 1
        stack, areas = four_snapshots(new_stack, staged=False)
        damaged(stack, stack.save.list(f"areas/{areas['b']}/")[0])
        stack.power.fail_at(fail_at)
        try:
            stack.open()
            break
        except PowerFailure:
            stack.crash()
        assert [record.valid for record in stack.snapped.snapshots()] == [False, False, True, True]
        assert all(stack.image(name) == stack.images[name] for name in "cd")
    assert fail_at > 1


@pytest.mark.parametrize("at", [-1, 25], ids=["a block", "the table of an area whose map is staged"])
def test_damage_that_opening_does_not_meet_is_an_error_of_the_reads_that_meet_it(new_stack, at):
    stack, areas = four_snapshots(new_stack)
    damaged(stack, stack.save.list(f"areas/{areas['a']}/")[0], at=at)
    stack.open()
    with pytest.raises(CorruptRecordError, match=areas["a"]):
        stack.image("a")
    assert all(stack.image(name) == stack.images[name] for name in "bcd")


# --- readers in other processes ------------------------------------------------------------------------------------


@pytest.mark.requirement("P1", "T6")
@pytest.mark.parametrize("how", ["failed", "crashed"])
def test_a_reader_meets_no_record_of_a_name_that_it_has_seen_with_other_blocks(new_stack, monkeypatch, how):
    """A batch fails when some of its records are visible already; its writer is started again and writes others."""
    stack = new_stack(64)
    stack.write(0, 1, 8)
    stack.snapshot("a")
    reader = SnapshotReader("a", stack.disk, stack.save, CellSnapshotTable(stack.save))

    def read(number):
        block = bytearray(SIZE)
        reader.read_into(number, block)
        return block[0]

    def sync():
        assert read(0) == 1  # the reader has seen the record
        if how == "failed":
            raise SaveVolumeFullError("no room for the next record of the batch")
        raise PowerFailure

    with monkeypatch.context() as patch:
        patch.setattr(stack.save, "sync", sync)
        patch.setattr(stack.snapped, "_waits_for_room", False)
        patch.setattr(stack.snapped.queue, "invalidate_oldest", lambda room_made: False)
        with pytest.raises((SaveVolumeFullError, PowerFailure)):
            stack.write(0, 2)
    if how == "crashed":
        stack.save._unsynced.update(stack.save.list("areas/"))
        for key in stack.save.list("areas/"):
            stack.save._records.pop(key)  # lost with the power
    stack.open()
    stack.write(5, 3)
    stack.write(0, 4)
    assert (read(0), read(5)) == (1, 1)
    assert stack.image("a") == stack.images["a"]


@pytest.mark.requirement("P4")
def test_many_openings_leave_no_areas_that_hold_nothing(new_stack):
    stack = new_stack(64)
    stack.write(0, 1, 60)
    stack.snapshot("a")
    for number in range(20):
        stack.open()
        if number % 5 == 0:
            stack.write(number, 2)
        stack.snapped.hold_snapshot("a", held=bool(number % 2))
    assert len(stack.snapped.snapshot("a").areas) <= 6
    assert stack.image("a") == stack.images["a"]
    stack.snapped.delete_snapshot("a")
    assert stack.save.list("areas/") == []
