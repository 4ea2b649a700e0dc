"""Replication runs unchanged with its volumes and save volumes in buckets, in any mix with disks (U3)."""

from __future__ import annotations

import itertools

import pytest

from replkit.testing.crashing import CrashDisk
from replkit.testing.sim import machines
from replkit.testing.sim.model import read_all
from replkit.testing.sim.world import World

BLOCKS = 64
_numbers = itertools.count()


@pytest.fixture
def bucket_url(moto_bucket, s3_credentials):
    endpoint, bucket = moto_bucket
    return lambda: f"s3://{bucket}/replica{next(_numbers)}?endpoint={endpoint}&fencing=off"


@pytest.fixture
def opened():
    stores = []
    yield stores
    for store in stores:
        store.close()


@pytest.mark.requirement("U2", "U3")
@pytest.mark.parametrize(
    ("bucket_disks", "bucket_saves"),
    [((1,), ()), ((), (0, 1)), ((0, 1), (0, 1))],
    ids=["a bucket as the secondary", "both save volumes in buckets", "everything in buckets"],
)
def test_a_secondary_equals_its_primary_wherever_they_are(
    monkeypatch, registry, bucket_url, opened, bucket_disks, bucket_saves
):
    disks, saves, sim_save_volume = itertools.count(), itertools.count(), machines.SimSaveVolume

    def new_disk(power, block_count, *, block_size):
        if next(disks) not in bucket_disks:
            return CrashDisk(power, block_count, block_size=block_size)
        size = block_count * block_size
        opened.append(registry.open_volume(bucket_url(), size_bytes=size, block_size=block_size, create=True))
        return opened[-1]

    def new_save(power, *, sets_bytes):
        if next(saves) not in bucket_saves:
            return sim_save_volume(power, sets_bytes=sets_bytes)
        opened.append(registry.open_save_volume(bucket_url(), create=True))
        return opened[-1]

    monkeypatch.setattr(machines, "CrashDisk", new_disk)
    monkeypatch.setattr(machines, "SimSaveVolume", new_save)
    world = World(seed=5, block_count=BLOCKS)
    for block in range(0, BLOCKS, 3):
        world.write(block, bytes([block + 1]) * machines.BLOCK_SIZE)
    world.add_members()
    world.settle()
    assert read_all(world.secondaries[0].disk) == bytes(world.model.image)
    for block in (0, 7, 40):
        world.write(block, bytes([200 + block % 50]) * machines.BLOCK_SIZE)
    world.primary.replica.cut()
    world.settle()
    assert read_all(world.secondaries[0].disk) == bytes(world.model.image)
    assert len(opened) == len(bucket_disks) + len(bucket_saves)
