"""Switchover, failback and reverse (FIG. 30, 33): a role goes over with no copy and no loss, never to two (R2, R7)."""

from __future__ import annotations

import threading

import pytest

from replkit.contracts.position import Epoch
from replkit.errors import DivergedError, FencedError, NotFoundError, WrongRoleError
from replkit.recovery.handover import begin_handover, cancel_handover, take_over
from replkit.recovery.states import State, state_of
from replkit.replication.root import read_root
from replkit.testing.sim.sites import BLOCK, VOLUME, Site, Sites, block
from replkit.testing.sim.world import different_blocks


def in_step(names: str = "ab", **options: int) -> Sites:
    world = Sites(names, **options)
    world.a.write(0, block("0", 40))
    world.follow(world.a, *(world.sites[name] for name in names[1:]))
    return world


def hand_over(source: Site, target: Site, id_: str = "h1") -> None:
    begin_handover(source.primary, target.name, id_, own_url=source.url, own_name=source.name)


def has_swapped(world: Sites, source: Site, target: Site) -> bool:
    """The target is the primary, and the source follows it."""
    if source.is_primary or not target.is_primary or source.secondary.root.handover is not None:
        return False
    names = [member.name for member in target.primary.root.members]
    return source.name in names and world.is_equal(target, source)


def primaries(world: Sites) -> list[str]:
    return [name for name, site in world.sites.items() if read_root(site.save).role == "primary"]


@pytest.mark.requirement("R2", "R7")
def test_a_switchover_sends_the_last_set_first_and_loses_nothing() -> None:
    """FIG. 33: the last set is sent and played, the restart point is made at the new primary, the direction swapped."""
    world = in_step()
    world.a.write(3, block("l"))  # not cut yet
    written = world.a.content
    hand_over(world.a, world.b)
    world.settle(lambda: has_swapped(world, world.a, world.b))
    assert world.b.content == world.a.content == written
    b = world.b.primary.root
    assert b.epoch == world.a.secondary.root.epoch
    assert b.epoch.count == 2
    assert [record.name for record in world.b.primary.snapshots()] == ["restart.2"]
    assert world.b.primary.snapshots()[0].stamp == b.restart
    world.b.write(7, block("n"))
    world.b.primary.cut()
    world.settle(lambda: world.is_equal(world.b, world.a))
    assert world.a.content == world.b.content
    assert world.a.receivers[0].received_bytes < BLOCK + 800  # no copy: one set of one block


@pytest.mark.requirement("R7")
def test_failback_gives_the_role_back_and_it_goes_to_and_fro_with_no_disaster_at_all() -> None:
    world = in_step()
    for number, (source, target) in enumerate([(world.a, world.b), (world.b, world.a)] * 2):
        source.write(number, block("x"))
        hand_over(source, target, f"h{number}")
        world.settle(lambda source=source, target=target: has_swapped(world, source, target))  # type: ignore[misc]
        assert source.content == target.content
        assert read_root(target.save).epoch.count == number + 2
    restart_points = [record.name for record in world.a.primary.snapshots()]
    assert restart_points == ["restart.5"]  # held until the role went on
    assert not world.b.secondary.root.snapshots


@pytest.mark.requirement("R2")
def test_writers_wait_at_the_end_and_never_write_at_a_primary_that_is_over() -> None:
    world = in_step()
    world.a.write(3, block("l"))
    hand_over(world.a, world.b)
    while not world.a.primary.volume.stats()["writes_suspended"]:
        world.run(world.a)
        world.run(world.b)
    raised: list[Exception] = []

    volume = world.a.primary.volume
    writer = threading.Thread(target=lambda: _write_to(volume, raised))
    writer.start()
    world.settle(lambda: has_swapped(world, world.a, world.b))
    writer.join(60)
    assert isinstance(raised[0], WrongRoleError)
    assert world.a.content == world.b.content


def _write_to(volume: object, raised: list[Exception]) -> None:
    try:
        volume.write(9, block("w"))  # type: ignore[attr-defined]
    except Exception as error:
        raised.append(error)


@pytest.mark.requirement("R2", "R7")
def test_the_side_that_wants_the_role_back_asks_for_it() -> None:
    """Failback as the former primary begins it: it asks the one that has the role now."""
    world = in_step()
    hand_over(world.a, world.b)
    world.settle(lambda: has_swapped(world, world.a, world.b))
    peer = world.peer(world.b.url)
    assert peer.ask_handover("back", "a") == "primary that hands over"
    assert peer.ask_handover("back", "a") == "primary that hands over"  # asked twice, done once
    world.settle(lambda: has_swapped(world, world.b, world.a))
    assert peer.handover_status() == "secondary"
    assert primaries(world) == ["a"]


@pytest.mark.requirement("R2", "R9")
def test_a_member_that_was_promoted_meanwhile_refuses_a_grant_and_the_former_primary_joins_it() -> None:
    world = in_step()
    begin_handover(world.a.primary, "b", "h1", own_url=world.a.url, own_name="a")
    while world.a.primary.root.role == "primary":
        world.a.draining.step()
    world.b.secondary.promote()  # by an operator, before the call came
    world.b.reopen()
    world.a.reopen()
    for _ in range(5):
        world.round()
    assert world.a.secondary.root.handover is not None
    assert world.b.primary.root.epoch != world.a.secondary.root.epoch
    assert primaries(world) == ["b"]
    with pytest.raises(DivergedError, match="two promotions have epoch 2"):
        world.resync(world.a, world.b)
    world.b.primary.begin_epoch("decided")
    world.resync(world.a, world.b)
    world.settle(lambda: has_swapped(world, world.a, world.b))


