"""Each command says before what it will do, and a plan whose bounds no longer hold is refused (invariant 10; R1-R9)."""

from __future__ import annotations

from functools import partial

import msgspec
import pytest

from replkit.errors import InconsistentError, PlanStaleError
from replkit.recovery.plan import check, plan_failover, plan_return, plan_switchover
from replkit.testing.sim.sites import BLOCK, Sites, block


def in_step(names: str = "ab") -> Sites:
    world = Sites(names)
    world.a.write(0, block("0", 40))
    world.follow(world.a, *(world.sites[name] for name in names[1:]))
    return world


def hold_playback(world: Sites) -> None:
    world.b.save.swap("policy", b'{"play_interval_s": 1e9, "play_high_water_bytes": 1000000000}', 0)


def lagging() -> Sites:
    """B has received two sets that it has not played, and lacks one that A has cut."""
    world = in_step()
    hold_playback(world)
    for number in range(2):
        world.a.write(number, block("x", 3))
        world.a.primary.cut()
        world.runtime.advance(10)
    last = world.a.primary.root.last
    world.settle(lambda: world.b.secondary.root.last == last == world.peer(world.a.url).info().members[0].received)
    world.network.down.add(world.b.url)
    world.network.break_links()
    world.a.write(9, block("l"))
    world.a.primary.cut()
    return world


def failed_over() -> Sites:
    world = in_step()
    world.network.down.update(site.url for site in world.sites.values())
    world.network.break_links()
    world.a.write(2, block("a", 3))
    world.a.primary.cut()
    world.a.write(60, block("A"))
    world.b.secondary.promote()
    world.b.reopen()
    world.b.write(4, block("b", 2))
    world.network.down.clear()
    return world


@pytest.mark.requirement("R1", "R3")
def test_the_plan_of_a_failover_says_what_is_played_lost_and_given_up() -> None:
    world = lagging()
    info = world.peer(world.a.url).info()
    root = world.b.secondary.root
    plan = plan_failover(world.b.secondary, "received", info)
    assert (plan.position, plan.play_sets, plan.lost_sets, plan.undone_sets, plan.undone_blocks) == (
        root.last,
        2,
        1,
        0,
        0,
    )
    assert plan.kept_to_s is not None
    assert plan.lost_s is not None
    assert plan.lost_s == pytest.approx(world.runtime.now() - plan.kept_to_s)
    now = plan_failover(world.b.secondary, "now", info)
    assert (now.position, now.play_sets, now.undone_sets, now.undone_blocks) == (
        world.b.secondary.player.position,
        0,
        2,
        4,
    )
    assert plan_failover(world.b.secondary, "received", None).lost_sets is None  # nobody knows
    assert now.id != plan.id


@pytest.mark.requirement("R2", "R7")
def test_the_plan_of_a_switchover_says_what_is_sent_before_and_that_nothing_is_lost() -> None:
    world = lagging()
    world.a.write(20, block("d", 2))
    plan = plan_switchover(world.a.primary, "b")
    assert (plan.lost_sets, plan.undone_sets, plan.undone_blocks, plan.way) == (0, 0, 0, "sets")
    assert plan.send_blocks == 3
    assert plan.send_bytes == 3 * BLOCK


@pytest.mark.requirement("R4")
def test_the_plan_of_a_resync_says_the_fork_what_is_undone_and_what_is_sent() -> None:
    world = failed_over()
    plan = plan_return(world.a.primary, world.peer(world.b.url))
    assert plan.fork == world.b.primary.root.restart
    assert (plan.undone_blocks, plan.undone_sets) == (4, 1)  # blocks 2, 3, 4 and 60, of which 60 is not cut yet
    assert plan.send_blocks == 5  # and 5
    assert plan.send_bytes == 4 * BLOCK  # block 60 is unused at B: a discard
    assert plan.way == "difference"
    rewind = plan_return(world.a.primary, world.peer(world.b.url), rewind=True)
    assert (rewind.send_blocks, rewind.send_bytes, rewind.position) == (4, 3 * BLOCK, plan.fork)
    sent = world.a
    world.resync(world.a, world.b)
    world.settle(lambda: sent.secondary.root.is_at_boundary)
    assert plan.send_bytes <= world.a.receivers[0].received_bytes <= plan.send_bytes + 1000


