"""Split brain cannot happen silently: who meets a higher epoch, or another copy of himself, stops writing (R9)."""

from __future__ import annotations

import msgspec
import pytest

from replkit.contracts.position import Epoch
from replkit.errors import DivergedError, FencedError, RefusedError
from replkit.replication.root import read_root
from replkit.replication.trimmer import members_floor
from replkit.testing.sim.sites import VOLUME, Sites, block


def three_sites() -> Sites:
    """A with some blocks, and B and C that have played them all."""
    world = Sites("abc")
    world.a.write(0, block("0", 16))
    world.follow(world.a, world.b, world.c)
    return world


def follows(world: Sites, name: str, primary: str) -> bool:
    """A site has all that its new primary has."""
    members = world.sites[primary].primary.root.members
    return any(each.name == name for each in members) and world.is_equal(world.sites[primary], world.sites[name])


def is_fenced(world: Sites, name: str = "a") -> bool:
    return world.sites[name].primary.volume.refusal is not None


@pytest.mark.requirement("R9")
def test_an_old_primary_that_meets_the_higher_epoch_at_a_member_takes_no_more_writes() -> None:
    """Invariant 8. B was promoted and C follows it; A, back from its isolation, learns it from C."""
    world = three_sites()
    world.a.stop()
    world.b.secondary.promote()
    world.b.reopen()
    world.b.primary.add_member("c", world.c.url, VOLUME)
    world.settle(lambda: world.c.secondary.root.epoch.count == 2)
    world.a.start()
    world.a.write(1, block("x"))  # before it knows
    before = world.a.content
    world.settle(lambda: is_fenced(world))

    for change in (lambda: world.a.write(2, block("y")), lambda: world.a.primary.volume.discard(2, 1)):
        with pytest.raises(FencedError, match=r"epoch 2 has begun elsewhere.*resync"):
            change()
    assert world.a.content == before
    assert world.a.primary.root.fenced == world.b.primary.root.epoch
    assert len([text for text in world.a.hooks.errors if "epoch 1 is over here" in text]) == 1
    world.a.crash()
    with pytest.raises(FencedError):  # also after it was opened again
        world.a.write(2, block("y"))


@pytest.mark.requirement("R9", "T1")
def test_an_old_primary_that_tries_again_and_again_ends_nobodys_session() -> None:
    """C follows B. A, whose epoch is over, goes on to call C: it is refused, and what B sends goes on on its link."""
    world = three_sites()
    world.b.secondary.promote()
    world.b.reopen()
    world.resync(world.c, world.b)
    world.settle(lambda: bool(world.c.receivers) and world.is_equal(world.b, world.c))
    (session,) = world.c.receivers
    seen = world.network.messages
    for number in range(40):
        world.b.write(number, block("n"))
        world.b.primary.cut()
        world.round()
    assert world.network.messages > seen + 40
    assert is_fenced(world), "A was answered"
    assert world.c.receivers == [session]
    world.settle(lambda: world.is_equal(world.b, world.c))


@pytest.mark.requirement("R8")
def test_a_secondary_tells_of_a_sender_only_while_its_link_is_open() -> None:
    """Invariant 13: without a primary it is not up to date, however much it has played."""
    world = three_sites()
    assert world.b.secondary.status()["receiver"] is not None
    world.network.down.add(world.b.url)
    world.network.break_links(world.b.url)
    world.run(world.b)
    assert world.b.secondary.status()["receiver"] is None
    world.network.down.clear()
    world.settle(lambda: world.b.secondary.status()["receiver"] is not None)


@pytest.mark.requirement("R9")
def test_an_old_primary_learns_it_from_the_new_one_to_which_it_goes_on_sending() -> None:
    world = three_sites()
    world.network.down.add(world.b.url)
    world.network.break_links(world.b.url)
    world.b.secondary.promote()
    world.b.reopen()
    world.network.down.clear()
    world.settle(lambda: is_fenced(world))
    assert not is_fenced(world, "b")


@pytest.mark.requirement("R9")
def test_an_old_primary_learns_it_from_the_hello_of_the_new_one() -> None:
    world = three_sites()
    world.network.down.update({world.b.url, world.c.url})
    world.network.break_links()
    world.b.secondary.promote()
    world.b.reopen()
    world.b.primary.add_member("a", world.a.url, VOLUME)
    world.settle(lambda: is_fenced(world))
    assert not is_fenced(world, "b")


@pytest.mark.requirement("R9")
def test_two_promotions_of_equal_count_are_a_divergence_that_stops_the_one_that_meets_the_other() -> None:
    world = three_sites()
    world.a.stop()
    for site in (world.b, world.c):
        site.secondary.promote()
        site.reopen()
    mine, theirs = world.b.primary.root.epoch, world.c.primary.root.epoch
    assert mine.count == theirs.count == 2
    assert mine.promotion != theirs.promotion
    assert world.b.primary.fence(theirs)
    with pytest.raises(FencedError, match="diverged: two sites were promoted to epoch 2"):
        world.b.write(0, block("y"))
    world.b.reopen()
    assert is_fenced(world, "b")


