"""Update on demand and copies between snapshots, with real daemons (C5, P7); boundaries that are held (X2)."""

from __future__ import annotations

import os

import pytest

from .test_site import World


@pytest.fixture
def world(tmp_path, request):
    """Site b is updated on demand, on access too, as often as the test says."""
    world = World(tmp_path)
    text, every_s = world.b.config.read_text(), getattr(request, "param", 0)
    world.b.config.write_text(
        text.replace('role = "secondary"\n', f'role = "secondary"\npull = {{ min_interval_s = {every_s} }}\n')
    )
    try:
        world.start(world.a)
        world.start(world.b)
        world.write(0, os.urandom(1 << 20))
        world.ask("replica", "add", "disk", "b", world.b.url, "--on-demand")
        world.is_so(lambda: world.volume()["members"][0]["state"] == "following", "b has its copy")
        yield world
    finally:
        world.stop()


def number(world):
    return world.volume(world.b)["position"]["number"]


@pytest.mark.requirement("C5")
def test_a_secondary_on_demand_gets_a_newer_version_when_somebody_reads_it_or_asks(world):
    assert world.ask("pull", "disk", site=world.b)["how"] in {"nothing", "difference"}
    before = number(world)
    world.write(0, b"newer".ljust(4096))
    cut = world.ask("cut", "disk")["position"]["number"]
    assert number(world) == before, "nothing comes by itself"
    assert world.read(world.b.nbd_address, "disk", 0, 5) == b"newer", "who reads gets the newest version"
    assert number(world) >= cut
    world.write(0, b"named".ljust(4096))
    named = world.ask("snapshot", "create", "disk", "named")["position"]["number"]
    world.write(0, b"later".ljust(4096))
    world.ask("cut", "disk")
    pulled = world.ask("pull", "disk", "--at", named, site=world.b)
    assert pulled["how"] in {"sets", "difference"}, "by what is still kept"
    assert pulled["position"]["number"] == named
    assert world.volume()["members"][0]["on_demand"]
    assert "no position 99999" in world.run("pull", "disk", "--at", 99999, site=world.b, code=1)


@pytest.mark.requirement("C5")
@pytest.mark.parametrize("world", [3600], indirect=True)
def test_a_secondary_on_demand_asks_on_access_at_most_once_in_its_interval(world):
    """FIG. 37, 642: Tmin."""
    world.write(0, b"one".ljust(4096))
    world.ask("cut", "disk")
    assert world.read(world.b.nbd_address, "disk", 0, 3) == b"one", "the first access asks"
    world.write(0, b"two".ljust(4096))
    world.ask("cut", "disk")
    assert world.read(world.b.nbd_address, "disk", 0, 3) == b"one", "the next one is too soon"
    world.ask("pull", "disk", site=world.b)
    assert world.read(world.b.nbd_address, "disk", 0, 3) == b"two", "a command is not bound by it"


@pytest.mark.requirement("C5", "S5")
def test_without_its_primary_a_secondary_on_demand_serves_what_it_has(world):
    world.write(0, b"here".ljust(4096))
    world.ask("cut", "disk")
    assert world.read(world.b.nbd_address, "disk", 0, 4) == b"here"
    world.daemons["a"].stop()
    assert world.read(world.b.nbd_address, "disk", 0, 4) == b"here"


@pytest.mark.requirement("P7", "P5")
def test_a_secondary_is_brought_from_one_snapshot_to_another(world):
    world.write(0, b"monday".ljust(4096))
    monday = world.ask("snapshot", "create", "disk", "monday")["position"]["number"]
    world.ask("pull", "disk", "--at", monday, site=world.b)
    world.is_so(lambda: world.volume()["members"][0]["state"] == "following", "it has arrived")
    played = lambda: (world.volume()["members"][0]["played"] or {}).get("number")  # noqa: E731
    world.is_so(lambda: played() == monday, "it was played")
    world.write(8192, b"tuesday".ljust(4096))
    tuesday = world.ask("snapshot", "create", "disk", "tuesday")["position"]["number"]
    world.write(0, b"wednesday".ljust(4096))
    assert "L >= M" in world.run("copy", "disk", "--from", "tuesday", "--to", "monday", "b", code=2)
    done = world.ask("copy", "disk", "--from", "monday", "--to", "tuesday", "b")
    assert (done["data_blocks"], done["discard_blocks"]) == (1, 0)
    world.is_so(lambda: number(world) == tuesday, "it is there")
    world.is_so(lambda: played() == tuesday, "and played")
    image = world.b.image.read_bytes()
    assert (image[:6], image[8192:8199]) == (b"monday", b"tuesday")
    assert "stands at" in world.run("copy", "disk", "--from", "monday", "--to", "tuesday", "b", code=2)


@pytest.mark.requirement("X2")
def test_a_boundary_that_is_held_outlives_the_policy(world):
    kept = lambda: world.ask("boundaries", "disk", site=world.b)["boundaries"]  # noqa: E731
    world.write(0, b"held".ljust(4096))
    world.ask("cut", "disk")
    held = world.ask("pull", "disk", site=world.b)["position"]["number"]
    assert world.ask("hold", "disk", held, site=world.b)["held"]
    world.write(0, b"next".ljust(4096))
    world.ask("cut", "disk")
    assert world.ask("pull", "disk", site=world.b)["position"]["number"] > held
    assert [one["held"] for one in kept() if one["position"]["number"] == held] == [True]
    export = world.ask("export", "disk", "--at", held, site=world.b)
    assert world.read(export["address"], export["export"], 0, 4) == b"held"
    world.ask("export", "disk", "--at", held, "--stop", site=world.b)
    world.daemons["b"].stop()
    world.start(world.b)
    assert any(one["held"] for one in kept())
    assert not world.ask("release", "disk", held, site=world.b)["held"]
    world.is_so(lambda: not any(one["position"]["number"] == held for one in kept()), "it goes")
    assert "is not held" in world.run("release", "disk", held, site=world.b, code=2)
