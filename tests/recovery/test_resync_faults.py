"""In the middle of a resync: crashes, a second failover, a third site, copies of a site (R4, R6, R9)."""

from __future__ import annotations

import random

import pytest

from replkit.errors import ReplkitError, StoreUnavailableError
from replkit.recovery import demotion
from replkit.recovery.resync import full_copy
from replkit.recovery.salvage import list_salvages, open_salvage
from replkit.replication.root import read_root
from replkit.testing.crashing import PowerFailure
from replkit.testing.sim.model import read_all
from replkit.testing.sim.sites import VOLUME, Site, Sites, block
from replkit.testing.sim.world import different_blocks


def step_all(world: Sites) -> None:
    world.a.write(0, block("0", 40))
    world.follow(world.a, *(site for name, site in world.sites.items() if name != "a"))


def cut_off(world: Sites, *sites: Site) -> None:
    for site in sites:
        world.network.down.add(site.url)
        world.network.break_links(site.url)


def fail_over(world: Sites, site: Site, mode: str = "received") -> None:
    site.secondary.promote(mode)  # type: ignore[arg-type]
    site.reopen()


def failed_over(names: str = "ab", **options: int) -> Sites:
    """A and the others in step; A is cut off and writes on; B is promoted and writes too."""
    world = Sites(names, **options)
    step_all(world)
    cut_off(world, *(site for name, site in world.sites.items() if name != "a"))
    world.a.write(2, block("a", 6))
    world.a.primary.cut()
    world.a.write(10, block("A"))
    world.a.primary.volume.flush()
    fail_over(world, world.b)
    world.b.write(4, block("b", 9))
    world.b.primary.cut()
    world.b.write(30, block("B"))
    world.b.primary.volume.flush()
    world.network.down.clear()
    return world


def follows(world: Sites, site: Site, primary: Site) -> bool:
    if not primary.is_primary or site.is_primary or site.replica is None:
        return False
    if primary.primary.volume.dirty_blocks:
        try:
            primary.primary.cut()
        except PowerFailure:
            primary.crash()
            return False
    names = [member.name for member in primary.primary.root.members]
    return site.name in names and world.is_equal(primary, site)


def start_resync(world: Sites, site: Site, primary: Site) -> None:
    """The command, given again until it is taken: what it does is in the root then."""
    for _ in range(20):
        try:
            if site.is_primary:
                world.resync(site, primary)
            return
        except PowerFailure:
            site.crash()
        except ReplkitError:
            world.round()
    raise AssertionError("the resync could not be begun")


def salvages(site: Site) -> list[bytes]:
    parts, volume = site.secondary.parts, site.secondary.volume
    return [read_all(open_salvage(volume, each.id)) for each in list_salvages(parts, volume)]


@pytest.mark.requirement("R4", "R6")
@pytest.mark.parametrize("who", ["a", "b"])
def test_a_crash_of_either_side_anywhere_in_a_resync_ends_in_the_same_state(who: str) -> None:
    """Invariants 6 and 9: one crash at each of the first calls, then some of both sides, in every phase."""
    crashes = 0
    phases: set[str] = set()
    for call in range(1, 70):
        world = failed_over(seed=call, blocks=128)
        chance = random.Random(call)
        salvaged = world.a.content
        world.sites[who].power.fail_at(call)
        start_resync(world, world.a, world.b)
        for number in range(3):
            for _ in range(chance.randrange(1, 20)):
                world.round()
                resync = read_root(world.a.save).resync
                phases.add(resync.phase if resync is not None else "done")
            if number:
                world.sites[chance.choice("ab")].power.fail_at(chance.randrange(1, 40))
        for site in world.sites.values():
            site.power.fail_at(None)
        start_resync(world, world.a, world.b)
        world.settle(lambda: follows(world, world.a, world.b))  # noqa: B023 - called at once
        assert not different_blocks(world.a.content, world.b.content)
        assert salvages(world.a) == [salvaged]
        assert world.b.content[4 * 512 : 13 * 512] == block("b", 9)
        crashes += world.a.crashes + world.b.crashes
    assert crashes > 55
    assert phases == {"asking", "receiving", "done"}


