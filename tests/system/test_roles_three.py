"""Three sites: a third one follows whoever is the primary, by what differs."""

from __future__ import annotations

import pytest

from .role_world import RoleWorld, begun


@pytest.fixture
def world(tmp_path):
    with begun(RoleWorld(tmp_path, "abc")) as world:
        yield world


@pytest.mark.requirement("R1", "R4", "R6", "R7")
def test_after_a_failover_the_third_site_and_the_old_primary_both_return_to_the_new_one(world):
    a, b, c = world.a, world.b, world.c
    world.put(a, 1, b"everywhere")
    world.ask("wait", "disk", "--durable-on", 2, "--played")
    world.ask("pause", "disk", "--member", "b")
    world.put(a, 2, b"at a and c")
    world.is_so(lambda: world.block(c, 2) == b"at a and c", "c has it")
    done = world.ask("failover", "disk", "--yes", site=b)
    world.put(b, 3, b"at b")
    world.is_in(a, "fenced")

    stepped = world.ask("resync", "disk", "--yes", site=c)  # finds the primary by itself: a is fenced
    assert stepped["primary"] == b.url
    assert stepped["fork"]["number"] == done["position"]["number"]
    assert stepped["salvage"]
    world.are_equal(b, c)
    assert (world.block(c, 1), world.block(c, 2), world.block(c, 3)) == (b"everywhere", b"", b"at b")

    world.ask("resync", "disk", "--from", "b", "--yes", site=a)
    world.are_equal(b, a, c)
    world.ask("failback", "disk", "--to", "a", site=b)
    world.is_a(a, "primary")
    world.put(a, 4, b"home")
    world.are_equal(a, b, c)


@pytest.mark.requirement("R2", "R6")
def test_a_switchover_takes_the_third_site_along_without_a_copy(world):
    a, b, c = world.a, world.b, world.c
    world.put(a, 1, b"before")
    world.ask("switchover", "disk", site=c)
    world.is_a(c, "primary")
    world.put(c, 2, b"after")
    world.are_equal(c, a, b)
    assert sum(member["sent_bytes"] for member in world.volume(c)["members"]) < 1 << 20
