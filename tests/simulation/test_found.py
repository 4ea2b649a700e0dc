"""Bugs that the simulator found in the code, each as small as it can be told (docs/reference/simulation.md)."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest

from replkit.contracts.position import Position
from replkit.errors import DivergedError, ReplkitError, SwapConflictError
from replkit.replication.branches import tags_after
from replkit.replication.cells import Span
from replkit.replication.directory import add_set, tag_of
from replkit.replication.policy import change_policy
from replkit.replication.root import new_root
from replkit.testing.crashing import PowerFailure
from replkit.testing.sim.checker import Checker
from replkit.testing.sim.commands import Commands, Operator
from replkit.testing.sim.coverage import Coverage
from replkit.testing.sim.faults import Faults
from replkit.testing.sim.model import read_all
from replkit.testing.sim.simruntime import SimRuntime
from replkit.testing.sim.sites import Sites, block
from replkit.testing.sim.topology import Options, Topology
from replkit.testing.sim.workload import Event


def world_of(names: str = "ab", **options: int) -> Topology:
    """Sites under faults, in step."""
    world = Topology(1, Options(names=names, **options), Checker())
    a = world.a
    users = world.watch.users["a"]  # type: ignore[attr-defined]
    users.wrote(0, block("0", 24))
    a.write(0, block("0", 24))
    a.primary.cut()
    for name in names[1:]:
        world.watch.ask_copy(name)  # type: ignore[attr-defined]
        a.primary.add_member(name, world.sites[name].url, "vol")
    world.settle(lambda: all(Sites.is_equal(a, world.sites[name]) for name in names[1:]))
    return world


def write(world: Topology, name: str, start: int, data: bytes) -> None:
    """Write and cut, known to the checker."""
    world.watch.users[name].wrote(start * 512, data)  # type: ignore[attr-defined]
    world.sites[name].write(start, data)


def world_with_granted_role() -> tuple[Topology, Commands]:
    """a has granted its role to b, which has not taken it; c is cut off from a and stands two sets lower."""
    world = world_of("abc")
    a, b = world.fault_sites["a"], world.fault_sites["b"]
    world.net.muted.update({("a", "c"), ("c", "a")})
    for number in range(2):
        write(world, "a", 4 * number, block("w", 3))
        a.primary.cut()
    world.settle(lambda: Sites.is_equal(a, b))
    commands = Commands(world, world.watch)  # type: ignore[arg-type]
    commands.actions["handover"](a, Event("handover", "a", "b", 0, 1))
    world.settle(lambda: a.durable_root().role == "secondary")
    return world, commands


@pytest.mark.requirement("C2", "X3")
@pytest.mark.parametrize("fault", ["write error", "disk full", "rot"])
def test_a_pass_that_met_an_error_is_played_again_from_its_beginning(fault: str) -> None:
    """Invariants 5 and 7: the chunk at which it failed was left out, and the pass said that all was played."""
    world = world_of()
    b = world.fault_sites["b"]
    for number in range(3):
        write(world, "a", 4 * number, block("x", 3))
        world.a.primary.cut()
    last = world.a.primary.root.last
    while b.secondary.root.last != last:
        world.run(world.a)
        b.receive()
    b.plug.break_at(fault, 2)
    for _ in range(3):
        try:
            b.secondary.player.step()
        except ReplkitError:
            break
    assert b.plug.broke == fault
    world.settle(lambda: b.secondary.player.position == last)
    assert b.content == world.a.content


def split(world: Topology) -> None:
    """A is cut off and writes on; B is promoted and writes."""
    world.net.muted.update({("a", "b"), ("b", "a")})
    write(world, "a", 2, block("a", 6))
    world.a.primary.volume.flush()
    with world.watch.allowing("b"):  # type: ignore[attr-defined]
        world.b.secondary.promote()
        world.b.reopen()
    write(world, "b", 20, block("b", 2))
    world.b.primary.cut()
    world.net.heal()


@pytest.mark.requirement("R3", "R4", "R6")
def test_after_a_resync_the_volume_is_at_no_boundary_before_the_difference_is_played() -> None:
    """Invariants 6 and 9: a promotion --now in between began at the fork with the blocks that were left behind."""
    world = world_of()
    split(world)
    a = world.fault_sites["a"]
    world.resync(world.a, world.b)
    while world.a.secondary.root.resync is not None:
        for site in (a, world.fault_sites["b"]):
            for name in site.step_names():
                if name != "player":
                    site.run_step(name)
        world.runtime.advance(0.1)
    assert not world.a.secondary.player.is_at_rest
    with world.watch.allowing("a"):  # type: ignore[attr-defined]
        position = world.a.secondary.promote("now")
    assert position == world.b.primary.root.last
    assert world.a.content == world.b.content


@pytest.mark.requirement("R9")
def test_a_member_learns_of_an_epoch_before_it_gets_sets_of_it() -> None:
    """Invariant 8: an open session went on after `begin_epoch`, and its member stood in an epoch it did not know."""
    world = world_of()
    with world.watch.allowing("a"):  # type: ignore[attr-defined]
        world.a.primary.begin_epoch("decided")
        world.watch.look(world.fault_sites["a"])
    write(world, "a", 3, block("n"))
    world.a.primary.cut()
    world.settle(lambda: Sites.is_equal(world.a, world.b))
    assert world.b.secondary.root.epoch == world.a.primary.root.epoch


@pytest.mark.requirement("D4")
def test_a_sender_goes_on_after_another_one_of_its_member_has_ended() -> None:
    """Two senders of one member, as after a restart whose old process lives on: the other never sent again."""
    world = world_of()
    a = world.fault_sites["a"]
    old = a.senders.pop("b")
    for number in range(6):
        write(world, "a", number, block("y"))
        world.a.primary.cut()
        for _ in range(4):
            with suppress(SwapConflictError):
                old.step() if number % 2 else a.run_step("send:b")
            world.b.receive()
    world.settle(lambda: world.a.primary.root.last.identity.encode() in a.store.load("sent.b").value, rounds=100)
    world.settle(lambda: Sites.is_equal(world.a, world.b))
    assert world.b.content == world.a.content


@pytest.mark.requirement("C1")
def test_a_new_copy_makes_unused_what_could_not_be_discarded_at_first() -> None:
    """Invariant 6: an error while the volume was cleared for a new copy left blocks of before in it, for good."""
    world = world_of()
    a, b = world.fault_sites["a"], world.fault_sites["b"]
    world.watch.users["a"].wrote(0, bytes(24 * 512))  # type: ignore[attr-defined]
    world.a.primary.volume.discard(0, 24)
    write(world, "a", 30, block("n"))
    a.run_step("cutter")
    world.watch.ask_copy("b")  # type: ignore[attr-defined]
    world.a.primary.copy_again("b")
    b.plug.break_at("write error", 1)
    world.settle(lambda: Sites.is_equal(world.a, world.b) and not world.a.primary.volume.dirty_blocks)
    assert "write error" in " ".join(b.hooks.errors)
    assert b.content == world.a.content


@pytest.mark.requirement("R6")
def test_positions_that_a_difference_will_reach_have_no_sets_to_condemn_yet() -> None:
    """Invariant 6: a second failover while the first difference since a copy arrived could not be answered."""
    root = new_root(SimRuntime(seed=1), "primary")
    arriving = msgspec.structs.replace(root, role="secondary", last=Position(root.epoch, 3, "i"))
    assert tags_after(arriving, 0) == ()
    named = add_set(arriving, Span(4, 4), "w", Position(root.epoch, 4, "j"))
    assert tags_after(named, 0) == (tag_of(named, 4),)


@pytest.mark.requirement("S4", "X2")
@pytest.mark.parametrize(("at", "congestion"), [("a", "block"), ("a", "pull-ahead"), ("b", "block")])
def test_sets_that_a_policy_keeps_give_way_when_the_save_volume_is_full(at: str, congestion: str) -> None:
    """Writes, or reception, stopped for good: the sets that `keep_sets` held left no room for the next one."""
    world = world_of(sets_bytes=160 << 10)
    site = world.fault_sites[at]
    change_policy(site.store, keep_sets=50, congestion=congestion)
    for number in range(24):
        write(world, "a", 0, block(chr(97 + number), 40))
        world.settle(lambda: not world.a.primary.volume.dirty_blocks and Sites.is_equal(world.a, world.b))
    root = site.durable_root()
    assert root.last.number - 23 < root.first_kept <= root.last.number - 2
    assert sum("which the policy would keep, was let go" in error for error in site.hooks.errors) == 1
    assert not any("given up" in error for error in site.hooks.errors)
    assert world.a.primary.root.members[0].state == "following"


@pytest.mark.requirement("R4", "R9")
def test_a_clone_whose_doubts_equal_the_other_one_does_not_count_as_at_the_fork() -> None:
    """Invariant 6: blocks in doubt equalled a later snapshot of the peer, and the volume counted as at the fork."""
    world = world_of("abc")
    a, c = world.fault_sites["a"], world.fault_sites["c"]
    write(world, "a", 5, block("u", 8))
    world.a.primary.volume.flush()
    fork = world.a.primary.root.last
    faults = Faults(world, world.watch, Coverage())  # type: ignore[arg-type]
    faults.actions["clone"](a, Event("clone", "a", "c"))
    with world.watch.allowing("a"):  # type: ignore[attr-defined]
        a.primary.begin_epoch("decided")
        world.watch.look(a)  # type: ignore[attr-defined]
    world.resync(c, a)
    stands: list[Position] = []

    def is_done() -> bool:
        root = c.durable_root()
        if root.is_at_boundary and c.secondary.player.is_at_rest:
            stands.append(c.secondary.player.position)
        return bool(stands) and stands[-1] == a.primary.root.last

    world.settle(is_done)
    assert fork not in stands
    assert a.content == c.content


@pytest.mark.requirement("R9", "S1")
def test_a_process_that_lost_its_save_volume_cannot_stop_the_cuts_of_its_successor() -> None:
    """Invariant 8: its last checkpoint took the version that the successor knew, whose cuts all failed from then on."""
    world = world_of()
    a = world.fault_sites["a"]
    write(world, "a", 0, block("b", 4))
    old, a.replica = a.primary, None
    a.stop()
    a.start()
    for _ in range(3):
        with suppress(ReplkitError):
            old.volume.snapped.checkpoint()
        with suppress(ReplkitError):
            old.cut()
    write(world, "a", 30, block("s", 4))
    a.primary.cut("monday")
    world.settle(lambda: Sites.is_equal(world.a, world.b))
    assert world.b.content == world.a.content


@pytest.mark.requirement("R9", "T6")
def test_a_sender_that_is_refused_does_not_end_the_session_that_is_there() -> None:
    """Liveness: an old primary that called again and again kept its former member from following the new one."""
    world = world_of("abc")
    split(world)
    world.resync(world.c, world.b)
    b, c = world.fault_sites["b"], world.fault_sites["c"]
    for _ in range(60):
        for name in b.step_names():
            b.run_step(name)
        c.receive()
        world.a.senders.clear()  # as often as it can: each time a new link
        world.sites["a"].sender("c").step()
        c.receive()
        c.run_step("player")
        world.runtime.advance(0.4)
    assert Sites.is_equal(world.b, world.c)
    assert any("epoch 1 is over" in error for error in c.hooks.errors)


@pytest.mark.requirement("R4", "R6")
@pytest.mark.parametrize("fault", ["write error", "disk full"])
def test_a_difference_goes_on_in_place_after_a_write_that_failed(fault: str) -> None:
    """Liveness: the list of the chunk was there already when the chunk was tried again, until the next restart."""
    world = world_of()
    split(world)
    a = world.fault_sites["a"]
    a.store.capacities["sets"] = 1000
    world.resync(world.a, world.b)
    world.settle(lambda: world.a.secondary.root.inconsistent is not None)
    a.plug.break_at(fault, 1)
    world.settle(lambda: a.plug.broke == fault)
    world.settle(lambda: Sites.is_equal(world.b, world.a), rounds=60)
    assert world.a.content == world.b.content
    assert not a.crashes


@pytest.mark.requirement("R4", "R6")
@pytest.mark.parametrize("sets_bytes", range(26_250, 29_250, 500))
def test_a_difference_that_is_kept_fits_whatever_the_save_volume_holds(sets_bytes: int) -> None:
    """Liveness: of chunks of 4 KiB the heads were not reckoned in, and the last one waited for room for ever."""
    world = world_of()
    split(world)
    write(world, "b", 0, world.runtime.random_bytes(48 * 512))
    world.b.primary.cut()
    world.fault_sites["a"].store.capacities["sets"] = sets_bytes
    world.resync(world.a, world.b)
    world.settle(lambda: world.a.secondary.root.resync is None and Sites.is_equal(world.b, world.a), rounds=60)
    assert world.a.content == world.b.content


@pytest.mark.requirement("R3", "R6")
def test_the_salvage_of_a_secondary_shows_what_it_had_played_when_it_was_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Invariant 9: power failed between salvage and swap, it played on, and the next try took the salvage as it was."""
    world = world_of("abc")
    a, b, c = (world.fault_sites[name] for name in "abc")
    world.net.muted.update({("a", "b"), ("b", "a")})
    write(world, "a", 2, block("a", 4))
    a.primary.cut()
    with world.watch.allowing("b"):  # type: ignore[attr-defined]
        b.secondary.promote()
        b.reopen()
    world.settle(lambda: Sites.is_equal(a, c))

    write(world, "a", 30, block("n", 4))
    last = a.primary.cut()
    while c.durable_root().last != last:  # received, and not played yet
        world.run(a)
        c.receive()

    def fail(*_: object) -> None:
        raise PowerFailure

    with monkeypatch.context() as patch:
        patch.setattr("replkit.recovery.demotion._as_secondary", fail)
        with pytest.raises(PowerFailure):
            world.resync(c, b)
    c.crash()
    world.settle(lambda: c.secondary.player.position == last)
    held = c.content
    resync = world.resync(c, b)
    assert resync is not None
    assert read_all(c.secondary.volume.open_snapshot(resync.salvage)) == held


