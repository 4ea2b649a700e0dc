"""Roles change between real daemons: failover, resync, failback, switchover, reverse, rewind, as a user commands it."""

from __future__ import annotations

import pytest

from .role_world import RoleWorld, begun


@pytest.fixture
def world(tmp_path):
    with begun(RoleWorld(tmp_path)) as world:
        yield world


@pytest.mark.requirement("R1", "R4", "R7", "R8", "R9", "X1")
def test_a_site_is_lost_works_elsewhere_comes_back_and_takes_its_role_back(world):
    a, b = world.a, world.b
    world.put(a, 1, b"kept")
    world.ask("wait", "disk", "--durable-on", 1, "--played")
    assert "sets cut" in world.run("status", "--history")
    shown = world.run("status", "--history", site=b)
    assert "sets received" in shown
    assert "in one pass" in shown
    world.ask("pause", "disk")
    world.put(a, 2, b"lost")
    world.kill(a)
    done = world.ask("failover", "disk", "--yes", site=b)
    assert (done["role"], done["position"]["epoch"]) == ("primary", 2)
    assert done["duration_s"] < 10
    assert done["restart_point"]["snapshot"] == "restart.2"
    assert (world.block(b, 1), world.block(b, 2)) == (b"kept", b"")
    world.put(b, 3, b"while a was away")

    world.start(a)
    world.is_in(a, "fenced")
    assert "takes no more writes: epoch 2 began elsewhere" in world.run("status")
    assert world.refuses(a)
    assert world.block(a, 2) == b"lost"
    begun = world.ask("resync", "disk", "--yes")
    assert begun["fork"]["number"] == done["position"]["number"]
    assert begun["salvage"]
    world.are_equal(b, a)
    assert (world.block(a, 2), world.block(a, 3)) == (b"", b"while a was away")
    world.is_in(a, "up-to-date")
    assert world.volume(a)["role"] == "secondary"
    assert "0 blocks" in world.run("status", site=b)
    member = world.member(b, "a")
    assert (member["differing_blocks"], member["rpo_s"]) == (0, 0.0)
    assert [entry["fork_number"] for entry in world.volume(a)["epochs"]] == [0, done["position"]["number"]]
    assert any("role is secondary" in line for line in world.volume(a)["drift"])
    assert any("role is primary" in line for line in world.volume(b)["drift"])

    assert world.ask("failback", "disk", site=b)["role"] == "secondary"
    world.is_a(a, "primary")
    world.put(a, 4, b"home")
    world.are_equal(a, b)
    assert not any("role is" in line for line in world.volume(a)["drift"])
    assert [entry["count"] for entry in world.volume(b)["epochs"]] == [1, 2, 3]


@pytest.mark.requirement("R2", "R7")
def test_a_switchover_and_a_reverse_lose_nothing_and_copy_nothing(world):
    a, b = world.a, world.b
    world.put(a, 1, b"before")
    done = world.ask("failover", "disk", "--sync", site=b)
    assert done["role"] == "primary"
    world.is_a(a, "secondary")
    assert world.refuses(a)
    world.put(b, 2, b"after")
    world.are_equal(b, a)
    assert world.block(a, 1) == b"before"
    assert "nothing was lost" in world.run("switchover", "disk", site=a)
    world.put(a, 3, b"and back")
    world.are_equal(a, b)
    assert "without a copy" in world.run("reverse", "disk", "--to", "b")
    world.is_a(b, "primary")
    world.are_equal(b, a)
    assert world.member(b, "a")["sent_bytes"] < 1 << 20


@pytest.mark.requirement("R2", "R9")
def test_a_switchover_is_refused_when_the_primary_is_down(world):
    world.end(world.a)
    world.is_in(world.b, "outdated")
    said = world.run("switchover", "disk", site=world.b, code=1)
    assert "cannot be reached" in said.replace("\n", " ")
    assert "replkit failover disk" in said
    assert world.volume(world.b)["role"] == "secondary"
    assert "is the primary here" in world.run("failover", "disk", "--yes", site=world.b)
    world.put(world.b, 1, b"all the same")


