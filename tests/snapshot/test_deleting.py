"""Deleting any snapshot of the queue, with a crash at every call, and while others write and read (P6, invariant 4)."""

from __future__ import annotations

import random
import threading

import pytest

from replkit.backends.memory import MemorySaveVolume, MemoryVolume
from replkit.errors import NotFoundError, SnapshotInvalidError
from replkit.replication.logged import LoggedVolume
from replkit.snapshot.reader import SnapshotReader
from replkit.snapshot.records import CellSnapshotTable
from replkit.testing.crashing import PowerFailure
from replkit.testing.runtime import ThreadRuntime

SIZE = 512
NAMES = "abcd"


def outside_image(stack, name):
    reader = SnapshotReader(name, stack.disk, stack.save, CellSnapshotTable(stack.save))
    buffer = bytearray(reader.block_count * SIZE)
    reader.read_into(0, buffer)
    return list(buffer[::SIZE])


def four_snapshots(new_stack, seed):
    """Blocks of every kind: saved by one, by several, by none, discarded, unused at first, unused at last."""
    stack = new_stack(64, seed=seed)
    stack.write(0, 1, 20)
    for number, name in enumerate(NAMES):
        stack.snapshot(name)
        stack.write(number, 10 + number, 3)
        stack.volume.discard(10 + number, 2)
        stack.write(10 + number, 20 + number)
        stack.write(40 + number, 30 + number, 2)
    stack.volume.flush()
    return stack


def check(stack, names):
    for name in names:
        assert stack.image(name) == stack.images[name], name
        assert outside_image(stack, name) == stack.images[name], name


@pytest.mark.requirement("P6")
@pytest.mark.parametrize("victim", list(NAMES))
def test_a_crash_at_any_call_of_a_deletion_leaves_the_snapshot_there_or_gone_and_the_others_whole(new_stack, victim):
    others = [name for name in NAMES if name != victim]
    found, fail_at, is_done = set(), 0, False
    while not is_done:
        fail_at += 1
        stack = four_snapshots(new_stack, fail_at)
        stack.power.fail_at(fail_at)
        try:
            stack.snapped.delete_snapshot(victim)
            is_done = True
        except PowerFailure:
            pass
        stack.crash()
        names = {record.name for record in stack.snapped.snapshots() if record.valid}
        found.add(victim in names)
        assert names >= set(others)
        check(stack, names)
        stack.write(0, 99, 50)
        check(stack, names)
        if victim in names:
            stack.snapped.delete_snapshot(victim)
        check(stack, others)
        for name in others:
            stack.snapped.delete_snapshot(name)
        assert stack.save.list("areas/") == []
        assert stack.save.list("lists/block-maps/") == []
    assert found == {True, False}
    assert fail_at > 3


def image(shown):
    buffer = bytearray(128 * SIZE)
    shown.read_into(0, buffer)
    return bytes(buffer)


class Busy:
    """A volume that threads write, and whose snapshots threads read, inside the process and as if outside."""

    def __init__(self):
        self.disk, self.save = MemoryVolume(128 * SIZE, block_size=SIZE), MemorySaveVolume()
        self.table = CellSnapshotTable(self.save)
        self.volume = LoggedVolume.open(self.disk, self.save, self.table, ThreadRuntime())
        self.volume.write(0, bytes([1]) * SIZE * 64)
        self.images: dict[str, bytes] = {}
        self.stop, self.faults = threading.Event(), []

    def write(self, seed):
        chance = random.Random(seed)
        while not self.stop.is_set():
            start = chance.randrange(120)
            if chance.random() < 0.2:
                self.volume.discard(start, 4)
            else:
                self.volume.write(start, bytes([chance.randrange(1, 250)]) * SIZE * chance.randrange(1, 8))

    def read(self, open_shown):
        while not self.stop.is_set():
            for name, wanted in list(self.images.items()):
                try:
                    found = image(open_shown(name))
                except (NotFoundError, SnapshotInvalidError):
                    found = b""
                if found != wanted and name in self.images:
                    self.faults.append(name)

    def outside(self, name):
        return SnapshotReader(name, self.disk, self.save, self.table)


@pytest.mark.requirement("P6")
@pytest.mark.parametrize("order", ["newest", "middle", "oldest"])
def test_deleting_while_threads_write_and_read_inside_and_outside(order):
    busy = Busy()
    snapped = busy.volume.snapped
    works = [(busy.write, 1), (busy.write, 2), (busy.read, snapped.open_snapshot), (busy.read, busy.outside)]
    threads = [threading.Thread(target=work, args=(argument,), daemon=True) for work, argument in works]
    for thread in threads:
        thread.start()
    for number in range(60):
        name = f"s{number:02}"
        snapped.create_snapshot(name)
        busy.images[name] = image(snapped.open_snapshot(name))
        if len(busy.images) > 4:
            victim = sorted(busy.images)[{"newest": -1, "middle": 2, "oldest": 0}[order]]
            del busy.images[victim]
            snapped.delete_snapshot(victim)
    busy.stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert busy.faults == []
    assert all(image(busy.outside(name)) == wanted for name, wanted in busy.images.items())


