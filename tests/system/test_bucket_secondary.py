"""A secondary in a bucket, held by the daemon of its primary: nobody is at home there (U2, U3)."""

from __future__ import annotations

import os
import random

import pytest

from .buckets import BLOCK, PLAIN, SIZE, BucketWorld, Image, read_all

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def world(tmp_path, seaweed_bucket):
    world = BucketWorld(tmp_path, seaweed_bucket)
    yield world
    world.stop()


@pytest.mark.requirement("U2", "U3", "U4", "S2")
def test_a_plain_pair_with_both_stores_in_a_bucket_follows_through_restarts_and_kills(world):
    text = PLAIN.format(size=SIZE, volume=world.url("disk/volume"), save=world.url("disk/save"))
    a, image, chance = world.site("a", text), Image(), random.Random(1)
    world.start(a)
    image.write(world, a.nbd_address, 0, os.urandom(4 << 20))
    for life in range(4):
        if life:
            world.start(a)
        for _ in range(3):
            for _ in range(10):
                image.write(world, a.nbd_address, BLOCK * chance.randrange(SIZE // BLOCK), os.urandom(BLOCK))
            waited = world.ask("wait", "disk", "--played", "--timeout", 60)
            assert waited["members"] == ["bucket"]
            assert read_all(f"unix:{a.folder}/b.nbd", "disk-bucket") == bytes(image.data)
        there = world.named("disk-bucket")
        assert there["played"] == {key: waited["position"][key] for key in ("epoch", "number")}
        image.write(world, a.nbd_address, 0, os.urandom(BLOCK))
        if life % 2:
            world.kill(a)
        else:
            assert world.daemons.pop("a").stop() == 0
