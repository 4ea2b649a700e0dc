"""A primary is written back to a snapshot, also when its process is killed meanwhile; members get it as a set (P6)."""

from __future__ import annotations

import os
import signal

import pytest

from replkit.errors import LinkClosedError
from replkit.site.control import ControlClient
from replkit.site.nbd.client import NbdClient

from .test_site import SIZE, World, follows


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    try:
        world.start(world.a)
        world.start(world.b)
        world.write(0, os.urandom(4 << 20))
        world.ask("replica", "add", "disk", "b", world.b.url)
        follows(world)
        world.ask("wait", "disk", "--played", "--timeout", "60")
        yield world
    finally:
        world.stop()


def overwrite(world):
    """What was in use is written over, and unused blocks are written."""
    world.write(0, os.urandom(2 << 20))
    world.write(16 << 20, os.urandom(8 << 20))


def served(world):
    return "disk" in [one["export"] for one in world.volume()["exports"]]


@pytest.mark.requirement("P6", "P3")
def test_a_snapshot_is_restored_and_the_secondary_follows_by_a_set(world):
    world.ask("snapshot", "create", "disk", "monday")
    then = world.a.image.read_bytes()
    overwrite(world)
    asked = world.run("snapshot", "restore", "disk", "monday", code=1)
    assert "512 blocks are written, 2048 discarded" in asked
    assert world.a.image.read_bytes() != then, "who does not answer is asked in vain"
    with NbdClient(world.a.nbd_address, "disk") as user:
        done = world.ask("snapshot", "restore", "disk", "monday", "--yes")
        assert done["done"]
        with pytest.raises(LinkClosedError):
            user.read(0, 4096)
    assert world.a.image.read_bytes() == then
    world.is_so(lambda: served(world), "it is served again")
    assert world.read(world.a.nbd_address, "disk", 0, SIZE) == then
    sent_bytes = world.volume()["members"][0]["sent_bytes"]
    world.ask("wait", "disk", "--played", "--timeout", "60")
    assert world.b.image.read_bytes() == then
    assert world.volume()["members"][0]["sent_bytes"] - sent_bytes < 4 << 20, "an ordinary set, no copy"
    assert world.ask("snapshot", "show", "disk", "monday")["held"], "it was held before, and still is"
    assert "secondary here" in world.run("snapshot", "restore", "disk", "monday", "--yes", site=world.b, code=2)
    assert "no snapshot is called" in world.run("snapshot", "restore", "disk", "x", "--yes", code=2)
    assert "32.0 MiB" in world.run("snapshot", "list", "disk")


@pytest.mark.requirement("P6", "S5")
def test_a_restore_goes_on_after_its_process_was_killed_before_the_volume_is_served(world):
    world.ask("snapshot", "create", "disk", "monday")
    then = world.a.image.read_bytes()
    for _ in range(3):
        overwrite(world)
        with ControlClient(world.a.control) as client:
            begun = client.request("snapshot-restore", volume="disk", name="monday")
            os.kill(world.pid("primary.disk"), signal.SIGKILL)
            assert begun["snapshot"] == "monday"
        world.is_so(lambda: not world.volume().get("problem") and served(world), "it is served again")
        assert world.a.image.read_bytes() == then
        world.ask("wait", "disk", "--played", "--timeout", "60")
        assert world.b.image.read_bytes() == then
