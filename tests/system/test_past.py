"""The past of a secondary, with real daemons: boundaries listed, served and restored while replication goes on (X2)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from .test_site import SIZE, World, follows


@pytest.fixture
def world(tmp_path):
    """Site b follows and keeps its past."""
    world = World(tmp_path)
    try:
        world.start(world.a)
        world.start(world.b)
        world.write(0, os.urandom(1 << 20))
        world.ask("replica", "add", "disk", "b", world.b.url)
        follows(world)
        world.ask("wait", "disk", "--played", "--timeout", "60")
        world.ask("policy", "disk", "keep_all_s=3600", "keep_for_s=7200", site=world.b)
        world.is_so(lambda: kept(world), "the first snapshot of the past")
        yield world
    finally:
        world.stop()


def kept(world):
    return world.ask("boundaries", "disk", site=world.b)["boundaries"]


def go_on(world, count):
    """So many boundaries more: their positions, and the images of the volume at each."""
    images = {}
    for place in range(count):
        world.write(place << 13, os.urandom(1 << 14))
        number = world.ask("wait", "disk", "--played", "--timeout", "60")["position"]["number"]
        images[number] = world.a.image.read_bytes()
    return images


@pytest.mark.requirement("X2", "C3")
def test_three_past_boundaries_are_restored_as_they_were_while_replication_goes_on(world, tmp_path):
    images = go_on(world, 6)
    drilled = list(images)[::2]
    assert set(images) <= {one["position"]["number"] for one in kept(world)}
    for number in drilled:
        target = tmp_path / f"then-{number}.img"
        done = world.ask("restore", "disk", "--at", f"1:{number}", "--to", target.as_uri(), site=world.b)
        assert (done["position"]["number"], done["size_bytes"]) == (number, SIZE)
        assert done["copied_bytes"] < 2 << 20, "only what is in use is copied"
        assert target.read_bytes() == images[number]
        images |= go_on(world, 1)
    existing = (tmp_path / f"then-{drilled[0]}.img").as_uri()
    words = ("restore", "disk", "--at", drilled[1], "--to", existing)
    assert "exists already" in world.run(*words, site=world.b, code=2)
    world.run(*words, "--force", site=world.b)
    assert (tmp_path / f"then-{drilled[0]}.img").read_bytes() == images[drilled[1]]
    own = world.run("restore", "disk", "--at", "1:1", "--to", world.b.image.as_uri(), "--force", site=world.b, code=2)
    assert "volume disk of this site" in own
    world.is_so(lambda: served(world) == [], "the exports of the restores end with them")


def served(world):
    return [one["export"] for one in world.volume(world.b)["exports"] if ".at-" in one["export"]]


@pytest.mark.requirement("X2", "X1")
def test_a_past_boundary_is_served_by_position_or_time_until_it_is_stopped(world):
    images = go_on(world, 3)
    first, second, _third = images
    times = {one["position"]["number"]: one["created_s"] for one in kept(world)}
    export = world.ask("export", "disk", "--at", first, site=world.b)
    assert world.read(export["address"], export["export"], 0, SIZE) == images[first]
    assert "--stop" in world.run("export", "disk", "--at", first, site=world.b, code=2)
    world.ask("export", "disk", "--at", f"1:{first}", "--stop", site=world.b)
    assert served(world) == []
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(times[second] + 0.001, UTC).isoformat()
    export = world.ask("export", "disk", "--at", at, site=world.b)
    assert export["position"]["number"] == second
    assert world.read(export["address"], export["export"], 0, SIZE) == images[second]
    shown = world.run("boundaries", "disk", site=world.b)
    assert f"1:{second}" in shown
    assert "no boundary as old" in world.run("export", "disk", "--at", "2 weeks ago", site=world.b, code=2)
    assert "neither a position nor a time" in world.run("export", "disk", "--at", "then", site=world.b, code=2)
    assert "not here yet" in world.run("export", "disk", "--at", "1:9999", site=world.b, code=2)
    assert "is the primary here" in world.run("boundaries", "disk", code=2)


@pytest.mark.requirement("X2", "S5")
def test_an_interrupted_or_killed_restore_leaves_no_export_behind(world, tmp_path):
    (number,) = go_on(world, 1)
    target = tmp_path / "then"
    os.mkfifo(tmp_path / "hold")
    words = ["restore", "disk", "--at", str(number), "--to", target.as_uri(), "--force"]
    for stop in (signal.SIGINT, signal.SIGKILL):
        code = SLOW.format(hold=str(tmp_path / "hold"), words=[*words, "--control", str(world.b.config)])
        with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
            with (tmp_path / "hold").open("rb") as hold:
                assert hold.read(1) == b"x", "it copies"
                assert len(served(world)) == 1
                process.send_signal(stop)
                _out, said = process.communicate(timeout=30)
            assert ("give the command again with --force" in said) == (stop == signal.SIGINT)
        world.is_so(lambda: served(world) == [], "its export ends")


SLOW = """
import signal
from replkit.recovery.restore import Restoration

step = Restoration.step

def slow(self):
    with open({hold!r}, "wb", buffering=0) as hold:
        hold.write(b"x")
        signal.pause()
    return step(self)

Restoration.step = slow
from replkit.cli.main import main
main({words!r})
"""