@pytest.mark.requirement("P6", "T6")
def test_a_snapshot_deleted_while_it_is_opened_outside_is_told_by_name(new_stack, monkeypatch):
    stack = four_snapshots(new_stack, 0)
    table = CellSnapshotTable(stack.save)
    load = table.load

    def load_and_delete():
        monkeypatch.undo()
        records = load()
        stack.snapped.delete_snapshot("b")
        return records

    monkeypatch.setattr(table, "load", load_and_delete)
    with pytest.raises(NotFoundError, match="b"):
        SnapshotReader("b", stack.disk, stack.save, table)


@pytest.mark.requirement("P6")
def test_deleting_the_newest_sends_new_before_images_to_the_one_before(new_stack):
    stack = four_snapshots(new_stack, 0)
    stack.snapped.delete_snapshot("d")
    before = set(stack.save.list("areas/"))
    stack.write(7, 77)
    (key,) = set(stack.save.list("areas/")) - before
    assert key.split("/")[1] in stack.snapped.snapshot("c").areas
    check(stack, "abc")


# --- a salvage is a held snapshot like any other -------------------------------------------------------------------

SALVAGE = "salvage.3-0badcafe"


@pytest.mark.requirement("S4", "P6")
def test_a_salvage_is_never_given_up_others_are_first_then_the_writer_waits_and_status_says_for_what(new_stack):
    """Invariant 11."""
    stack = new_stack(64, areas_bytes=3 * 700)
    stack.write(0, 1, 8)
    stack.snapshot(SALVAGE, held=True)
    stack.snapshot("nightly")
    for number in range(3):
        stack.write(number, 2)
    waits, room = threading.Event(), stack.snapped.queue.room
    real = room.wait

    def wait(timeout=None):
        waits.set()
        return real(timeout)

    room.wait = wait
    thread = threading.Thread(target=stack.write, args=(3, 2), daemon=True)
    thread.start()
    assert waits.wait(30)
    assert [(record.name, record.valid) for record in stack.snapped.snapshots()] == [
        (SALVAGE, True),
        ("nightly", False),
    ]
    assert SALVAGE in stack.volume.stats()["waits_for"]
    assert stack.image(SALVAGE) == stack.images[SALVAGE]
    assert stack.image()[3] == 1
    stack.snapped.hold_snapshot(SALVAGE, held=False)
    thread.join(30)
    assert not thread.is_alive()
    assert stack.image()[3] == 2
    assert not stack.volume.stats()["waits_for"]


@pytest.mark.requirement("P6")
def test_a_salvage_outlives_crashes_and_what_is_made_and_deleted_beside_it(new_stack):
    stack = new_stack(64)
    stack.write(0, 1, 8)
    stack.snapshot(SALVAGE, held=True)
    for number in range(6):
        stack.write(number, 50 + number)
        stack.snapped.create_snapshot(f"s{number}")
        if number % 2:
            stack.snapped.delete_snapshot(f"s{number - 1}")
            stack.crash()
        assert stack.snapped.snapshot(SALVAGE).held
        check(stack, [SALVAGE])


@pytest.mark.requirement("P6", "S4")
def test_snapshots_that_come_and_go_leave_no_empty_areas_to_the_one_that_stays(new_stack):
    """The table of snapshots, which each swap writes whole, does not grow with their number."""
    stack = new_stack(64)
    stack.write(0, 1, 20)
    stack.snapshot("stays", held=True)
    for number in range(12):
        stack.write(number % 3, 2 + number)
        stack.snapshot("goes")
        stack.write(number % 5, 50 + number)
        stack.snapped.delete_snapshot("goes")
        assert stack.image("stays") == stack.images["stays"]
    (record,) = stack.snapped.queue.records()
    (layer,) = stack.snapped.queue.layers
    assert len(record.areas) <= 7, record.areas  # five blocks were saved for it, and one area is written
    assert [area.area for area in layer.areas] == list(record.areas)
    assert {key.split("/")[1] for key in stack.save.list("areas/")} <= set(record.areas)
    assert outside_image(stack, "stays") == stack.images["stays"]


@pytest.mark.requirement("P6", "S4")
def test_a_snapshot_that_cannot_be_made_again_and_again_leaves_nothing(new_stack, monkeypatch):
    stack = new_stack(64)
    stack.write(0, 1, 20)
    stack.snapshot("stays", held=True)
    before = stack.snapped.queue.records()

    class FailingSync:
        def __init__(self, save):
            self._save = save

        def __getattr__(self, name):
            return getattr(self._save, name)

        def sync(self):
            raise NotFoundError("as an error of the store")

    monkeypatch.setattr(stack.snapped.queue, "_save", FailingSync(stack.snapped.queue._save))
    for _ in range(5):
        with pytest.raises(NotFoundError):
            stack.snapped.create_snapshot("never")
    monkeypatch.undo()
    assert stack.snapped.queue.records() == before
    stack.write(0, 9, 3)
    assert outside_image(stack, "stays") == stack.images["stays"]
