"""What rots in a bucket is found by a scrub, and sent again by the primary that keeps it there (D3, U3)."""

from __future__ import annotations

import json
import os

import pytest

from replkit.testing.s3_servers import s3_client

from .buckets import BucketWorld, Image, read_all, sugar

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def world(tmp_path, seaweed_bucket):
    world = BucketWorld(tmp_path, seaweed_bucket)
    yield world
    world.stop()


def rot(world, what="volume/data"):
    """Flip a bit in the largest object below there, of the secondary in the bucket."""
    client, prefix = s3_client(world.endpoint), f"{world.folder.name.replace('_', '-')}/dr/disk/{what}/"
    listed = client.list_objects_v2(Bucket=world.bucket, Prefix=prefix)["Contents"]
    key = max(listed, key=lambda item: item["Size"])["Key"]
    body = bytearray(client.get_object(Bucket=world.bucket, Key=key)["Body"].read())
    body[len(body) // 3] ^= 1
    client.put_object(Bucket=world.bucket, Key=key, Body=bytes(body))
    client.close()


def give_up_what_needs_the_block(world):
    """A snapshot that needs a damaged block keeps it from being overwritten, says so, and goes by command only."""
    deleted = set()

    def is_played():
        volume = world.named("disk-bucket")
        for error in volume["errors"]:
            name = error.partition("; snapshot ")[2].partition(" needs")[0]
            if name and name not in deleted and any(one["name"] == name for one in volume["snapshots"]):
                world.run("snapshot", "delete", "disk-bucket", name)
                deleted.add(name)
        return "kept" in deleted and volume["received"] == volume["played"]

    world.is_so(is_played, "the block is overwritten when no snapshot needs it")


@pytest.mark.requirement("D3", "U3")
@pytest.mark.parametrize("keeps_boundaries", [False, True])
def test_a_damaged_block_in_the_bucket_is_named_and_sent_again(world, keeps_boundaries):
    text = sugar(world) if keeps_boundaries else sugar(world).replace("keep_all_s = 86400", "keep_all_s = 0")
    a, image = world.site("a", text), Image()
    world.start(a)
    image.write(world, a.nbd_address, 0, os.urandom(2 << 20))
    world.ask("wait", "disk", "--played", "--timeout", 60)
    image.write(world, a.nbd_address, 0, os.urandom(4096))
    world.ask("wait", "disk", "--played", "--timeout", 60)
    if keeps_boundaries:  # snapshots of the retention that are older than the blocks do not need them
        world.run("snapshot", "create", "disk-bucket", "kept")
    assert "512 blocks, " in world.run("scrub", "disk-bucket")
    assert " 0 damaged" in world.command("s3", "scrub", world.url("dr/disk/save"))  # its cell root is no volume's

    rot(world)
    found = world.ask("scrub", "disk-bucket", code=1)
    assert (found["damaged_blocks"], found["damage_count"], found["repair"]) == (1, 1, None)
    assert found["damage"][0].startswith("block ")
    assert "at the site of its primary" in world.run("scrub", "disk", "--repair", code=2)
    assert world.daemons.pop("a").stop() == 0
    world.start(a)  # nothing of it is in anybody's memory
    found = json.loads(world.run("scrub", "disk-bucket", "--repair", "--json", code=1))
    assert found["repair"]["blocks"] == 1
    if keeps_boundaries:
        give_up_what_needs_the_block(world)
    waited = world.ask("wait", "disk", "--played", "--timeout", 60)
    assert waited["position"]["number"] >= found["repair"]["number"]
    assert "none damaged" in world.run("scrub", "disk-bucket")
    assert read_all(f"unix:{a.folder}/b.nbd", "disk-bucket") == bytes(image.data)


@pytest.mark.requirement("D3", "U3")
def test_a_set_that_rotted_in_the_bucket_before_it_was_played_is_fetched_again(world):
    late = "play_interval_s = 86400, play_high_water_bytes = 1000000000"
    a, image = world.site("a", sugar(world).replace("keep_all_s = 86400", late)), Image()
    world.start(a)
    world.is_so(lambda: world.named("disk")["members"][0]["state"] == "following", "the new copy is made")
    image.write(world, a.nbd_address, 0, os.urandom(2 << 20))
    world.ask("wait", "disk", "--durable-on", 1, "--timeout", 60)
    rot(world, "save/bundles")
    assert world.ask("scrub", "disk-bucket", code=1)["damage"][0].startswith("sets/")
    found = json.loads(world.run("scrub", "disk-bucket", "--repair", "--json", code=1))
    assert found["repair"] == {"blocks": 0, "number": None, "records": 1, "left": []}
    assert "none damaged" in world.run("scrub", "disk-bucket")
    world.ask("policy", "disk-bucket", "play_interval_s=0")
    world.ask("wait", "disk", "--played", "--timeout", 60)
    assert read_all(f"unix:{a.folder}/b.nbd", "disk-bucket") == bytes(image.data)
