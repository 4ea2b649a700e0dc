"""Resync without a full copy (FIG. 28, 29): A, the old primary, returns to B's history; its own is salvage (R4, R6)."""

from __future__ import annotations

import msgspec
import pytest

from replkit.errors import FencedError, InconsistentError, NotFoundError, WrongRoleError
from replkit.recovery.salvage import delete_salvage, list_salvages, open_salvage, salvage_blocks
from replkit.replication.branches import FORK_IDENTITY
from replkit.testing.sim.model import read_all
from replkit.testing.sim.sites import BLOCK, Site, Sites, block


def failed_over(names: str = "ab", **options: int) -> Sites:
    """A and B in step; then A is cut off, B is promoted, and both write: A cuts a set, and has changes not yet cut."""
    world = Sites(names, **options)
    world.a.write(0, block("0", 40))
    world.follow(world.a, *(world.sites[name] for name in names[1:]))
    world.network.down.add(world.b.url)
    world.network.break_links(world.b.url)
    world.a.write(2, block("a", 3))  # only at A, cut
    world.a.primary.cut()
    world.a.write(10, block("A"))  # only at A, not cut
    world.a.write(60, block("A"))  # unused at the fork
    world.b.secondary.promote()
    world.b.reopen()
    world.b.write(4, block("b", 2))  # written at both
    world.b.write(20, block("b"))
    world.b.primary.cut()
    world.b.write(21, block("B"))
    world.network.down.clear()
    return world


def is_back(world: Sites, site: Site, primary: Site) -> bool:
    """The site follows the new primary, and has everything."""
    if primary.primary.volume.dirty_blocks:
        primary.primary.cut()
    names = [member.name for member in primary.primary.root.members]
    return site.name in names and not site.is_primary and world.is_equal(primary, site)


@pytest.mark.requirement("R4", "R9")
def test_the_old_primary_returns_and_its_own_changes_are_salvage() -> None:
    """Invariant 9: A equals the boundary at failover and B's later writes; what A had beyond it is kept."""
    world = failed_over()
    salvaged = world.a.content
    resync = world.resync(world.a, world.b)
    assert resync is not None
    with pytest.raises(InconsistentError):  # invariant 6: neither read nor promoted
        read_all(world.a.secondary.view())
    with pytest.raises(InconsistentError):
        world.a.secondary.promote()
    world.settle(lambda: is_back(world, world.a, world.b))
    assert world.a.content == world.b.content != salvaged
    assert world.a.secondary.root.resync is None

    a = world.a.secondary
    (salvage,) = list_salvages(a.parts, a.volume)
    assert read_all(open_salvage(a.volume, salvage.id)) == salvaged
    assert list(salvage_blocks(a.parts, a.volume, salvage.id).runs()) == [(2, 3), (10, 1), (60, 1)]
    assert salvage.blocks == 5
    assert salvage.record.held
    delete_salvage(a.parts, a.volume, salvage.id)
    assert list_salvages(a.parts, a.volume) == []
    assert not world.a.save.list("lists/resync-")


@pytest.mark.requirement("R4")
def test_each_block_of_mine_and_theirs_travels_once_and_nothing_else() -> None:
    world = failed_over()
    world.resync(world.a, world.b)
    world.settle(lambda: is_back(world, world.a, world.b))
    received = world.a.receivers[0].received_bytes
    # A: 2-4, 10, 60 (a discard: unused at B); B: 4-5, 20, 21. So 2, 3, 4, 5, 10, 20, 21 with data.
    assert 7 * BLOCK <= received <= 7 * BLOCK + 1500


@pytest.mark.requirement("R4")
def test_writes_go_on_at_the_new_primary_while_the_resync_runs() -> None:
    """FIG. 29: sets after the intermediate snapshot are sent meanwhile and played after it."""
    world = failed_over()
    world.resync(world.a, world.b)
    for number in range(30):
        world.b.write(number * 3, block(chr(97 + number % 26)))
        if number % 7 == 0:
            world.b.primary.cut()
        world.round()
    world.settle(lambda: is_back(world, world.a, world.b))
    assert world.a.content == world.b.content


@pytest.mark.requirement("R4")
def test_a_salvage_is_not_deleted_while_its_resync_is_under_way() -> None:
    world = failed_over()
    resync = world.resync(world.a, world.b)
    assert resync is not None
    a = world.a.secondary
    with pytest.raises(WrongRoleError, match="under way"):
        delete_salvage(a.parts, a.volume, resync.id)


@pytest.mark.requirement("R9")
def test_the_side_with_the_higher_epoch_is_not_the_one_that_returns() -> None:
    world = failed_over()
    with pytest.raises(FencedError, match="the other site is to resync"):
        world.resync(world.b, world.a)
    world.b.write(1, block("x"))


