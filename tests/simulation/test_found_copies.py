"""Bugs of new copies that the simulator found in the code (docs/reference/simulation.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from replkit.blocks.bitmap import PagedBitmap
from replkit.errors import ReplkitError
from replkit.replication.cells import COPY, CopyProgress, Difference
from replkit.replication.difference import put_list
from replkit.replication.root import load_struct
from replkit.testing.sim.checker import Checker
from replkit.testing.sim.commands import Commands
from replkit.testing.sim.coverage import Coverage
from replkit.testing.sim.faults import Faults
from replkit.testing.sim.scale import small_sizes
from replkit.testing.sim.sites import Sites, block
from replkit.testing.sim.topology import FaultSite, Options, Topology
from replkit.testing.sim.workload import Event


@pytest.fixture
def world() -> Iterator[Topology]:
    """A copy travels in several parts in it."""
    with small_sizes():
        yield Topology(1, Options(names="abc"), Checker())


def write(site: FaultSite, start: int, data: bytes) -> None:
    """Write, known to the checker."""
    site.faults.watch.users[site.name].wrote(start * 512, data)  # type: ignore[attr-defined]
    site.write(start, data)


def give(site: FaultSite, to: FaultSite, is_over: Callable[[], bool]) -> None:
    """The services of a site, and the reception at its member, until it is so."""
    for _ in range(100):
        for name in site.step_names():
            with suppress(ReplkitError):
                site.run_step(name)
            with suppress(ReplkitError):
                to.run_step("receive")
            if is_over():
                return
        site.faults.runtime.advance(1.0)
    pytest.fail(f"it never came so far: {site.hooks.errors[-3:]}, {to.hooks.errors[-3:]}")


@pytest.mark.requirement("C1", "R9")
@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_copy_does_not_go_on_from_a_part_of_another_snapshot_with_its_id(
    world: Topology, *, is_restarted: bool
) -> None:
    """Invariant 6: a primary was cloned before it made the snapshot of a copy; both went on under the same copy id."""
    a, b, c = (world.fault_sites[name] for name in "abc")
    write(a, 0, block("0", 40))
    a.primary.volume.flush()
    world.watch.ask_copy("c")  # type: ignore[attr-defined]
    a.primary.add_member("c", c.url, "vol")
    Faults(world, world.watch, Coverage()).actions["clone"](a, Event("clone", "a", "b"))  # type: ignore[arg-type]
    write(b, 0, block("b", 40))
    for number in range(3):  # so that the boundaries of the other one lie before its own
        write(a, 10 * number, block("a", 20))
        a.primary.cut()

    def came() -> int:
        progress, _version = load_struct(c.save, COPY, CopyProgress)
        return progress.next_block if progress is not None else 0

    give(b, c, lambda: came() > 10)
    assert c.durable_root().inconsistent is not None
    b.senders.clear()
    if is_restarted:
        c.crash()
    give(a, c, lambda: c.durable_root().is_at_boundary)
    give(a, c, lambda: c.secondary.player.position == a.primary.root.last)
    assert c.content == a.content


@pytest.mark.requirement("R4", "P7")
def test_a_compared_list_is_not_believed_of_a_volume_that_stands_further_on(world: Topology) -> None:
    """Invariant 5: a clone of another member took the place of the one whose volume was compared."""
    a, b = world.fault_sites["a"], world.fault_sites["b"]
    for name in "bc":
        world.watch.ask_copy(name)  # type: ignore[attr-defined]
        a.primary.add_member(name, world.sites[name].url, "vol")
    write(a, 0, block("0", 40))
    a.primary.cut()
    world.settle(lambda: Sites.is_equal(a, b))
    fork = a.primary.root.last
    write(a, 5, block("x", 9))
    a.primary.cut()
    world.settle(lambda: Sites.is_equal(a, b))
    write(a, 20, block("y", 9))
    a.primary.cut("compared")
    a.senders.clear()
    put_list(a.save, "lists/resync-1", PagedBitmap(48))  # the old volume was, by chance, what the snapshot is
    stamp = a.primary.root.last
    difference = Difference(
        fork=fork, list_key="lists/resync-1", exact=True, exact_at=stamp.number, snapshot="compared"
    )
    a.primary.members.send_difference("b", difference)
    world.settle(lambda: b.durable_root().is_at_boundary and b.secondary.player.position == stamp)
    assert b.content == a.content


@pytest.mark.requirement("C1", "R3", "R4")
def test_a_copy_that_was_whole_begins_anew_after_its_member_wrote_as_a_primary(world: Topology) -> None:
    """Invariant 6: nobody heard that it was whole, so it was sent again, and went on at its end over other blocks."""
    a, c = (world.fault_sites[name] for name in "ac")
    write(a, 0, block("0", 40))
    world.watch.ask_copy("c")  # type: ignore[attr-defined]
    a.primary.add_member("c", c.url, "vol")
    give(a, c, lambda: c.durable_root().is_at_boundary)
    a.senders.clear()
    assert a.durable_root().members[0].state == "copying"

    commands = Commands(world, world.watch)  # type: ignore[arg-type]
    commands.promote(c, "received", "p1")
    write(c, 12, block("c", 10))
    c.primary.cut()
    for number in range(2):
        commands.actions["begin-epoch"](a, Event("begin-epoch", "a", b=number))
    commands.resync(c, a)
    assert c.durable_root().resync is not None
    give(a, c, lambda: c.durable_root().is_at_boundary)
    assert c.content == a.content