@pytest.mark.requirement("R6")
@pytest.mark.parametrize("rounds", [0, 1, 2, 3, 5, 8, 13])
def test_a_second_failover_during_the_resync_leads_to_the_newest_primary(rounds: int) -> None:
    """A returns to B; B dies in the middle and C, which followed B, is promoted: A goes on to C, with its salvage."""
    world = failed_over("abc")
    world.resync(world.c, world.b)
    world.settle(lambda: follows(world, world.c, world.b))
    salvaged = world.a.content
    world.resync(world.a, world.b)
    for _ in range(rounds):
        world.round()
    world.b.stop(power=True)
    fail_over(world, world.c)
    world.c.write(50, block("c", 3))
    world.c.primary.cut()
    world.resync(world.a, world.c)
    world.settle(lambda: follows(world, world.a, world.c))
    assert not different_blocks(world.a.content, world.c.content)
    assert salvaged in salvages(world.a)


@pytest.mark.requirement("R4", "R9")
@pytest.mark.parametrize("where", ["before", "at", "after"])
def test_a_third_site_that_stood_before_at_or_after_the_fork_follows_the_new_primary(where: str) -> None:
    world = Sites("abc")
    step_all(world)
    if where == "before":
        cut_off(world, world.c)
    world.a.write(7, block("7", 2))
    world.a.primary.cut()
    world.settle(lambda: world.is_equal(world.a, world.b))
    if where != "before":
        world.settle(lambda: world.is_equal(world.a, world.c))
    cut_off(world, world.b)
    if where == "after":
        world.a.write(8, block("8", 3))
        world.a.primary.cut()
        world.settle(lambda: world.is_equal(world.a, world.c))
    world.a.stop(power=True)
    world.network.down.clear()
    fail_over(world, world.b)
    world.b.write(20, block("b"))
    world.b.primary.cut()
    resync = world.resync(world.c, world.b)
    assert (resync is not None) == (where == "after")
    world.settle(lambda: follows(world, world.c, world.b))
    assert world.c.content == world.b.content
    assert all(member.difference is None for member in world.b.primary.root.members)


@pytest.mark.requirement("R3")
def test_a_member_that_has_played_beyond_a_failover_now_is_taken_back_like_an_old_primary() -> None:
    world = Sites("abc")
    step_all(world)
    world.b.save.swap("policy", b'{"play_interval_s": 1e9, "play_high_water_bytes": 1000000000}', 0)
    world.a.write(7, block("7", 2))
    world.a.primary.cut()
    world.settle(lambda: world.is_equal(world.a, world.c) and world.b.secondary.root.last == world.a.primary.root.last)
    beyond = world.c.content
    world.a.stop(power=True)
    fail_over(world, world.b, "now")
    assert world.b.content != beyond
    assert world.resync(world.c, world.b) is not None
    world.settle(lambda: follows(world, world.c, world.b))
    assert world.c.content == world.b.content
    assert salvages(world.c) == [beyond]


@pytest.mark.requirement("R6")
@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_a_second_failover_while_the_difference_goes_in_place_compares_hashes(rounds: int) -> None:
    """The save volume of A is too small to keep the difference: what was written over is not known block by block."""
    world = Sites("abc", blocks=512)
    world.a.save.sets_bytes = 48 << 10
    step_all(world)
    cut_off(world, world.b, world.c)
    world.a.write(2, block("a", 6))
    fail_over(world, world.b)
    world.network.down.clear()
    world.resync(world.c, world.b)
    world.settle(lambda: follows(world, world.c, world.b))
    for start in range(0, 400, 40):
        world.b.write(start, world.runtime.random_bytes(512 * 40))
        world.b.primary.cut()
        world.settle(lambda: follows(world, world.c, world.b))
    salvaged = world.a.content
    world.resync(world.a, world.b)
    world.settle(lambda: getattr(world.a.secondary.root.resync, "in_place", False))
    for _ in range(rounds):
        world.round()
    assert world.a.secondary.root.resync is not None
    assert rounds == 0 or world.a.content != salvaged
    world.b.stop(power=True)
    fail_over(world, world.c)
    world.c.write(50, block("c", 3))
    again = world.resync(world.a, world.c)
    assert again is not None
    assert again.compares
    world.settle(lambda: follows(world, world.a, world.c))
    assert not different_blocks(world.a.content, world.c.content)
    assert salvaged in salvages(world.a)


