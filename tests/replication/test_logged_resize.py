"""Resizing a volume stack: marks, snapshots, maps, and a crash or a failure at every device call (X5)."""

from __future__ import annotations

import threading

import pytest

from replkit.backends.memory import MemorySaveVolume, MemoryVolume
from replkit.blocks.extent import Extent
from replkit.contracts.volume import Capability
from replkit.deltaset.pieces import Kind, Piece
from replkit.errors import InvalidArgumentError, LocalProtocolError, UnsupportedError, VolumeFailedError, WrongRoleError
from replkit.replication.logged import LoggedVolume
from replkit.snapshot.records import CellSnapshotTable
from replkit.testing.crashing import CrashDisk, CrashSaveVolume, Power, PowerFailure
from replkit.testing.runtime import ThreadRuntime

SIZE = 512
BLOCKS = 4096


class World:
    def __init__(self, seed=0, blocks=BLOCKS):
        self.power = Power(seed)
        self.disk = CrashDisk(self.power, blocks, block_size=SIZE)
        self.save = CrashSaveVolume(self.power)
        self.open()

    def open(self):
        self.stack = LoggedVolume.open(self.disk, self.save, CellSnapshotTable(self.save), ThreadRuntime())
        self.snapped = self.stack.snapped

    def write(self, start, value, count=1):
        self.stack.write(start, bytes([value]) * SIZE * count)

    def read(self, start, count=1, name=None):
        buffer = bytearray(count * SIZE)
        (self.snapped.open_snapshot(name) if name else self.stack).read_into(start, buffer)
        return list(buffer[::SIZE])

    def cut(self):
        """The pieces of a cut that is committed."""
        opened = self.stack.begin_cut()
        pieces, _data = opened.copy_range(0, self.stack.block_count)
        self.stack.flush()
        opened.finish()
        return pieces

    def is_marked(self, start, count):
        return self.stack.changelog.current.all_in(start, count)


@pytest.fixture
def world():
    return World()


@pytest.mark.requirement("X5")
def test_what_is_new_begins_unused_and_travels_as_discarded(world):
    world.cut()
    world.stack.resize((BLOCKS + 100) * SIZE)
    assert (world.stack.size_bytes, world.disk.block_count) == ((BLOCKS + 100) * SIZE, BLOCKS + 100)
    assert list(world.stack.in_use()) == []
    world.write(BLOCKS + 50, 1)
    assert world.cut() == [
        Piece(BLOCKS, 50, Kind.DISCARD), Piece(BLOCKS + 50, 1, Kind.DATA), Piece(BLOCKS + 51, 49, Kind.DISCARD),
    ]  # fmt: skip


@pytest.mark.requirement("X5")
def test_a_shrink_and_a_growth_before_the_next_cut_lose_no_discard(world):
    world.write(BLOCKS - 4, 1, 4)
    world.cut()
    world.stack.resize((BLOCKS - 4) * SIZE)
    world.stack.resize(BLOCKS * SIZE)
    assert world.read(BLOCKS - 4, 4) == [0] * 4
    assert world.cut() == [Piece(BLOCKS - 4, 4, Kind.DISCARD)]


@pytest.mark.requirement("X5", "S5")
def test_a_shrink_and_a_growth_and_a_crash_lose_no_mark(world):
    world.write(BLOCKS - 4, 1, 4)
    world.cut()
    world.stack.clear_idle_intents()
    world.stack.resize((BLOCKS - 4) * SIZE)
    world.cut()
    world.stack.clear_idle_intents()
    world.stack.resize(BLOCKS * SIZE)
    world.power.restore()
    world.open()
    assert world.is_marked(BLOCKS - 4, 4)


@pytest.mark.requirement("X5")
def test_a_shrink_inside_a_block_clears_its_end_for_everybody(world):
    world.write(9, 7, 2)
    world.snapped.create_snapshot("a")
    world.cut()
    world.stack.resize(9 * SIZE + 100)
    block = bytearray(SIZE)
    world.stack.read_into(9, block)
    assert block == bytes([7]) * 100 + bytes(SIZE - 100)
    assert world.is_marked(9, 1)
    assert world.read(9, 2, "a") == [7, 7]
    whole = bytearray(SIZE)
    world.snapped.open_snapshot("a").read_into(9, whole)
    assert whole == bytes([7]) * SIZE
    world.stack.resize(10 * SIZE)
    world.stack.read_into(9, block)
    assert block == bytes([7]) * 100 + bytes(SIZE - 100)


