"""Plans, salvage, catching up and full copies by command: what is said before is what happens, or nothing does."""

from __future__ import annotations

import pytest

from .role_world import RoleWorld, begun


@pytest.fixture
def world(tmp_path):
    with begun(RoleWorld(tmp_path)) as world:
        yield world


@pytest.mark.requirement("R1", "R3", "R4", "R8")
def test_a_plan_says_what_happens_and_a_stale_one_is_refused(world):
    a, b = world.a, world.b
    world.put(a, 6, b"at both")
    world.ask("wait", "disk", "--durable-on", 1, "--played")
    world.ask("pause", "disk")
    world.put(a, 1, b"one")
    world.ask("cut", "disk")
    plan = world.ask("plan", "failover", "disk", site=b)
    assert (plan["lost_sets"], plan["undo_blocks"]) == (1, 0)
    assert plan["newest_kept_s"] > 0
    for block in (2, 3):
        world.put(a, block, b"more")
        world.ask("cut", "disk")
    assert "lost sets would be 3, not 1" in world.run("failover", "disk", "--plan", plan["id"], site=b, code=6)
    assert world.volume(b)["role"] == "secondary"
    plan = world.ask("plan", "failover", "disk", site=b)
    assert "3 sets" in world.run("plan", "failover", "disk", site=b)
    done = world.ask("failover", "disk", "--plan", plan["id"], site=b)
    assert done["position"]["number"] == plan["position"]["number"]

    world.is_in(a, "fenced")
    world.put(b, 3, b"at b")
    world.put(b, 4, b"at b")
    plan = world.ask("plan", "resync", "disk")
    assert (plan["undo_blocks"], plan["send_blocks"], plan["way"]) == (3, 4, "difference")
    assert plan["fork"]["number"] == done["position"]["number"]
    assert plan["send_bytes"] == 2 * 4096, "the other two are unused there, so only their numbers travel"
    assert "is not known here" in world.run("resync", "disk", "--plan", "0" * 16, code=2)
    world.put(b, 5, b"progress does not make a plan stale")
    world.ask("resync", "disk", "--plan", plan["id"])
    world.are_equal(b, a)
    assert world.member(b, "a")["sent_bytes"] < 64 << 10

    plan = world.ask("plan", "failback", "disk", site=b)
    assert (plan["lost_sets"], plan["kind"]) == (0, "failback")
    world.ask("failback", "disk", "--plan", plan["id"], site=b)
    world.is_a(a, "primary")
    assert "secondary here" in world.run("plan", "reverse", "disk", site=b, code=2)


@pytest.mark.requirement("R4")
def test_what_a_resync_undid_is_listed_read_and_deleted(world):
    a, b = world.a, world.b
    world.ask("wait", "disk", "--durable-on", 1, "--played")
    world.ask("pause", "disk")
    world.put(a, 1, b"undone")
    world.ask("failover", "disk", "--yes", site=b)
    world.is_in(a, "fenced")
    world.put(b, 1, b"done")
    id_ = world.ask("resync", "disk", "--yes")["id"]
    world.are_equal(b, a)
    (salvage,) = world.ask("salvage", "list", "disk")["salvages"]
    assert (salvage["id"], salvage["blocks"]) == (id_, 1)
    assert id_ in world.run("salvage", "list", "disk")
    assert world.ask("salvage", "show", "disk", id_)["runs"] == [[1, 1]]
    served = world.ask("salvage", "export", "disk", id_)
    assert world.read(served["address"], served["export"], 4096, 6) == b"undone"
    assert "--stop" in world.run("salvage", "delete", "disk", id_, "--yes", code=2)
    world.ask("salvage", "export", "disk", id_, "--stop")
    assert "--yes" in world.run("salvage", "delete", "disk", id_, "--json", code=2)
    world.ask("salvage", "delete", "disk", id_, "--yes")
    assert world.ask("salvage", "list", "disk")["salvages"] == []
    assert "no salvage" in world.run("salvage", "show", "disk", id_, code=2)


@pytest.mark.requirement("R5", "R6")
def test_a_resync_that_cannot_go_on_is_given_up_for_a_full_copy_only_when_that_is_allowed(world):
    a, b = world.a, world.b
    world.ask("wait", "disk", "--durable-on", 1, "--played")
    world.ask("pause", "disk")
    world.put(a, 1, b"undone")
    world.ask("failover", "disk", "--yes", site=b)
    world.is_in(a, "fenced")
    world.put(b, 2, b"at b")
    world.ask("pause", "disk", site=b)
    world.ask("resync", "disk", "--no-wait", "--yes")
    world.is_so(lambda: (world.volume(a).get("resync") or {}).get("phase") == "receiving", "b knows of a")
    assert world.ask("resync", "disk", "--allow-full-copy", "--no-wait", "--yes")["full_copy"]
    world.ask("resume", "disk", site=b)
    world.are_equal(b, a)
    assert (world.block(a, 1), world.block(a, 2)) == (b"", b"at b")
    assert len(world.ask("salvage", "list", "disk")["salvages"]) == 1


@pytest.mark.requirement("T6", "R5")
def test_a_member_that_is_not_stale_is_told_so(world):
    assert "is following and cannot catch up" in world.run("replica", "catch-up", "disk", "b", code=2)
    assert "no secondary 'c'" in world.run("replica", "catch-up", "disk", "c", code=2)
