"""Either site is killed in the middle of a change of role, or all are restarted: it goes on, and nobody is promoted."""

from __future__ import annotations

import pytest

from replkit.errors import ReplkitError
from replkit.site.control import ControlClient

from .role_world import RoleWorld, begun


@pytest.fixture
def world(tmp_path):
    with begun(RoleWorld(tmp_path)) as world:
        yield world


def part(world):
    """A failover at b while a goes on for a while: both have written since they parted."""
    world.ask("wait", "disk", "--durable-on", 1, "--played")
    world.ask("pause", "disk")
    world.put(world.a, 1, b"at a alone")
    world.ask("failover", "disk", "--yes", site=world.b)
    world.is_in(world.a, "fenced")
    world.put(world.b, 2, b"at b")


def hold_back(world, site):
    """No sender of a primary sends any more, until ``resume``."""
    world.ask("pause", "disk", site=site)


@pytest.mark.requirement("R4", "R6", "S1")
def test_a_resync_goes_on_after_either_site_was_killed_in_the_middle_of_it(world):
    a, b = world.a, world.b
    part(world)
    hold_back(world, b)
    world.ask("resync", "disk", "--no-wait", "--yes")
    begun = world.volume(a)["resync"]
    for site in (a, b, a):
        assert world.ask("resync", "disk", "--no-wait", "--yes")["id"] == begun["id"], "given again, it goes on"
        world.is_so(lambda: (world.volume(a).get("resync") or {}).get("phase") == "receiving", "b knows of a")
        world.kill(site)
        world.start(site)
        world.is_a(a, "secondary")
        world.is_a(b, "primary")  # it answers again, also calls of the other site
        assert "resyncs with tcp://" in world.run("status")
        assert "stands at no boundary" in world.run("failover", "disk", "--yes", code=3)
    world.ask("resume", "disk", site=b)
    world.are_equal(b, a)
    assert (world.block(a, 1), world.block(a, 2)) == (b"", b"at b")


@pytest.mark.requirement("R6", "R7")
def test_a_handover_goes_on_after_either_site_was_killed_in_the_middle_of_it(world):
    a, b = world.a, world.b
    for primary, member, killed in ((a, b, a), (b, a, a)):
        hold_back(world, primary)
        world.put(primary, 1, b"the last of " + primary.name.encode())
        begin_handover(primary)
        world.is_in(primary, "handing over")
        world.kill(killed)
        world.start(killed)
        world.is_in(primary, "handing over")
        world.ask("resume", "disk", site=primary)
        world.is_a(member, "primary")
        world.is_a(primary, "secondary")
        world.are_equal(member, primary)
        assert world.block(member, 1) == b"the last of " + primary.name.encode()


def begin_handover(primary):
    """As ``replkit failback`` does, but without waiting for its end."""
    with ControlClient(primary.control) as client, pytest.raises(ReplkitError, match="goes on by itself"):
        client.request("handover", volume="disk", timeout_s=0.01)


@pytest.mark.requirement("R2", "R7")
def test_a_handover_that_waits_can_be_cancelled_and_writes_go_on(world):
    hold_back(world, world.a)
    world.put(world.a, 1, b"not at b")
    begin_handover(world.a)
    world.is_in(world.a, "handing over")
    assert "given up" in world.run("failback", "disk", "--cancel")
    world.put(world.a, 2, b"goes on")
    world.ask("resume", "disk")
    world.are_equal(world.a, world.b)


@pytest.mark.requirement("R6", "R9", "C4")
def test_after_every_step_all_sites_restart_as_what_their_roots_say_and_no_configuration_promotes(world):
    a, b = world.a, world.b
    roles = {"a": "primary", "b": "secondary"}

    def restart(a_is, b_is):
        roles.update(a=a_is, b=b_is)
        for site in (a, b):
            world.end(site)
        for site in (b, a):
            world.start(site)
        for site in (a, b):
            status = world.volume(site)
            assert status["role"] == roles[site.name]
            configured = "primary" if site is a else "secondary"
            drift = any("a configuration never changes a role" in line for line in status["drift"])
            assert drift == (configured != roles[site.name])

    restart("primary", "secondary")
    part(world)
    restart("primary", "primary")
    assert world.volume(a)["state"] == "fenced"
    assert world.refuses(a)
    hold_back(world, b)
    world.ask("resync", "disk", "--no-wait", "--yes")
    restart("secondary", "primary")
    assert world.volume(a)["state"] == "resyncing"
    world.ask("resume", "disk", site=b)
    world.are_equal(b, a)
    restart("secondary", "primary")
    world.put(b, 3, b"after it")
    world.are_equal(b, a)
    world.ask("failback", "disk", site=b)
    world.is_a(a, "primary")
    restart("primary", "secondary")
    world.put(a, 4, b"home")
    world.are_equal(a, b)


@pytest.mark.requirement("R1", "R6")
def test_a_failover_given_again_with_its_request_id_is_carried_out_once(world):
    world.ask("wait", "disk", "--durable-on", 1)
    first = world.ask("failover", "disk", "--yes", "--request-id", "night", site=world.b)
    world.put(world.b, 1, b"since")
    again = world.ask("failover", "disk", "--yes", "--request-id", "night", site=world.b)
    names = ("role", "position", "restart_point", "nbd")
    assert [again[name] for name in names] == [first[name] for name in names]
    world.kill(world.b)
    world.start(world.b)
    once_more = world.ask("failover", "disk", "--yes", "--request-id", "night", site=world.b)
    assert once_more["position"] == first["position"]
    assert "primary here already" in world.run("failover", "disk", "--yes", "--request-id", "x", site=world.b, code=2)
    assert world.volume(world.b)["epoch"]["count"] == 2