@pytest.mark.requirement("X5", "P1")
def test_a_snapshot_made_while_the_end_is_discarded_keeps_what_was_written_after(world, monkeypatch):
    world.write(BLOCKS - 2, 1, 2)
    real = world.stack.discard

    def discard_and_write(start, count):
        real(start, count)
        world.write(BLOCKS - 1, 5)
        world.snapped.create_snapshot("late")

    monkeypatch.setattr(world.stack, "discard", discard_and_write)
    world.stack.resize((BLOCKS - 2) * SIZE)
    assert world.read(BLOCKS - 2, 2, "late") == [0, 5]
    assert world.snapped.snapshot("late").size_bytes == BLOCKS * SIZE


@pytest.mark.requirement("X5")
def test_a_resize_that_cannot_be_is_refused_before_anything_is_touched(world, monkeypatch):
    world.write(BLOCKS - 1, 1)
    cut = world.stack.begin_cut()
    with pytest.raises(LocalProtocolError, match="cut is open"):
        world.stack.resize(SIZE)
    cut.abandon()
    world.stack.suspend_writes()
    with pytest.raises(WrongRoleError, match="suspended"):
        world.stack.resize(SIZE)
    world.stack.resume_writes()
    with pytest.raises(InvalidArgumentError, match="0 bytes"):
        world.stack.resize(0)
    monkeypatch.setattr(world.snapped, "resizes", Capability.NONE)
    with pytest.raises(UnsupportedError, match="its backend cannot"):
        world.stack.resize(SIZE)
    assert world.read(BLOCKS - 1) == [1]
    world.stack.resize(BLOCKS * SIZE)


@pytest.mark.requirement("X5")
def test_a_volume_that_fails_to_grow_leaves_the_stack_at_its_size(world, monkeypatch):
    def fail(size_bytes):
        raise VolumeFailedError(f"no {size_bytes} bytes")

    with monkeypatch.context() as patch:
        patch.setattr(world.disk, "resize", fail)
        with pytest.raises(VolumeFailedError):
            world.stack.resize(2 * BLOCKS * SIZE)
    world.write(BLOCKS - 1, 1)
    assert world.stack.block_count == BLOCKS
    assert world.cut() == [Piece(BLOCKS - 1, 1, Kind.DATA)]
    world.stack.resize(2 * BLOCKS * SIZE)
    world.write(2 * BLOCKS - 1, 2)
    assert world.read(2 * BLOCKS - 1) == [2]


USED = [0, 2040, 2041, 2042, 2043, 4094, 4095]


@pytest.mark.requirement("X5", "S5", "P1")
@pytest.mark.parametrize("blocks", [2042, BLOCKS + 2050])
def test_a_crash_at_any_device_call_of_a_resize_opens_with_either_size(blocks):
    """Invariants 2 and 4: no mark is lost, and the snapshot is whole."""
    before = [2 * (number in USED) for number in range(BLOCKS)]
    sizes, fail_at, is_done = set(), 0, False
    while not is_done:
        fail_at += 1
        world = World(fail_at)
        for number in USED:
            world.write(number, 2)
        world.snapped.create_snapshot("a")
        world.cut()
        world.stack.clear_idle_intents()
        world.power.fail_at(fail_at)
        try:
            world.stack.resize(blocks * SIZE)
            is_done = True  # and a crash after the last call
        except PowerFailure:
            pass
        world.power.restore()
        world.open()
        sizes.add(world.stack.block_count)
        assert world.read(0, BLOCKS, "a") == before
        if world.stack.block_count > BLOCKS:
            assert world.is_marked(BLOCKS, blocks - BLOCKS)
            assert not any(world.read(BLOCKS, blocks - BLOCKS))
        for number, value in enumerate(world.read(0, min(BLOCKS, blocks))):
            assert value == before[number] or world.is_marked(number, 1)
        world.stack.resize(blocks * SIZE)
        world.write(blocks - 1, 9)
        assert world.read(0, BLOCKS, "a") == before
        world.stack.close_clean()
        world.open()
        assert world.read(blocks - 1) == [9]
    assert sizes == {BLOCKS, blocks}
    assert fail_at >= 4  # a swap of the intents counts twice, before and after it


