"""A site that is an older copy of itself, and one that is there twice: found out, named, and led out of (R9)."""

from __future__ import annotations

import shutil

import pytest

from .role_world import RoleWorld, begun


@pytest.fixture
def world(tmp_path):
    with begun(RoleWorld(tmp_path)) as world:
        yield world


def home(world):
    """The role goes back to a, and what is written there arrives."""
    a, b = world.a, world.b
    world.ask("failback", "disk", site=b)
    world.is_a(a, "primary")
    world.put(a, 5, b"home")
    world.are_equal(a, b)


@pytest.mark.requirement("R9")
@pytest.mark.parametrize("what", ["save", "save and disk.img"])
def test_a_primary_whose_machine_was_rolled_back_is_told_and_comes_back_by_a_resync(world, tmp_path, what):
    a, b = world.a, world.b
    world.put(a, 1, b"in the backup")
    world.are_equal(a, b)
    world.end(a)
    shutil.copytree(a.folder, tmp_path / "backup")
    world.start(a)
    world.put(a, 1, b"after the backup")
    world.put(a, 2, b"after the backup")
    world.are_equal(a, b)
    world.end(a)
    for name in what.split(" and "):
        if (a.folder / name).is_dir():
            shutil.rmtree(a.folder / name)
            shutil.copytree(tmp_path / "backup" / name, a.folder / name)
        else:
            shutil.copy(tmp_path / "backup" / name, a.folder / name)
    world.start(a)
    world.is_so(lambda: world.member(a, "b").get("sender_state") == "diverged", "the older copy meets what b has")
    said = world.run("status").replace("\n", " ")
    assert "was never cut here" in said
    assert world.block(b, 2) == b"after the backup", "the secondary keeps what it had"
    world.ask("failover", "disk", "--yes", site=b)
    world.put(b, 3, b"at b")
    world.is_in(a, "fenced")
    world.ask("resync", "disk", "--yes")
    world.are_equal(b, a)
    assert [world.block(a, number) for number in (1, 2, 3)] == [b"after the backup", b"after the backup", b"at b"]
    home(world)


@pytest.mark.requirement("R9")
def test_of_a_site_that_was_cloned_the_one_that_is_found_out_stops_and_returns_to_the_other(world, tmp_path):
    a, b = world.a, world.b
    world.put(a, 1, b"before")
    world.are_equal(a, b)
    world.ask("pause", "disk")
    world.end(a)
    clone = world.cloned(a, "k")
    world.start(a)
    world.start(clone)
    world.put(a, 2, b"only at a")
    world.put(clone, 3, b"only at the clone")
    world.ask("resume", "disk")
    world.are_equal(a, b)
    world.ask("resume", "disk", site=clone)
    world.is_so(lambda: world.member(clone, "b").get("sender_state") == "diverged", "the clone is found out")
    assert world.block(b, 3) == b"", "nothing of it came to the secondary"
    world.is_in(clone, "diverged")
    assert world.refuses(clone), "the one that is found out stops its users"
    assert "this site was cloned" in world.run("status", site=clone).replace("\n", " ")
    world.put(a, 4, b"goes on at a")
    assert "--from" in world.run("resync", "disk", "--yes", site=clone, code=5)
    world.ask("resync", "disk", "--yes", "--from", a.url, site=clone)
    world.are_equal(a, b, clone)
    assert [world.block(clone, number) for number in (2, 3, 4)] == [b"only at a", b"", b"goes on at a"]
    (salvage,) = world.ask("salvage", "list", "disk", site=clone)["salvages"]
    served = world.ask("export", "disk", "--snapshot", salvage["snapshot"], site=clone)
    assert world.read(served["address"], served["export"], 3 * 4096, 17) == b"only at the clone"
