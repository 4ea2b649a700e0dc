"""A site is destroyed; with only its bucket another machine goes on, and the first one comes back (U3, X2, R1, R4)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from replkit.cli.demo.sites import free_ports

from .buckets import BLOCK, SIZE, BucketWorld, Image, read_all, sugar

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def world(tmp_path, seaweed_bucket):
    world = BucketWorld(tmp_path, seaweed_bucket)
    yield world
    world.stop()


def adopt(world, *words, code=0):
    from click.testing import CliRunner

    from replkit.cli.main import main

    result = CliRunner().invoke(main, ["adopt", world.url("dr"), *map(str, words)])
    assert result.exit_code == code, result.output
    return result.output


def rounds(world, image, site, count, seed):
    """Images by position, and when each boundary was reached."""
    chance, found = random.Random(seed), {}
    for _ in range(count):
        for _ in range(20):
            image.write(world, site.nbd_address, BLOCK * chance.randrange(SIZE // BLOCK), os.urandom(BLOCK))
        number = world.ask("wait", "disk", "--played", "--timeout", 60)["position"]["number"]
        found[number] = (bytes(image.data), time.time())
        time.sleep(1.1)  # boundaries are told apart by time below
    return found


@pytest.mark.requirement("U3", "X2", "R1", "R4", "R5", "R9")
def test_the_bucket_is_all_that_is_left_and_all_that_is_needed(world, tmp_path):
    import json

    a, image = world.site("a", sugar(world)), Image()
    world.start(a)
    image.write(world, a.nbd_address, 0, os.urandom(2 << 20))
    past = rounds(world, image, a, 3, seed=1)
    member = world.named("disk")["members"][0]
    assert (member["name"], member["url"]) == ("bucket", a.url)
    spent = world.named("disk-bucket")["requests"]
    assert spent["total"]["bytes_put"] > 2 << 20
    assert spent["today"]["creates"] > 0
    world.kill(a)

    listed = json.loads(adopt(world, "--json"))["volumes"]
    assert [(one["volume"], one["role"], one["site"]) for one in listed] == [("disk", "secondary", "a")]
    assert past.keys() <= {one["position"]["number"] for one in listed[0]["boundaries"]}
    assert "disk: secondary of 16.0 MiB" in adopt(world)
    for number, (content, at_s) in past.items():
        for at in (f"1:{number}", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_s + 0.9))):
            adopt(world, "--restore", "--at", at, "--to", f"file://{tmp_path}/then.img", "--force")
            assert (tmp_path / "then.img").read_bytes() == content, at
    adopt(world, "--restore", "--to", f"file://{tmp_path}/then.img", code=2)  # it exists
    assert "not kept" in adopt(world, "--restore", "--at", "1:900", "--to", f"file://{tmp_path}/x.img", code=2)

    export_is_read(world, tmp_path, bytes(image.data))
    go_on_elsewhere_and_come_back(world, a, image)


def export_is_read(world, tmp_path, content):
    address = f"unix:{tmp_path}/x.nbd"
    command = ["adopt", world.url("dr"), "--export", "--nbd", address, "--cache", f"file://{tmp_path}/cache"]
    for _ in range(2):  # the second time from the cache as well
        with subprocess.Popen([sys.executable, "-m", "replkit", *command], stdout=subprocess.PIPE, text=True) as served:
            assert "is served read-only at" in served.stdout.readline()
            assert read_all(address, "disk") == content
            served.send_signal(signal.SIGINT)
            assert served.wait(30) == 0


def go_on_elsewhere_and_come_back(world, a, image):
    b_home = world.folder / "b"
    b_home.mkdir()
    config = b_home / "site.toml"
    adopt(world, "--config", config, "--site", "b", "--listen", f"tcp://127.0.0.1:{free_ports(1)[0]}")
    b = world.adopted("b", config)
    world.start(b)
    done = world.ask("failover", "disk", "--yes", site=b)
    assert done["role"] == "primary"
    assert read_all(b.nbd_address, "disk") == bytes(image.data)
    for _ in range(20):
        image.write(world, b.nbd_address, BLOCK * random.randrange(SIZE // BLOCK), os.urandom(BLOCK))
    world.ask("cut", "disk", site=b)

    world.daemons["a"] = world.begin(a)  # the lost site is back: its bucket belongs to b now
    world.is_so(lambda: world.named("disk", a).get("fenced_by"), "a is told that its epoch is over")
    assert "made a primary of it" in world.named("disk-bucket", a)["problem"]
    returned = world.ask("resync", "disk", "--from", b.url, "--yes", site=a)
    assert returned["primary"] == b.url
    world.is_so(lambda: world.named("disk", b)["members"] and following(world, b), "a follows b")
    world.ask("wait", "disk", "--played", "--timeout", 60, site=b)
    sent = world.named("disk", b)["members"][0]["sent_bytes"]
    assert sent < 2 << 20, "only what differs travels"
    assert read_all(a.nbd_address, "disk") == bytes(image.data)
    world.ask("failback", "disk", site=b)
    image.write(world, a.nbd_address, 0, os.urandom(BLOCK))
    world.ask("wait", "disk", "--played", "--timeout", 60)
    assert world.named("disk", b)["role"] == "secondary"
    assert read_all(b.nbd_address, "disk") == bytes(image.data)


def following(world, site):
    return world.named("disk", site)["members"][0]["state"] == "following"
