"""Members in changes of role: none is forgotten silently, and none is shut out for good (R2, R7; invariants 6, 7)."""

from __future__ import annotations

import pytest

from replkit.errors import InconsistentError
from replkit.recovery.handover import begin_handover
from replkit.replication.new_copy import change_member
from replkit.replication.root import read_root
from replkit.testing.sim.sites import VOLUME, Site, Sites, block


def in_step(names: str = "abc", *, blocks: int = 256) -> Sites:
    world = Sites(names, blocks=blocks)
    world.a.write(0, world.runtime.random_bytes(512 * (blocks - 20)))
    world.follow(world.a, *(world.sites[name] for name in names[1:]))
    return world


def hand_over(world: Sites, source: Site, target: Site, id_: str) -> None:
    begin_handover(source.primary, target.name, id_, own_url=source.url, own_name=source.name)
    world.settle(lambda: target.is_primary and not source.is_primary and not source.secondary.root.handover)


def received(site: Site) -> int:
    return sum(receiver.received_bytes for receiver in site.receivers)


@pytest.mark.requirement("R2", "R7")
def test_a_member_that_was_away_during_two_switchovers_gets_the_sets_it_lacks_and_no_more() -> None:
    """It was not seen by the primary in between: what it had played is what its hold says."""
    world = in_step()
    for number in range(5):
        world.a.write(number, block("x"))
        world.a.primary.cut()
        world.settle(lambda: world.is_equal(world.a, world.b) and world.is_equal(world.a, world.c))
    world.a.primary.set_policy(keep_sets=0)
    world.network.down.add(world.c.url)
    world.network.break_links(world.c.url)
    hand_over(world, world.a, world.b, "h1")
    world.settle(lambda: world.is_equal(world.b, world.a))
    for number in range(3):  # a secondary in a bucket keeps the newest sets until the next ones come
        world.b.write(number, block("z"))
        world.b.primary.cut()
        world.settle(lambda: world.is_equal(world.b, world.a))
    hand_over(world, world.b, world.a, "h2")
    (member,) = [each for each in world.a.primary.root.members if each.name == "c"]
    assert member.difference is not None
    assert world.c.secondary.root.last.number - member.difference.fork.number <= 1  # its last answer may not have come
    world.network.down.clear()
    world.a.write(9, block("y"))
    world.a.primary.cut()
    world.settle(lambda: world.is_equal(world.a, world.c))
    assert world.c.content == world.a.content
    assert received(world.c) < 8 << 10


@pytest.mark.requirement("R2")
def test_a_paused_member_goes_over_paused_and_one_that_cannot_is_named() -> None:
    """Invariant 7: its sets are kept by the new primary; a stale one is said to be left behind."""
    world = in_step("abcd")
    world.a.primary.pause("c")
    world.a.primary.parts.root.mutate(lambda now: change_member(now, "d", state="stale"))
    hand_over(world, world.a, world.b, "h1")
    states = {each.name: each.state for each in world.b.primary.root.members}
    assert states == {"a": "following", "c": "paused"}
    assert [text for text in world.a.hooks.errors if "d" in text and "stale" in text]
    world.b.write(1, block("y"))
    world.b.primary.cut()
    world.settle(lambda: world.is_equal(world.b, world.a))
    assert world.c.secondary.root.last.number < world.b.primary.root.last.number
    world.b.primary.resume("c")
    world.settle(lambda: world.is_equal(world.b, world.c))
    assert world.c.content == world.b.content


@pytest.mark.requirement("R5", "R6")
def test_a_copy_that_was_cut_short_can_be_made_by_the_new_primary() -> None:
    """Invariant 6: the volume is at no boundary, and what the copy would have led to is in no history any more."""
    world = in_step(blocks=2048)
    world.network.down.add(world.b.url)
    world.network.break_links(world.b.url)
    world.a.write(3, block("x"))
    world.a.primary.cut()
    world.a.primary.copy_again("c")
    world.settle(lambda: read_root(world.c.save).inconsistent is not None)
    assert read_root(world.c.save).last.number > read_root(world.b.save).last.number
    world.a.stop(power=True)
    world.network.down.clear()
    world.b.secondary.promote()
    world.b.reopen()
    world.b.primary.add_member("c", world.c.url, VOLUME)
    world.settle(lambda: world.is_equal(world.b, world.c))
    assert world.c.content == world.b.content


@pytest.mark.requirement("R5", "R6")
def test_a_difference_in_place_that_was_cut_short_can_be_replaced_by_a_copy_of_the_new_primary() -> None:
    world = in_step(blocks=512)
    world.c.save.sets_bytes = 48 << 10
    world.network.down.update({world.b.url, world.c.url})
    world.network.break_links()
    for start in range(0, 400, 40):
        world.a.write(start, world.runtime.random_bytes(512 * 40))
        world.a.primary.cut()
    world.a.primary.parts.root.mutate(lambda now: change_member(now, "c", state="stale"))
    world.network.down.discard(world.c.url)
    world.a.primary.members.catch_up("c")
    world.settle(lambda: read_root(world.c.save).inconsistent is not None)
    root = read_root(world.c.save)
    assert root.base is not None
    assert root.last.number > read_root(world.b.save).last.number
    world.a.stop(power=True)
    world.network.down.clear()
    world.b.secondary.promote()
    world.b.reopen()
    with pytest.raises(InconsistentError):
        world.c.secondary.promote()
    world.b.primary.add_member("c", world.c.url, VOLUME)
    world.settle(lambda: world.is_equal(world.b, world.c))
    assert world.c.content == world.b.content
