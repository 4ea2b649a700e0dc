"""A primary and a secondary whose disks are bucket volumes, in the simulated world, with power failures (U3)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

import pytest

from replkit.blocks.extent import Extent
from replkit.contracts.buffers import Buffer
from replkit.contracts.volume import BlockVolume, Capability
from replkit.objectstore.memory import MemoryObjectStore
from replkit.objectstore.volume import ObjectVolume
from replkit.objectstore.volume_objects import Tuning
from replkit.testing.crashing import Power
from replkit.testing.runtime import ManualRuntime
from replkit.testing.sim.machines import BLOCK_SIZE
from replkit.testing.sim.world import World

BLOCKS = 64
TINY = Tuning(
    object_bytes=8 * BLOCK_SIZE, buffer_bytes=24 * BLOCK_SIZE, recent_objects=4, small_bytes=3 * BLOCK_SIZE,
    cache_bytes=16 * BLOCK_SIZE,
)  # fmt: skip


class PoweredStore(MemoryObjectStore):
    """Every request that changes something may be the last one of its machine."""

    def __init__(self, power: Power) -> None:
        super().__init__()
        self._power = power

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        self._power.spend()
        super().put(key, parts)

    def put_new(self, key: str, data: Buffer) -> None:
        self._power.spend()
        super().put_new(key, data)

    def delete(self, keys: Iterable[str]) -> None:
        self._power.spend()
        super().delete(keys)


class BucketDisk(BlockVolume):
    """A bucket volume that is opened again after a power failure, as a restarted machine does."""

    discards = tells_in_use = resizes = Capability.NATIVE

    def __init__(self, power: Power, runtime: ManualRuntime) -> None:
        self._store, self._runtime = PoweredStore(power), runtime
        self.block_size, self.size_bytes = BLOCK_SIZE, BLOCKS * BLOCK_SIZE
        self.opened = 0
        self.volume = ObjectVolume.create(
            self._store, block_size=BLOCK_SIZE, size_bytes=self.size_bytes, runtime=runtime, tuning=TINY
        )
        self._is_lost = False
        power.attach(self)  # type: ignore[arg-type]

    def lose_power(self, _source: random.Random) -> None:
        self._is_lost = True

    def _now(self) -> ObjectVolume:
        if self._is_lost:
            self.volume = ObjectVolume.open(self._store, runtime=self._runtime, tuning=TINY)
            self._is_lost = False
            self.opened += 1
        return self.volume

    def read_into(self, start: int, buffer: Buffer) -> None:
        self._now().read_into(start, buffer)

    def write(self, start: int, buffer: Buffer) -> None:
        self._now().write(start, buffer)

    def discard(self, start: int, count: int) -> None:
        self._now().discard(start, count)

    def flush(self) -> None:
        self._now().flush()

    def in_use(self) -> Iterator[Extent]:
        return self._now().in_use()


def world_in_buckets(seed: int) -> World:
    world = World(seed, block_count=BLOCKS)
    for machine in world.machines:
        machine.disk = BucketDisk(machine.power, world.runtime)
        machine.start()
    world.write(0, b"0" * BLOCK_SIZE * 16)
    world.add_members()
    world.settle()
    return world


@pytest.mark.requirement("U3", "C2", "C3", "P6")
@pytest.mark.parametrize("seed", range(4))
def test_a_secondary_in_a_bucket_follows_a_primary_in_a_bucket_through_power_failures(seed):
    """Its view is a boundary at every moment (invariant 5), playback is repeatable (6), and it converges."""
    world = world_in_buckets(seed)
    for turn in range(250):
        if world.random.random() < 0.3 and world.primary.is_up:
            world.primary.guarded(world.write_some)
        world.tick()
        world.check()
        machine = world.random.choice(world.machines)
        if turn % 25 == 10 and machine.is_up:
            machine.power.fail_at(world.random.randrange(1, 25))
        for machine in world.machines:
            if not machine.is_up and world.random.random() < 0.3:
                world.restart(machine)
    world.settle()
    world.check_equal()
    assert sum(machine.disk.opened for machine in world.machines) >= 3


@pytest.mark.requirement("U3", "C3")
def test_a_reader_with_the_bucket_alone_sees_what_the_secondary_has_flushed():
    world = world_in_buckets(9)
    disk = world.secondaries[0].disk
    disk.flush()
    reader = ObjectVolume.open(disk._store, runtime=world.runtime, read_only=True)
    buffer = bytearray(BLOCKS * BLOCK_SIZE)
    reader.read_into(0, buffer)
    assert buffer == world.model.image
