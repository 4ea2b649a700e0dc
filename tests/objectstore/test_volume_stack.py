"""The layers above run on a bucket volume unchanged: snapshots, their crash, and a secondary's view (U3)."""

from __future__ import annotations

import random

import pytest

from replkit.backends.memory import MemorySaveVolume
from replkit.objectstore.memory import MemoryObjectStore
from replkit.objectstore.volume import ObjectVolume
from replkit.objectstore.volume_objects import Tuning
from replkit.snapshot.intents import IntentLog
from replkit.snapshot.reader import SnapshotReader
from replkit.snapshot.records import CellSnapshotTable
from replkit.snapshot.snapped import SnappedVolume
from replkit.testing.runtime import ThreadRuntime

BLOCK = 512
BLOCKS = 5000
TINY = Tuning(object_bytes=8 * BLOCK, buffer_bytes=32 * BLOCK, recent_objects=4, small_bytes=3 * BLOCK)


class World:
    """A snapped volume over a bucket, with its before-images in a save volume in memory."""

    def __init__(self) -> None:
        self.runtime = ThreadRuntime()
        self.store = MemoryObjectStore()
        ObjectVolume.create(
            self.store, block_size=BLOCK, size_bytes=BLOCKS * BLOCK, runtime=self.runtime, tuning=TINY
        ).close()
        self.save = MemorySaveVolume(1 << 30)
        self.table = CellSnapshotTable(self.save)
        self.open()

    def open(self) -> None:
        self.clone = ObjectVolume.open(self.store, runtime=self.runtime, tuning=TINY)
        intents = IntentLog(self.save, self.runtime, block_count=BLOCKS, block_size=BLOCK)
        self.volume = SnappedVolume(self.clone, self.save, self.table, intents, self.runtime)


def read(volume, start=0, count=BLOCKS) -> bytes:
    buffer = bytearray(count * BLOCK)
    volume.read_into(start, buffer)
    return bytes(buffer)


@pytest.mark.requirement("U3", "P1", "P6")
def test_snapshots_of_a_bucket_volume_keep_their_state_through_writes_garbage_collection_and_reopening():
    world, source, images = World(), random.Random(1), {}
    for number in range(5):
        for _ in range(60):
            start = source.choice([0, 4080]) + source.randrange(60)
            if source.random() < 0.2:
                world.volume.discard(start, source.choice([1, 9]))
            else:
                world.volume.write(start, source.randbytes(BLOCK) * source.choice([1, 6]))
        images[f"s{number}"] = read(world.volume)
        world.volume.create_snapshot(f"s{number}")
        if number == 2:
            world.volume.delete_snapshot("s1")
            del images["s1"]
            world.volume.flush()
            world.open()
    world.clone.compact()
    for name, image in images.items():
        assert read(world.volume.open_snapshot(name)) == image
        with ObjectVolume.open(world.store, runtime=world.runtime, read_only=True) as elsewhere:
            assert read(SnapshotReader(name, elsewhere, world.save, world.table)) == image


@pytest.mark.requirement("U3")
def test_a_snapshot_survives_a_crash_of_the_writer_before_its_flush():
    """A before-image is durable before its block is overwritten, the bucket keeps the flushed one (invariant 4)."""
    world = World()
    world.volume.write(10, bytes([1]) * BLOCK * 40)
    world.volume.create_snapshot("a")
    world.volume.write(20, bytes([2]) * BLOCK * 40)
    world.open()  # the writer before is gone without a flush
    assert read(world.volume, 10, 40) == bytes([1]) * BLOCK * 40
    assert read(world.volume.open_snapshot("a"), 10, 40) == bytes([1]) * BLOCK * 40
    world.volume.write(20, bytes([3]) * BLOCK * 40)
    world.volume.flush()
    world.open()
    assert read(world.volume, 20, 40) == bytes([3]) * BLOCK * 40
    assert read(world.volume.open_snapshot("a"), 10, 40) == bytes([1]) * BLOCK * 40