@pytest.mark.requirement("R1", "R3")
def test_a_failover_now_leaves_out_what_was_not_played(world):
    a, b = world.a, world.b
    world.put(a, 1, b"played")
    world.ask("wait", "disk", "--durable-on", 1, "--played")
    world.ask("policy", "disk", "play_interval_s=3600", site=b)
    world.put(a, 2, b"played next")  # a pass may be waiting already for its first set
    world.ask("wait", "disk", "--durable-on", 1)
    world.put(a, 3, b"only received")
    received = world.ask("wait", "disk", "--durable-on", 1)["position"]
    done = world.ask("failover", "disk", "--now", "--yes", site=b)
    assert done["position"]["number"] < received["number"]
    assert (world.block(b, 1), world.block(b, 3)) == (b"played", b"")
    assert "replkit export disk --left-behind" in world.run("status", site=b).replace("\n", " ")
    left = world.ask("export", "disk", "--left-behind", site=b)
    assert world.read(left["address"], left["export"], 3 * 4096, 13) == b"only received"
    assert "is served" in world.run("salvage", "delete", "disk", "left-behind", "--yes", site=b, code=2)
    world.ask("export", "disk", "--left-behind", "--stop", site=b)
    assert "left no set behind" in world.run("export", "disk", "--left-behind", code=2)
    world.put(b, 4, b"at b")
    world.is_in(a, "fenced")
    world.ask("resync", "disk", "--yes")
    world.are_equal(b, a)
    assert (world.block(a, 3), world.block(a, 4)) == (b"", b"at b")
    assert world.ask("salvage", "delete", "disk", "left-behind", "--yes", site=b)["sets"] >= 1
    assert "left no set behind" in world.run("export", "disk", "--left-behind", site=b, code=2)


@pytest.mark.requirement("R4", "R5")
def test_a_rewind_brings_the_old_primary_to_the_restart_point_and_it_follows_from_there(world):
    a, b = world.a, world.b
    world.ask("wait", "disk", "--durable-on", 1, "--played")
    world.ask("pause", "disk")
    world.put(a, 1, b"wrong")
    world.put(a, 2, b"wrong too")
    world.ask("failover", "disk", "--yes", site=b)
    world.is_in(a, "fenced")
    world.put(b, 2, b"right")
    begun = world.ask("rewind", "disk", "--yes")
    world.are_equal(b, a)
    assert (world.block(a, 1), world.block(a, 2)) == (b"", b"right")
    assert begun["salvage"]


def test_wrong_role_commands_say_what_to_do(world):
    assert "give the command at the primary's site" in world.run("failback", "disk", site=world.b, code=2)
    assert "give the command at a secondary's site" in world.run("boundaries", "disk", code=2)
    target = (world.a.folder / "then.img").as_uri()
    assert "are kept at its secondaries" in world.run("restore", "disk", "--at", 1, "--to", target, code=2)
    assert "keeps nothing of the past" in world.run("boundaries", "disk", site=world.b)
    assert "is the primary here already" in world.run("failover", "disk", "--yes", code=2)
    assert "has no member none" in world.run("failback", "disk", "--to", "none", code=2)
    assert "--yes" in world.run("resync", "disk", "--json", code=2)
    assert "--yes" in world.run("failover", "disk", "--json", site=world.b, code=2)
    assert "exclude each other" in world.run("failover", "disk", "--now", "--sync", code=2)
    assert world.volume()["role"] == "primary"
    assert world.volume(world.b)["state"] == "up-to-date"


@pytest.mark.requirement("R1", "R3", "R7")
def test_every_plan_names_the_command_that_carries_it_out(world):
    a, b = world.a, world.b
    for command in ("resync", "rewind"):  # refused as the command is
        assert "is a secondary, not the primary" in world.run("plan", command, "disk", code=5)
        assert "is a secondary, not the primary" in world.run(command, "disk", "--yes", code=5)
    assert "carry it out at the site of b with: replkit switchover disk" in world.run("plan", "switchover", "disk")
    for kind in ("failback", "reverse"):
        assert f"replkit {kind} disk --to b --plan {planned(world, kind)}" in world.run("plan", kind, "disk")
    world.put(a, 1, b"kept")
    world.ask("wait", "disk", "--durable-on", 1, "--played")
    world.ask("reverse", "disk", "--plan", planned(world, "reverse"))
    world.is_a(b, "primary")
    world.follows(b, a)
    now = world.run("plan", "failover", "disk", "--now")
    id_ = now.rpartition("--plan ")[2].strip()
    assert f"replkit failover disk --now --plan {id_}" in now
    assert "detail changed since" in world.run("failover", "disk", "--plan", id_, code=6)
    world.ask("failover", "disk", "--now", "--plan", id_)
    world.end(a)
    assert "start it, or name" in world.run("plan", "resync", "disk", site=b, code=1)


def planned(world, kind):
    return world.ask("plan", kind, "disk")["id"]