@pytest.mark.requirement("R2", "R9")
def test_a_site_that_granted_its_role_returns_to_no_member_that_began_an_epoch_of_that_count() -> None:
    """Invariant 5: a command took it back from position 3 of epoch 2 to position 1 of another epoch 2."""
    world, commands = world_with_granted_role()
    a, b, c = (world.fault_sites[name] for name in "abc")
    granted = a.durable_root()
    assert b.durable_root().role == "secondary"
    commands.promote(c, "received", "p1")
    assert c.durable_root().epoch.count == granted.epoch.count == 2
    assert c.durable_root().last.number < granted.last.number

    with pytest.raises(DivergedError, match="new epoch"):
        commands.resync(a, c)
    assert a.durable_root().last == granted.last
    world.net.heal()
    operator = Operator(commands)
    for _ in range(20):
        operator.pass_once()
        for _ in range(20):
            world.round()
        for site in (a, b, c):
            world.watch.look(site, closely=True)  # type: ignore[attr-defined]
    assert sorted(site.is_primary for site in (a, b, c)) == [False, False, True]
    assert a.content == b.content == c.content


@pytest.mark.requirement("R4", "R6")
@pytest.mark.parametrize("payload", [1, 2])
def test_a_list_that_was_damaged_on_its_way_is_sent_again(payload: int) -> None:
    """Liveness: it was kept as it came, under a name that is never given twice, and the resync was never done."""
    world = world_of()
    split(world)
    world.net.garble_after = payload
    world.resync(world.a, world.b)

    def is_back() -> bool:
        known = any(member.name == "a" for member in world.b.primary.root.members)
        return known and Sites.is_equal(world.b, world.a)

    world.settle(is_back, rounds=60)
    assert world.net.garbled_at == "b"
    assert world.a.content == world.b.content
