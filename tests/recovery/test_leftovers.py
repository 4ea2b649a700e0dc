"""A resync that was given up leaves nothing behind, neither where it was asked for nor where it was (R4)."""

from __future__ import annotations

import pytest

from replkit.recovery.salvage import list_salvages, salvage_blocks
from replkit.replication.leftovers import KEPT_S
from replkit.replication.root import read_root
from replkit.testing.sim.sites import Sites, block


def asking(*, lists: bool = True) -> Sites:
    """A returns to B: it sent its list, or had a snapshot made to compare with, and B has not made it a member yet."""
    world = Sites("abc", blocks=256)
    world.a.write(0, block("0", 200))
    world.follow(world.a, world.b, world.c)
    world.network.down.update({world.b.url, world.c.url})
    world.network.break_links()
    world.a.write(2, block("a", 6))
    world.a.primary.cut()
    if not lists:
        for key in world.a.save.list("lists/"):
            if "/blocks-" in key:
                world.a.save.delete([key])
    world.b.secondary.promote()
    world.b.reopen()
    world.network.down.clear()
    resync = world.resync(world.a, world.b)
    assert resync is not None
    peer = world.peer(world.b.url)
    if lists:
        for key in world.a.save.list(f"{resync.list_key}/"):
            peer.put_list_record(resync.id, key.rpartition("/")[2], world.a.save.get(key), 1)
        assert world.b.save.list("lists/resync-")
    else:
        assert peer.prepare(resync.id).snapshot in [each.name for each in world.b.primary.snapshots()]
    return world


def leftovers(world: Sites) -> list[str]:
    names = [each.name for each in world.b.primary.snapshots() if each.name.startswith("resync.")]
    return [*names, *world.b.save.list("lists/resync-")]


@pytest.mark.requirement("R4")
@pytest.mark.parametrize("lists", [True, False])
def test_what_a_site_was_given_and_did_not_take_up_goes_after_a_time(lists: bool) -> None:
    world = asking(lists=lists)
    world.a.stop()
    for _ in range(3):
        world.b.primary.members.step()
        world.runtime.advance(KEPT_S / 4)
        assert leftovers(world)
    world.runtime.advance(KEPT_S)
    world.b.primary.members.step()
    assert not leftovers(world)
    world.a.start()  # it sends, or asks, again
    world.settle(lambda: not read_root(world.a.save).resync and world.is_equal(world.b, world.a))
    assert world.a.content == world.b.content


@pytest.mark.requirement("R4")
def test_a_list_that_is_in_use_stays_however_long_it_takes() -> None:
    world = asking()
    for _ in range(20):
        world.runtime.advance(KEPT_S / 2)
        world.b.primary.members.leftovers.touch(leftovers(world)[0].rpartition("/")[0])
        world.b.primary.members.step()
        assert leftovers(world)


@pytest.mark.requirement("R4", "R6")
def test_a_site_that_turned_elsewhere_keeps_the_list_of_its_salvage_and_no_other() -> None:
    world = asking()
    world.network.down.add(world.b.url)
    world.network.break_links()
    world.b.stop()
    world.c.secondary.promote()
    world.c.reopen()
    world.c.primary.begin_epoch("decided")  # B and C have begun one of the same count
    again = world.resync(world.a, world.c)
    assert again is not None
    world.settle(lambda: not read_root(world.a.save).resync and world.is_equal(world.c, world.a))
    world.a.reopen()
    a = world.a.secondary
    (salvage,) = list_salvages(a.parts, a.volume)
    assert salvage_blocks(a.parts, a.volume, salvage.id).count() == 6
    assert {key.split("/")[1] for key in world.a.save.list("lists/resync-")} == {f"resync-{salvage.id}"}