@pytest.mark.requirement("R4", "R7")
def test_a_side_that_wrote_nothing_gets_the_sets_alone_and_stays_readable() -> None:
    """Where the list is empty and the sets are kept, nothing travels but those sets."""
    world = Sites("ab")
    world.a.write(0, block("0", 40))
    world.follow(world.a, world.b)
    world.a.stop()
    world.b.secondary.promote()
    world.b.reopen()
    world.b.write(4, block("b", 2))
    world.b.primary.cut()
    world.a.start()
    world.resync(world.a, world.b)
    world.settle(lambda: is_back(world, world.a, world.b))
    assert world.a.content == world.b.content
    assert world.a.receivers[0].received_bytes < 2 * BLOCK + 800
    assert world.b.primary.root.members[0].difference is None
    a = world.a.secondary
    (salvage,) = list_salvages(a.parts, a.volume)
    assert salvage.blocks == 0  # not "unknown"
    assert not salvage_blocks(a.parts, a.volume, salvage.id)


@pytest.mark.requirement("R4")
def test_when_the_list_is_gone_hashes_are_compared_and_only_what_differs_is_sent() -> None:
    world = failed_over(blocks=4096)
    root = world.a.primary.parts.root
    root.mutate(
        lambda now: msgspec.structs.replace(now, first_listed=now.last.number + 1, first_kept=now.last.number + 1)
    )
    resync = world.resync(world.a, world.b)
    assert resync is not None
    assert resync.compares
    world.settle(lambda: is_back(world, world.a, world.b))
    assert world.a.content == world.b.content
    assert world.a.receivers[0].received_bytes < (64 << 10) + 2000  # one range of 64 KiB of 2 MiB
    assert not [record for record in world.b.primary.snapshots() if record.name.startswith(("copy.", "resync."))]


@pytest.mark.requirement("R4", "R6")
def test_a_fork_whose_identity_neither_side_lists_is_agreed_on_by_the_histories() -> None:
    """Invariant 12, seed 101890: it had no identity at all, which no hello could carry, so no session began."""
    world = failed_over(blocks=4096)
    fork = world.b.primary.root.restart
    assert fork is not None
    for site in (world.a, world.b):
        site.write(100, block("x"))
        site.primary.cut()
        site.primary.parts.root.mutate(
            lambda now: msgspec.structs.replace(now, first_listed=fork.number + 2, first_kept=fork.number + 2)
        )
        assert site.primary.identity_of(fork.number) == ""
    resync = world.resync(world.a, world.b)
    assert resync is not None
    assert (resync.fork.number, resync.fork.identity) == (fork.number, FORK_IDENTITY)
    assert resync.compares
    world.settle(lambda: is_back(world, world.a, world.b))
    assert world.a.content == world.b.content
    world.a.secondary.promote()
    world.a.reopen()
    assert world.a.primary.identity_of(fork.number) == "", "nor does what was agreed on count as one later"


@pytest.mark.requirement("R4", "R6")
def test_a_rewind_without_a_restart_point_is_refused_or_becomes_a_resync_that_says_so() -> None:
    world = failed_over()
    world.resync(world.a, world.b, rewind=True)
    world.b.primary.delete_snapshot("restart.2")
    world.settle(lambda: is_back(world, world.a, world.b))
    assert world.a.content == world.b.content
    assert any("no restart point" in text for text in world.a.hooks.errors)
    other = failed_over()
    other.b.primary.delete_snapshot("restart.2")
    with pytest.raises(NotFoundError, match="no restart point"):
        other.resync(other.a, other.b, rewind=True)
    assert other.a.is_primary
    with pytest.raises(FencedError):  # invariant 8: it has met the higher epoch
        other.a.write(0, block("x"))


@pytest.mark.requirement("R4", "R3")
def test_a_rewind_ends_at_the_fork_from_the_restart_point() -> None:
    """The blocks that A changed come from the restart point; a block unused there becomes a discard."""
    world = failed_over()
    wanted = read_all(world.b.primary.volume.snapped.open_snapshot("restart.2"))
    fork = world.b.primary.root.restart
    world.resync(world.a, world.b, rewind=True)
    seen: list[bytes] = []

    def stands_at_fork() -> bool:
        replica = world.a.secondary
        if replica.root.is_at_boundary and replica.player.position == fork and replica.player.is_at_rest:
            seen.append(world.a.content)
        return is_back(world, world.a, world.b)

    world.settle(stands_at_fork)
    assert seen
    assert set(seen) == {wanted}
    assert world.a.content == world.b.content
    assert any(record.name == "restart.2" for record in world.b.primary.snapshots())
