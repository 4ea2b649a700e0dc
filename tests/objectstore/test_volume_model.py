"""A bucket volume against a plain image, with every size made small, so that objects, pages and packs turn over."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replkit.objectstore import volume_root
from replkit.objectstore.memory import MemoryObjectStore
from replkit.objectstore.volume import ObjectVolume
from replkit.objectstore.volume_objects import Tuning
from replkit.testing.runtime import ManualRuntime

BLOCK = 512
BLOCKS = 2 * 4096 + 77
SIZE = BLOCKS * BLOCK - 100
SMALL = Tuning(
    object_bytes=16 * BLOCK, buffer_bytes=64 * BLOCK, cache_bytes=32 * BLOCK, page_cache_bytes=4096,
    read_ahead_bytes=8 * BLOCK, recent_objects=4, recent_runs=32, small_bytes=4 * BLOCK, moved_bytes=48 * BLOCK,
)  # fmt: skip


class World:
    """A volume, and what it must hold: now, and after the last flush."""

    def __init__(self, tuning: Tuning = SMALL) -> None:
        self.runtime = ManualRuntime()
        self.store = MemoryObjectStore()
        self.tuning = tuning
        self.volume = ObjectVolume.create(
            self.store, block_size=BLOCK, size_bytes=SIZE, runtime=self.runtime, tuning=tuning
        )
        self.image = bytearray(BLOCKS * BLOCK)
        self.flushed = bytes(self.image)

    def write(self, start: int, count: int, value: int) -> None:
        data = b"".join(bytes([(value + number) & 255]) * BLOCK for number in range(count))
        self.volume.write(start, data)
        self._change(start, data)

    def discard(self, start: int, count: int) -> None:
        self.volume.discard(start, count)
        self._change(start, bytes(count * BLOCK))

    def _change(self, start: int, data: bytes) -> None:
        self.image[start * BLOCK : start * BLOCK + len(data)] = data
        self.image[SIZE:] = bytes(len(self.image) - SIZE)

    def flush(self) -> None:
        self.volume.flush()
        self.flushed = bytes(self.image)

    def reopen(self) -> None:
        self.volume.close()
        self.volume = self.open()
        self.image = bytearray(self.flushed)

    def open(self, **options: Any) -> ObjectVolume:
        return ObjectVolume.open(self.store, runtime=self.runtime, tuning=self.tuning, **options)

    def check(self) -> None:
        assert contents(self.volume) == self.image
        assert used(self.volume) >= nonzero(self.image)


def contents(volume: ObjectVolume) -> bytes:
    buffer = bytearray(volume.block_count * BLOCK)
    step = 1000
    for start in range(0, volume.block_count, step):
        count = min(step, volume.block_count - start)
        volume.read_into(start, memoryview(buffer)[start * BLOCK : (start + count) * BLOCK])
    return bytes(buffer)


def used(volume: ObjectVolume) -> set[int]:
    return {block for start, count in volume.in_use() for block in range(start, start + count)}


def nonzero(image: bytes | bytearray) -> set[int]:
    zeros = bytes(BLOCK)
    return {number for number in range(BLOCKS) if image[number * BLOCK : (number + 1) * BLOCK] != zeros}


runs = st.one_of(
    st.tuples(st.integers(0, BLOCKS - 1), st.integers(1, 40)),
    st.tuples(st.sampled_from([0, 4080, 4095, 4096, 8190, BLOCKS - 1]), st.integers(1, 40)),
)
steps = st.one_of(
    st.tuples(st.just("write"), runs, st.integers(0, 255)),
    st.tuples(st.just("write"), runs, st.integers(0, 255)),
    st.tuples(st.just("discard"), runs, st.sampled_from([1, 1, 200])),
    st.tuples(st.sampled_from(["flush", "flush", "reopen", "compact", "check"]), st.none(), st.none()),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, max_size=40))
def test_any_sequence_equals_a_plain_image(sequence):
    world = World()
    for name, run, value in sequence:
        if run is None:
            {"flush": world.flush, "reopen": world.reopen, "compact": world.volume.compact, "check": world.check}[
                name
            ]()
            if name == "compact":
                world.flushed = bytes(world.image)
        else:
            start, count = run
            stop = min(BLOCKS, start + count * (value if name == "discard" else 1))
            getattr(world, name)(start, stop - start, *([value] if name == "write" else []))
    world.check()
    world.flush()
    world.reopen()
    world.check()


@pytest.mark.parametrize("seed", range(6))
def test_long_random_use_stays_right_and_leaves_little_garbage(seed):
    world, source = World(), random.Random(seed)
    for turn in range(400):
        start = min(source.choice([0, 3000, 4096, 7700]) + source.randrange(600), BLOCKS - 1)
        count = min(source.choice([1, 1, 1, 3, 30]), BLOCKS - start)
        if source.random() < 0.15:
            world.discard(start, count)
        else:
            world.write(start, count, turn)
        if source.random() < 0.3:
            world.flush()
        if source.random() < 0.03:
            world.reopen()
    world.check()
    world.volume.compact()
    world.flushed = bytes(world.image)
    live = sum(count for _, count in world.volume.in_use())
    assert world.volume.live_bytes == live * BLOCK
    assert world.volume.stored_bytes <= 2 * live * BLOCK + SMALL.object_bytes
    stored = sum(len(data) for key, data in world.store.objects.items() if key.startswith("data/"))
    assert stored <= 1.2 * world.volume.stored_bytes
    world.reopen()
    world.check()


def test_a_writer_that_uses_up_its_numbers_takes_a_new_generation(monkeypatch):
    monkeypatch.setattr(volume_root, "_NEW_GENERATION_AT", 10)
    world, source = World(), random.Random(3)
    for turn in range(60):
        world.write(source.randrange(4000), 5, turn)
        world.flush()
    root = world.volume._objects.root
    assert root.generation > 5
    assert len(root.writers) <= root.generation
    world.check()
    world.reopen()
    world.check()
    world.write(0, 4010, 7)  # nothing of the earlier generations is left
    world.volume.compact()
    world.volume.compact()
    world.check()
    assert min(world.volume._objects.root.writers) > 5


def test_writers_come_and_go_without_a_trace():
    world = World()
    world.write(3, 4, 1)
    world.flush()
    for _ in range(30):
        world.reopen()
    root = world.volume._objects.root
    assert root.generation == 31
    assert len(root.writers) + len(root.unclean) < 20
    world.check()


@pytest.mark.parametrize("is_flushed", [False, True], ids=["buffered", "flushed"])
def test_of_writes_and_discards_of_one_block_the_last_one_counts(is_flushed):
    world = World()
    world.write(0, 10, 1)
    world.discard(2, 6)
    world.write(4, 2, 50)
    world.discard(5, 1)
    world.discard(20, 5000)
    world.write(4095, 3, 60)
    if is_flushed:
        world.flush()
        world.reopen()
    world.check()
    assert used(world.volume) == {0, 1, 4, 8, 9, 4095, 4096, 4097}
    world.discard(0, 1)
    assert 0 not in used(world.volume)