def granted() -> Sites:
    """A has granted its role to B, which has not heard of it."""
    world = in_step()
    hand_over(world.a, world.b)
    while world.a.primary.root.role == "primary":
        world.a.draining.step()
        world.run(world.b)
        if world.a.primary.root.role == "primary":
            world.run(world.a)
    world.network.down.add(world.b.url)
    world.network.break_links()
    world.a.reopen()
    return world


@pytest.mark.requirement("R2", "R9")
def test_a_former_primary_is_not_promoted_while_its_grant_may_have_been_taken() -> None:
    """Invariant 8: the member may be a primary of the granted epoch by now."""
    world = granted()
    with pytest.raises(WrongRoleError, match=r"granted its role to b.*promote b, or wait.*force"):
        world.a.secondary.promote()
    assert primaries(world) == []
    world.network.down.clear()
    world.settle(lambda: has_swapped(world, world.a, world.b))
    world.b.write(1, block("n"))
    world.b.primary.cut()
    world.settle(lambda: world.is_equal(world.b, world.a))
    world.b.stop(power=True)
    world.a.secondary.promote()  # a set of the new primary came back: the grant is no question any more


@pytest.mark.requirement("R2", "R9")
def test_a_forced_promotion_wins_over_the_grant_where_the_two_can_talk() -> None:
    world = granted()
    world.a.secondary.promote(force=True)
    mine = world.a.secondary.root
    assert mine.epoch.count == 3
    world.network.down.clear()
    assert world.peer(world.b.url).fence(mine.epoch, mine.lineage)
    position = world.b.secondary.root.last
    with pytest.raises(FencedError, match="seen epoch 3"):  # the call of the grant was under way
        take_over(
            world.b.secondary, epoch=Epoch(2, "granted"), position=position, request_id="h1", members=(),
        )  # fmt: skip
    world.a.reopen()
    assert primaries(world) == ["a"]
    world.b.crash()
    assert world.b.secondary.root.fenced == mine.epoch  # also after it was opened again
    world.a.primary.add_member("b", world.b.url, VOLUME)
    world.settle(lambda: world.is_equal(world.a, world.b))
    assert world.b.secondary.root.fenced is None


@pytest.mark.requirement("R7")
def test_a_handover_is_given_up_while_it_drains_and_writes_go_on() -> None:
    world = in_step()
    world.network.down.add(world.b.url)
    world.network.break_links(world.b.url)
    world.a.write(2, block("x"))
    world.round()
    hand_over(world.a, world.b)
    for _ in range(20):
        world.round()
    assert world.a.is_primary
    cancel_handover(world.a.primary)
    world.round()
    assert not world.a.primary.volume.stats()["writes_suspended"]
    world.a.write(1, block("x"))
    assert primaries(world) == ["a"]


@pytest.mark.requirement("R2")
def test_a_switchover_needs_a_member_that_follows() -> None:
    world = in_step()
    with pytest.raises(NotFoundError):
        begin_handover(world.a.primary, "z", "h1")
    world.a.primary.pause("b")
    with pytest.raises(WrongRoleError, match="paused"):
        hand_over(world.a, world.b)


@pytest.mark.requirement("R2", "R7")
def test_the_other_members_go_over_to_the_new_primary_without_a_copy() -> None:
    world = in_step("abc")
    world.a.write(3, block("l"))
    hand_over(world.a, world.b)
    world.settle(lambda: has_swapped(world, world.a, world.b))
    world.b.write(9, block("n"))
    world.b.primary.cut()
    world.settle(lambda: world.is_equal(world.b, world.c) and world.is_equal(world.b, world.a))
    assert world.a.content == world.b.content == world.c.content


@pytest.mark.requirement("R6", "R7")
@pytest.mark.parametrize("who", ["a", "b"])
def test_a_crash_of_either_side_at_any_call_ends_in_the_swap_with_one_primary(who: str) -> None:
    """Re-issued or not, it goes on by itself; nothing flushed is lost, and there are never two primaries."""
    points: list[int] = []
    call = 0
    while not points or call < points[-1]:
        call += 1
        world = in_step(seed=call, blocks=64)
        site = world.sites[who]
        world.a.write(3, block("l"))
        world.a.primary.volume.flush()
        written = world.a.content
        hand_over(world.a, world.b)
        before = site.power.calls
        site.power.fail_at(call)
        for _ in range(400):
            if has_swapped(world, world.a, world.b):
                break
            world.round()
            assert len(primaries(world)) <= 1
        assert has_swapped(world, world.a, world.b), (call, world.a.hooks.errors[-3:], world.b.hooks.errors[-3:])
        assert world.a.content == world.b.content
        assert not different_blocks(world.b.content, written)
        assert read_root(world.b.save).epoch == read_root(world.a.save).epoch
        if site.power._calls_left is not None:  # the failure never came: that was the last point
            points.append(site.power.calls - before)
            break
    assert call > 20


@pytest.mark.requirement("R4", "R7", "R9")
def test_a_site_that_hands_over_returns_to_a_primary_of_a_higher_epoch() -> None:
    """Invariant 8: its own epoch is over, so there is nothing to hand over, and nothing to cancel first."""
    world = in_step("abc")
    hand_over(world.a, world.b)  # b is not reached
    assert state_of(world.a.primary.root) is State.DRAINING
    world.c.secondary.promote()
    world.c.reopen()
    world.c.write(9, block("c"))
    world.c.primary.cut()
    world.a.write(1, block("a"))
    world.resync(world.a, world.c)
    world.settle(lambda: not world.a.is_primary and read_root(world.a.save).last == world.c.primary.root.last)
    world.settle(lambda: world.a.content == world.c.content)
    assert read_root(world.a.save).handover is None
    assert world.a.content == world.c.content
