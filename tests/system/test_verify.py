"""Verification with real daemons: equality is proved, damage behind a daemon's back is found and repaired (X4)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from replkit.site.control import ControlClient

from .test_site import World, follows

BLOCK = 4096


@pytest.fixture
def world(tmp_path):
    """Site b follows; a mebibyte and a block are written."""
    world = World(tmp_path)
    try:
        world.start(world.a)
        world.start(world.b)
        world.write(0, os.urandom(1 << 20))
        world.write(20 << 20, os.urandom(BLOCK))
        world.ask("replica", "add", "disk", "b", world.b.url)
        follows(world)
        world.ask("wait", "disk", "--played", "--timeout", "60")
        yield world
    finally:
        world.stop()


def damage(site, block, data=b"rot!"):
    with site.image.open("r+b") as file:
        file.seek(block * BLOCK)
        file.write(data)


def leftovers(world):
    return [
        record["name"]
        for site in (world.a, world.b)
        for record in world.volume(site)["snapshots"]
        if record["name"].startswith("verify.")
    ]


@pytest.mark.requirement("X4")
def test_a_secondary_is_proved_equal_then_its_damage_is_found_and_repaired(world):
    found = world.ask("verify", "disk")
    (member,) = found["members"]
    assert (member["name"], member["differing_blocks"], member["error"]) == ("b", 0, "")
    assert member["compared_blocks"] == found["total"] == (32 << 20) // BLOCK
    assert member["hash_bytes"] == 32 * 16, "only hashes travel, one for a mebibyte"
    world.is_so(lambda: leftovers(world) == [], "both sides delete their snapshots")
    for block in (3, 4, 100, 20 << 8):
        damage(world.b, block)
    shown = world.run("verify", "disk", "b", code=1)
    assert "4 blocks of b differ" in shown
    (member,) = world.ask("verify", "disk", "--repair")["members"]
    assert member["differing"] == [[3, 2], [100, 1], [20 << 8, 1]]
    world.ask("wait", "disk", "--played", "--timeout", "60")
    assert "b equals disk at 1:" in world.run("verify", "disk")
    assert world.a.image.read_bytes() == world.b.image.read_bytes()
    assert "it has: b" in world.run("verify", "disk", "c", code=2)
    assert "not the primary" in world.run("verify", "disk", site=world.b, code=2)


@pytest.mark.requirement("X4", "S5")
def test_what_a_killed_verification_or_daemon_leaves_is_collected(world):
    world.ask("policy", "disk", "play_interval_s=3600", site=world.b)  # so that it waits for the member
    command = [sys.executable, "-m", "replkit", "verify", "disk", "--control", str(world.a.config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process, ControlClient(world.a.control) as client:
        world.is_so(lambda: leftovers(world) != [], "it has begun")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        found = client.request("verify-progress", volume="disk")
        assert (found["done"], found["error"]) == (True, "the verify was stopped")
    assert leftovers(world) == []
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        world.is_so(lambda: leftovers(world) != [], "it has begun again")
        world.daemons["a"].kill()
        assert process.wait(30) == 1
    world.start(world.a)
    assert leftovers(world) == []
    world.ask("policy", "disk", "play_interval_s=0", site=world.b)
    assert "b equals disk" in world.run("verify", "disk")