@pytest.mark.requirement("R5")
def test_a_full_copy_is_made_only_when_it_is_asked_for() -> None:
    world = failed_over()
    world.resync(world.a, world.b)
    full_copy(world.a.secondary)
    world.a.reopen()
    for _ in range(20):
        world.round()
    assert not world.a.secondary.root.is_at_boundary
    assert not [member for member in world.b.primary.root.members if member.name == "a"]
    world.b.primary.add_member("a", world.a.url, VOLUME)
    world.settle(lambda: follows(world, world.a, world.b))
    assert world.a.content == world.b.content
    assert len(salvages(world.a)) == 1


@pytest.mark.requirement("R9")
def test_two_primaries_of_equal_count_one_of_which_a_command_makes_return() -> None:
    """Three-way divergence: A, B and C all wrote. B wins by a new epoch; A and C return."""
    world = Sites("abc")
    step_all(world)
    cut_off(world, world.a, world.b, world.c)
    for site in (world.b, world.c):
        fail_over(world, site)
    for site, letter in ((world.a, "A"), (world.b, "B"), (world.c, "C")):
        site.write(5, block(letter, 3))
        site.primary.cut()
    world.network.down.clear()
    world.b.primary.fence(world.c.primary.root.epoch)
    world.b.primary.begin_epoch("decided")
    world.resync(world.c, world.b)
    world.resync(world.a, world.b)
    world.settle(lambda: follows(world, world.a, world.b) and follows(world, world.c, world.b))
    assert world.a.content == world.b.content == world.c.content
    assert world.b.content[5 * 512 : 8 * 512] == block("B", 3)
    assert read_root(world.c.save).epoch.count == 3


@pytest.mark.requirement("R4", "R9")
def test_a_site_rolled_back_to_an_older_copy_returns_from_where_identities_agree() -> None:
    """Its history says that it shares everything with the member; the identities of its sets say otherwise."""
    world = Sites("ab")
    step_all(world)
    world.a.primary.close()
    old = world.a.save.copied()
    world.a.start()
    for number in range(3):
        world.a.write(20 + number, block("x"))
        world.a.primary.cut()
    world.settle(lambda: world.is_equal(world.a, world.b))
    world.a.stop()
    world.a.save.roll_back(old)
    world.a.start()
    cut_off(world, world.b)
    for number in range(2):  # cut under numbers that B got with another content
        world.a.write(3 + number, block("y"))
        world.a.primary.cut()
    fail_over(world, world.b)
    world.network.down.clear()
    resync = world.resync(world.a, world.b)
    assert resync is not None
    assert resync.fork.number == 1
    world.settle(lambda: follows(world, world.a, world.b))
    assert world.a.content == world.b.content


@pytest.mark.requirement("R4", "R6")
def test_a_secondary_whose_return_failed_goes_on_with_whom_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 111950: it took no link any more until it was opened again."""
    world = Sites("abc")
    step_all(world)
    cut_off(world, world.b)
    world.a.write(2, block("a", 6))
    world.a.primary.cut()
    world.settle(lambda: world.is_equal(world.a, world.c))
    fail_over(world, world.b)
    world.network.down.clear()
    before = world.c.secondary

    def fail(*_: object) -> None:
        raise StoreUnavailableError("the lists cannot be read just now")

    with monkeypatch.context() as patch:
        patch.setattr(demotion, "blocks_after", fail)
        with pytest.raises(StoreUnavailableError):
            world.resync(world.c, world.b)
    world.b.stop()
    world.a.write(20, block("A"))
    world.a.primary.cut()
    world.settle(lambda: follows(world, world.c, world.a))
    assert world.c.secondary is before
    assert world.c.content == world.a.content