@pytest.mark.requirement("R4")
def test_what_cannot_be_known_before_hashes_are_compared_is_not_claimed() -> None:
    world = failed_over()
    world.a.primary.parts.root.mutate(lambda root: msgspec.structs.replace(root, first_listed=root.last.number + 1))
    plan = plan_return(world.a.primary, world.peer(world.b.url))
    assert (plan.way, plan.undone_blocks, plan.send_bytes) == ("comparison", None, None)


@pytest.mark.requirement("R7")
def test_a_side_that_wrote_nothing_needs_the_sets_alone() -> None:
    world = in_step()
    world.a.stop()
    world.b.secondary.promote()
    world.b.reopen()
    world.b.write(4, block("b", 2))
    world.a.start()
    plan = plan_return(world.a.primary, world.peer(world.b.url))
    assert (plan.way, plan.undone_blocks, plan.send_blocks) == ("sets", 0, 2)


@pytest.mark.requirement("R9")
def test_ordinary_progress_does_not_make_a_plan_stale() -> None:
    world = failed_over()
    make = partial(plan_return, world.a.primary, world.peer(world.b.url))
    plan = make()
    for number in range(5):
        world.b.write(100 + number, block("n"))
        world.b.primary.cut()
    check(plan, make())
    lagging_world = lagging()
    failover = plan_failover(lagging_world.b.secondary, "received", lagging_world.peer(lagging_world.a.url).info())
    lagging_world.network.down.clear()
    last = lagging_world.a.primary.root.last
    lagging_world.settle(lambda: lagging_world.b.secondary.root.last == last)
    check(
        failover, plan_failover(lagging_world.b.secondary, "received", lagging_world.peer(lagging_world.a.url).info())
    )


@pytest.mark.requirement("R9")
def test_a_plan_is_refused_when_more_would_be_undone_or_lost_than_it_said() -> None:
    world = in_step()
    world.network.down.add(world.b.url)
    world.network.break_links()
    info = world.peer(world.a.url).info()
    failover = plan_failover(world.b.secondary, "received", info)
    for _ in range(2):
        world.a.write(2, block("a", 3))
        world.a.primary.cut()
    with pytest.raises(PlanStaleError, match="lost sets would be 2, not 0"):
        check(failover, plan_failover(world.b.secondary, "received", world.peer(world.a.url).info()))
    world.b.secondary.promote()
    world.b.reopen()
    world.network.down.clear()
    make = partial(plan_return, world.a.primary, world.peer(world.b.url))
    plan = make()
    world.a.write(50, block("a"))
    with pytest.raises(PlanStaleError, match="undone blocks would be 4, not 3"):
        check(plan, make())


@pytest.mark.requirement("R9")
@pytest.mark.parametrize("change", ["role", "epoch", "fork", "held"])
def test_a_plan_is_refused_when_what_it_rests_on_changed(change: str) -> None:
    world = failed_over()
    peer = world.peer(world.b.url)
    plan = plan_return(world.a.primary, peer)
    if change == "role":
        world.a.primary.fence(world.b.primary.root.epoch)
    elif change == "epoch":
        world.b.primary.begin_epoch("again")
    elif change == "held":
        world.a.primary.create_snapshot("mine")
    now = plan_return(world.a.primary, peer)
    if change == "fork":
        now = msgspec.structs.replace(now, id="other", fork=world.a.primary.root.last)
    with pytest.raises(PlanStaleError, match=r"stale: .*changed since"):
        check(plan, now)


@pytest.mark.requirement("R6")
def test_no_failover_is_planned_for_a_volume_at_no_boundary() -> None:
    world = failed_over()
    world.resync(world.a, world.b)
    with pytest.raises(InconsistentError):
        plan_failover(world.a.secondary)