@pytest.mark.requirement("R4", "R9")
@pytest.mark.parametrize("what", ["primary", "secondary", "in a resync"])
def test_nobody_returns_to_a_primary_of_equal_count_before_a_command_decides(what: str) -> None:
    """Invariants 5 and 8: a position would fall under an equal count; with a new epoch there it does under a higher."""
    world = three_sites()
    world.a.stop()
    for site in (world.b, world.c):
        site.secondary.promote()
        site.reopen()
    world.a.start()
    site = world.c if what == "primary" else world.a
    if what == "primary":
        world.c.write(3, block("c"))
        world.c.primary.cut()
    else:
        world.resync(world.a, world.c)
        if what == "secondary":
            world.settle(lambda: follows(world, "a", "c"))
            world.c.write(3, block("c"))
            world.c.primary.cut()
            world.settle(lambda: follows(world, "a", "c"))
    before = read_root(site.save)
    for _ in range(2):
        with pytest.raises(DivergedError, match=r"two promotions have epoch 2.*new epoch"):
            world.resync(site, world.b)
    if what == "primary":  # it has met the other one
        assert is_fenced(world, "c")
        assert read_root(site.save).fenced == world.b.primary.root.epoch
    else:
        assert msgspec.structs.replace(read_root(site.save), owner="") == msgspec.structs.replace(before, owner="")

    world.b.primary.begin_epoch("decided")
    world.resync(site, world.b)
    world.settle(lambda: follows(world, site.name, "b"))
    assert site.content == world.b.content
    assert read_root(site.save).epoch.count == 3


@pytest.mark.requirement("R9")
def test_an_epoch_that_is_over_fences_nobody() -> None:
    world = three_sites()
    primary = world.a.primary
    assert not primary.fence(primary.root.epoch)
    assert not primary.fence(Epoch(0, "older"))
    world.a.write(0, block("y"))


@pytest.mark.requirement("R9")
def test_a_command_decides_that_a_fenced_primary_goes_on_above_all_epochs_seen() -> None:
    world = three_sites()
    world.a.primary.fence(Epoch(7, "elsewhere"))
    last = world.a.primary.root.last
    assert world.a.primary.begin_epoch("r1") == last
    epoch = world.a.primary.root.epoch
    assert epoch.count == 8
    world.a.write(0, block("y"))
    assert world.a.primary.begin_epoch("r1") == last  # asked again: done
    assert world.a.primary.root.epoch == epoch
    position = world.a.primary.cut()
    assert (position.epoch, position.number) == (epoch, last.number + 1)
    world.settle(lambda: world.is_equal(world.a, world.b))
    assert world.b.content == world.a.content


@pytest.mark.requirement("R9")
def test_a_save_volume_rolled_back_to_an_older_copy_is_found_at_the_member_that_has_more() -> None:
    """The member got sets of this very epoch that were never cut here: two pasts would grow under one epoch."""
    world = three_sites()
    world.a.primary.close()
    old = world.a.save.copied()
    world.a.start()
    world.a.write(5, block("x"))
    world.a.primary.cut()
    world.settle(lambda: world.is_equal(world.a, world.b))
    world.a.stop()
    world.a.save.roll_back(old)
    world.a.start()
    world.settle(lambda: is_fenced(world))
    with pytest.raises(FencedError, match=r"cloned, or its save volume rolled back.*resync"):
        world.a.write(1, block("y"))
    assert read_root(world.a.save).fenced == world.a.primary.root.epoch


@pytest.mark.requirement("R9")
def test_a_cloned_site_that_cut_another_set_of_the_same_number_is_found_too() -> None:
    world = three_sites()
    world.a.primary.close()
    old = world.a.save.copied()
    world.a.start()
    world.a.write(5, block("x"))
    world.a.primary.cut()
    world.settle(lambda: world.is_equal(world.a, world.b) and world.is_equal(world.a, world.c))
    world.a.stop()
    world.a.save.roll_back(old)
    world.a.start()
    world.a.write(5, block("clone"[0]))
    clone = world.a.primary.cut()
    assert clone.number == world.b.secondary.root.last.number
    world.settle(lambda: is_fenced(world))
    assert world.b.secondary.root.last.identity != clone.identity


@pytest.mark.requirement("R9")
def test_a_member_that_was_told_of_an_epoch_lets_no_older_primary_in() -> None:
    """Invariant 8: B tells C that it was promoted; A, which B cannot reach, learns it from C."""
    world = three_sites()
    world.network.down.add(world.b.url)
    world.network.break_links()
    world.b.secondary.promote()
    root = world.b.secondary.root
    assert world.peer(world.c.url).fence(root.epoch, root.lineage)
    world.settle(lambda: is_fenced(world))
    assert world.a.primary.root.fenced == root.epoch
    assert world.c.secondary.root.epoch.count == 1
    world.c.secondary.promote()
    assert world.c.secondary.root.epoch.count == 3  # above all that were seen


@pytest.mark.requirement("R9")
def test_an_epoch_of_another_volume_of_the_same_name_fences_nobody() -> None:
    world = three_sites()
    for name in ("a", "b"):
        with pytest.raises(RefusedError, match="another volume"):
            world.peer(world.sites[name].url).fence(Epoch(9, "x"), "another lineage")
    assert not is_fenced(world)
    assert world.b.secondary.root.fenced is None


@pytest.mark.requirement("R9", "R8")
def test_what_a_member_acknowledged_counts_no_more_when_an_epoch_begins_here() -> None:
    """Invariant 7: it may have followed another primary meanwhile, to an earlier position, and will say so."""
    world = Sites("ab")
    world.a.write(0, block("0", 40))
    world.follow(world.a, world.b)
    for number in range(3):
        world.a.write(number, block("x", 5))
        world.a.primary.cut()
    world.settle(lambda: world.a.primary.progress() == {"b": (world.a.primary.root.last.number,) * 2})
    last = world.a.primary.root.last.number
    assert world.a.primary.progress() == {"b": (last, last)}
    world.a.primary.begin_epoch("decided")
    assert world.a.primary.progress() == {"b": (0, 0)}
    assert members_floor(world.a.save, world.a.primary.root) < last
    world.a.write(9, block("y", 5))
    world.a.primary.cut()
    world.settle(lambda: world.a.primary.progress() == {"b": (world.a.primary.root.last.number,) * 2})
    assert world.a.primary.progress() == {"b": (last + 1, last + 1)}
