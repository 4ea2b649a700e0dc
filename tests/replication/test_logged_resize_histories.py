"""Random histories of writes, discards, snapshots, cuts, resizes and crashes against naive images (X5)."""

from __future__ import annotations

import random

import pytest

from replkit.deltaset.pieces import Kind
from replkit.errors import AlreadyExistsError, ReplkitError
from replkit.replication.logged import LoggedVolume
from replkit.snapshot import intents, resizing
from replkit.snapshot.intents import IntentLog
from replkit.snapshot.reader import SnapshotReader
from replkit.snapshot.records import CellSnapshotTable
from replkit.snapshot.snapped import SnappedVolume
from replkit.testing.crashing import CrashDisk, CrashSaveVolume, Power, PowerFailure
from replkit.testing.runtime import ThreadRuntime

SIZE = 512
SIZES = [20, 24, 37, 48, 64]


def image(shown):
    buffer = bytearray(shown.block_count * SIZE)
    shown.read_into(0, buffer)
    return list(buffer[::SIZE])


class History:
    """``live`` is what the volume must show, ``copy`` a replica that is fed by the cuts alone."""

    def __init__(self, seed, shift):
        self.power, self.shift = Power(seed), shift
        self.disk = CrashDisk(self.power, 48, block_size=SIZE)
        self.save = CrashSaveVolume(self.power)
        self.live, self.copy = [0] * 48, [0] * 48
        self.snapshots = {}
        self.value = 0
        self.open()

    def open(self):
        table = CellSnapshotTable(self.save)
        self.stack = LoggedVolume.open(self.disk, self.save, table, ThreadRuntime(), in_use_shift=self.shift)

    def run(self, steps):
        for step, start, count, fail_at in steps:
            before = list(self.live)
            self.stack.flush()
            self.power.fail_at(fail_at or None)
            try:
                getattr(self, step)(start, count)
                self.power.fail_at(None)
            except PowerFailure:
                self.recover(before)
            self.check()

    def recover(self, before):
        """The content is that before the step, or any of its blocks is as after it, at one of the two sizes."""
        self.power.restore()
        self.open()
        found = image(self.stack)
        assert len(found) in {len(before), len(self.live)}
        for number, value in enumerate(found):
            was = before[number] if number < len(before) else 0
            assert value in {was, self.live[number] if number < len(self.live) else 0, 0 if was else value}
        self.live = found
        self.stack.flush()
        for name in set(self.snapshots) - {record.name for record in self.stack.snapped.snapshots()}:
            del self.snapshots[name]

    def write(self, start, count):
        count = min(count, len(self.live) - start)
        if count > 0:
            self.value = self.value % 250 + 1
            self.live[start : start + count] = [self.value] * count
            self.stack.write(start, bytes([self.value]) * SIZE * count)

    def discard(self, start, count):
        count = min(count, len(self.live) - start)
        if count > 0:
            self.live[start : start + count] = [0] * count
            self.stack.discard(start, count)

    def resize(self, start, count):
        blocks = SIZES[(start + count) % len(SIZES)]
        self.live = (self.live + [0] * blocks)[:blocks]
        self.stack.resize(blocks * SIZE)

    def snapshot(self, start, _count):
        name = f"s{start % 4}"
        try:
            self.snapshots.setdefault(name, list(self.live))
            self.stack.snapped.create_snapshot(name)
        except AlreadyExistsError:
            self.stack.snapped.delete_snapshot(name)
            del self.snapshots[name]

    def cut(self, _start, _count):
        cut = self.stack.begin_cut()
        received = []
        for reach in cut.ranges(7):
            pieces, data = cut.copy_range(reach.start, reach.stop)
            plain, offset = b"".join(data), 0
            for start, count, kind in pieces:
                values = [0] * count
                if kind is Kind.DATA:
                    values = list(plain[offset : offset + count * SIZE : SIZE])
                    offset += count * SIZE
                received.append((start, values))
        self.stack.flush()
        cut.finish()
        blocks = self.stack.block_count  # what a member does with the set
        self.copy = (self.copy + [0] * blocks)[:blocks]
        for start, values in received:
            self.copy[start : start + len(values)] = values
        assert self.copy == self.live

    def clear(self, _start, _count):
        self.stack.clear_idle_intents()

    def reopen(self, _start, _count):
        self.stack.close_clean()
        self.open()

    def crash(self, _start, _count):
        raise PowerFailure

    def check(self):
        assert image(self.stack) == self.live
        marked = self.stack.changelog.current
        for number, value in enumerate(self.live):  # invariant 2
            assert number in marked or value == (self.copy[number] if number < len(self.copy) else 0)
        for name, wanted in self.snapshots.items():
            assert image(self.stack.snapped.open_snapshot(name)) == wanted, name
            assert image(SnapshotReader(name, self.disk, self.save, CellSnapshotTable(self.save))) == wanted, name


STEPS = ["write", "write", "discard", "resize", "resize", "snapshot", "cut", "clear", "reopen", "crash"]


def random_steps(chance):
    def one():
        fail_at = chance.choice([0, 0, 0, chance.randint(1, 9)])
        return chance.choice(STEPS), chance.randrange(64), chance.randint(1, 9), fail_at

    return [one() for _ in range(chance.randint(5, 40))]


@pytest.fixture(autouse=True)
def _small_regions(monkeypatch):
    """Four blocks, so that a crash leaves not everything in doubt."""
    monkeypatch.setattr(intents, "MIN_REGION_BYTES", 4 * SIZE)


def shrink_and_grow(fail_at):
    """Random histories meet it seldom: the power fails while a volume grows back over what a member still holds."""
    before = [("write", 40, 8, 0), ("cut", 0, 1, 0), ("clear", 0, 1, 0), ("resize", 0, 5, 0)]
    return [*before, ("resize", 0, 4, fail_at)]


def run_histories():
    histories = [(seed, random_steps(random.Random(seed))) for seed in range(150)]
    for seed, steps in [*histories, *((number, shrink_and_grow(number)) for number in range(8))]:
        history = History(seed, seed % 3)
        history.run(steps)
        history.run([("cut", 0, 1, 0)])


@pytest.mark.requirement("X5", "S5", "P1", "D1")
def test_every_history_with_resizes_shows_what_it_must():
    run_histories()


# --- planted breaks: each must be found by the same histories (DESIGN section 10) ------------------------------------


def break_marks_of_what_is_new(patch):
    def follow(self, _old_block_count):
        self.size_bytes = self.snapped.size_bytes
        self.changelog.resize(self.block_count)

    patch.setattr(LoggedVolume, "follow_resize", follow)


def break_intents_of_what_is_new(patch):
    real = IntentLog.resize
    patch.setattr(IntentLog, "resize", lambda self, block_count, dirty=(): real(self, block_count))


def break_discard_of_what_goes(patch):
    patch.setattr(resizing, "_what_goes", lambda snapped, size_bytes: [])


def break_order_of_growing(patch):
    real = SnappedVolume.resize_inside

    def resize_inside(self, size_bytes):
        self.volume.resize(size_bytes)  # before the intents of what is new
        real(self, size_bytes)

    patch.setattr(SnappedVolume, "resize_inside", resize_inside)


BREAKS = [planted for name, planted in sorted(globals().items()) if name.startswith("break_")]


@pytest.mark.requirement("X5")
@pytest.mark.parametrize("planted", BREAKS, ids=lambda planted: planted.__name__)
def test_a_planted_break_is_found(planted, monkeypatch):
    planted(monkeypatch)
    with pytest.raises((AssertionError, ReplkitError)):
        run_histories()