@pytest.mark.requirement("X5")
def test_clearing_intents_and_resizing_do_not_meet():
    disk, save = MemoryVolume(BLOCKS * SIZE, block_size=SIZE), MemorySaveVolume()
    stack = LoggedVolume.open(disk, save, CellSnapshotTable(save), ThreadRuntime())
    stop, faults = threading.Event(), []

    def run(work):
        try:
            while not stop.is_set():
                work()
        except BaseException as error:
            faults.append(error)
            raise

    def write():
        stack.write(0, bytes(SIZE))
        stack.write(2047, bytes(SIZE))

    def cut():
        opened = stack.begin_cut()
        opened.copy_range(0, stack.block_count)
        opened.finish()

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in (stack.clear_idle_intents, write)]
    for thread in threads:
        thread.start()
    try:
        for number in range(60):
            stack.resize((2048 if number % 2 else 3 * BLOCKS) * SIZE)
            cut()
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
    assert faults == []


@pytest.mark.requirement("X5", "S5")
def test_a_resize_waits_while_intents_are_being_cleared(world, monkeypatch):
    world.write(BLOCKS - 1, 1)
    world.cut()
    resizer = threading.Thread(target=world.stack.resize, args=(2048 * SIZE,), daemon=True)
    flush = world.disk.flush

    def flush_and_resize():
        monkeypatch.undo()
        flush()
        resizer.start()
        resizer.join(0.1)  # it must not come through here, so it cannot tell when it is waiting

    monkeypatch.setattr(world.disk, "flush", flush_and_resize)
    world.stack.clear_idle_intents()
    resizer.join(30)
    assert world.stack.block_count == 2048


@pytest.mark.requirement("X5", "P6")
def test_snapshots_and_their_save_areas_outlive_a_shrink_a_growth_and_deletions(world):
    world.write(BLOCKS - 4, 1, 4)
    world.snapped.create_snapshot("a")
    world.write(BLOCKS - 4, 2)
    world.snapped.create_snapshot("b")
    world.stack.resize((BLOCKS - 3) * SIZE)
    world.snapped.create_snapshot("c")
    world.stack.resize((BLOCKS + 4) * SIZE)
    world.write(BLOCKS - 4, 3, 8)
    for _ in range(2):
        assert world.read(BLOCKS - 4, 4, "a") == [1] * 4
        assert world.read(BLOCKS - 4, 4, "b") == [2, 1, 1, 1]
        assert world.read(BLOCKS - 4, 1, "c") == [2]
        world.stack.close()
        world.open()
    world.snapped.delete_snapshot("b")
    world.snapped.delete_snapshot("c")
    assert world.read(BLOCKS - 4, 4, "a") == [1] * 4
    assert list(world.snapped.open_snapshot("a").in_use()) == [Extent(BLOCKS - 4, 4)]


@pytest.mark.requirement("X5", "R9")
@pytest.mark.parametrize("blocks", [BLOCKS + 1, BLOCKS - 1, 1])
def test_where_a_role_is_over_the_size_stays_too(world, blocks):
    """Invariant 8: a fenced primary took no write, and could be made larger, or smaller where nothing was in use."""
    world.write(0, 1)
    world.stack.refuse_writes(WrongRoleError("this role is over"))
    with pytest.raises(WrongRoleError, match="this role is over"):
        world.stack.resize(blocks * SIZE)
    assert world.disk.size_bytes == BLOCKS * SIZE
    world.stack.refuse_writes(None)
    world.stack.resize(blocks * SIZE)
    assert world.disk.size_bytes == blocks * SIZE
