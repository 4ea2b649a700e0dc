"""Where the simulator found its own operator or checker wrong, or a command missing (docs/reference/simulation.md)."""

from __future__ import annotations

import pytest
from tests.simulation.test_found import world_of, world_with_granted_role, write

from replkit.replication.policy import change_policy
from replkit.testing.sim.commands import Commands, Operator
from replkit.testing.sim.coverage import Coverage
from replkit.testing.sim.faults import Faults
from replkit.testing.sim.sites import block
from replkit.testing.sim.topology import Topology
from replkit.testing.sim.workload import Event


def operate(world: Topology, commands: Commands, passes: int) -> None:
    """An operator who grows impatient, as at the end of a run."""
    operator = Operator(commands)
    for patience in range(passes):
        operator.pass_once(patience)
        for _ in range(20):
            world.round()
        for site in world.fault_sites.values():
            world.watch.look(site, closely=True)  # type: ignore[attr-defined]


@pytest.mark.requirement("R2", "R9", "X3")
def test_a_role_is_taken_back_from_a_member_that_lost_what_it_had_before_it_took_it() -> None:
    """The member was cloned over from one that stood lower: it refused the role, and nobody forced the old primary."""
    world, commands = world_with_granted_role()
    a, b, c = (world.fault_sites[name] for name in "abc")
    faults = Faults(world, world.watch, Coverage())  # type: ignore[arg-type]
    faults.actions["clone"](c, Event("clone", "c", "b"))
    assert b.durable_root().last.number < a.durable_root().last.number
    world.net.heal()

    operate(world, commands, 6)
    assert not any(site.is_primary for site in (a, b, c))  # an operator waits first
    operate(world, commands, 12)
    assert [site.is_primary for site in (a, b, c)] == [True, False, False]
    assert a.content == b.content == c.content


@pytest.mark.requirement("R2", "R9", "X3")
def test_a_role_is_taken_back_from_a_member_that_is_a_clone_of_the_one_that_granted_it() -> None:
    """Both had granted the role to the site that the clone is at, and each refused to be promoted."""
    world = world_of("ab")
    a, b = (world.fault_sites[name] for name in "ab")
    commands = Commands(world, world.watch)  # type: ignore[arg-type]
    commands.actions["handover"](a, Event("handover", "a", "b", 0, 1))
    world.settle(lambda: a.durable_root().role == "secondary")
    Faults(world, world.watch, Coverage()).actions["clone"](a, Event("clone", "a", "b"))  # type: ignore[arg-type]
    assert a.durable_root().handover == b.durable_root().handover is not None

    operate(world, commands, 12)
    assert sorted(site.is_primary for site in (a, b)) == [False, True]
    assert a.content == b.content


@pytest.mark.requirement("R3", "S4", "X3")
def test_what_a_failover_left_behind_goes_where_it_leaves_no_room_to_bring_the_others_back() -> None:
    """The new primary kept it until failback, and could cut no set that would have brought anybody there."""
    world = world_of("ab", sets_bytes=26_000)
    a, b = (world.fault_sites[name] for name in "ab")
    change_policy(b.save, play_interval_s=1e9, play_high_water_bytes=1 << 30)
    for letter in "xyz":
        write(world, "a", 0, block(letter, 10))
        a.primary.cut()
        world.settle(lambda: b.durable_root().last == a.durable_root().last)
    commands = Commands(world, world.watch)  # type: ignore[arg-type]
    commands.promote(b, "now", "p1")
    assert b.primary.root.branches
    write(world, "b", 0, bytes(range(1, 31)) * 512)
    operate(world, commands, 3)
    assert b.primary.root.branches

    operate(world, commands, 20)
    assert (a.is_primary, b.is_primary) == (False, True)
    assert a.content == b.content


@pytest.mark.requirement("R6", "X3")
def test_what_a_member_acknowledged_before_a_command_took_it_back_is_no_lie() -> None:
    """The checker looked between the hello of a higher epoch and the welcome, which says where the member is now."""
    world = world_of("abc")
    a, b, c = (world.fault_sites[name] for name in "abc")
    world.net.muted.update({("a", "c"), ("c", "a")})
    change_policy(b.save, play_interval_s=1e9, play_high_water_bytes=1 << 30)
    for number in range(2):
        write(world, "a", 4 * number, block("w", 3))
        a.primary.cut()
    last = a.durable_root().last
    world.settle(lambda: last.identity.encode() in a.store.load("sent.b").value)
    world.watch.look(a)  # type: ignore[attr-defined]
    commands = Commands(world, world.watch)  # type: ignore[arg-type]
    commands.promote(c, "received", "p1")
    commands.resync(b, c)
    assert b.durable_root().last.number < last.number
    for number in range(2):
        commands.actions["begin-epoch"](a, Event("begin-epoch", "a", b=number))
    while b.durable_root().epoch != a.durable_root().epoch:
        a.run_step("send:b")
        b.receive()
        world.watch.look(a)  # type: ignore[attr-defined]
    change_policy(b.save, play_interval_s=0.0)
    world.net.heal()
    operate(world, commands, 6)
    assert (a.is_primary, b.is_primary, c.is_primary) == (True, False, False)
    assert a.content == b.content == c.content
