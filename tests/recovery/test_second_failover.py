"""A second failover in the middle of a resync: where the volume stands is the first fork, whatever is arriving (R6)."""

from __future__ import annotations

import pytest

from replkit.contracts.savevolume import Partition
from replkit.replication.root import read_root
from replkit.testing.sim.sites import Site, Sites, block
from replkit.testing.sim.world import different_blocks

BLOCKS = 2048


def follows(world: Sites, site: Site, primary: Site) -> bool:
    if not primary.is_primary or site.is_primary:
        return False
    if primary.primary.volume.dirty_blocks:
        primary.primary.cut()
    names = [member.name for member in primary.primary.root.members]
    return site.name in names and world.is_equal(primary, site)


def resyncing_with_b() -> Sites:
    """B was promoted, C follows it, and A's difference to B's stamp has begun to arrive."""
    world = Sites("abc", blocks=BLOCKS)
    world.a.write(0, block("0", 1500))
    world.follow(world.a, world.b, world.c)
    world.network.down.update({world.b.url, world.c.url})
    world.network.break_links()
    world.a.write(2, block("a", 6))
    world.a.primary.cut()
    world.b.secondary.promote()
    world.b.reopen()
    world.network.down.clear()
    world.resync(world.c, world.b)
    world.settle(lambda: follows(world, world.c, world.b))
    for start in range(100, 1100, 100):
        world.b.write(start, world.runtime.random_bytes(512 * 100))
    world.b.primary.set_policy(chunk_bytes=4096)
    world.b.primary.cut()
    world.settle(lambda: follows(world, world.c, world.b))
    world.resync(world.a, world.b)
    world.settle(lambda: getattr(read_root(world.a.save).resync, "stamp", None) is not None)
    return world


@pytest.mark.requirement("R6")
@pytest.mark.parametrize("rounds", [0, 1, 4])
def test_what_was_on_its_way_from_the_first_primary_does_not_count_as_there(rounds: int) -> None:
    """Invariant 9: the second primary has the stamp that A was promised, but A never got it."""
    world = resyncing_with_b()
    resync = world.a.secondary.root.resync
    assert resync is not None
    stamp = resync.stamp
    assert stamp is not None
    world.settle(lambda: world.c.secondary.player.position.number >= stamp.number)
    for _ in range(rounds):
        world.run(world.b)
        world.run(world.a)
    assert world.a.secondary.root.resync is not None
    world.b.stop(power=True)
    world.c.secondary.promote()
    world.c.reopen()
    world.c.write(50, block("c", 3))
    world.c.primary.cut()
    world.resync(world.a, world.c)
    world.settle(lambda: follows(world, world.a, world.c))
    assert not different_blocks(world.a.content, world.c.content)


@pytest.mark.requirement("R4", "R6")
def test_a_comparison_with_the_first_primary_says_nothing_of_the_second() -> None:
    """Invariant 9: A and B wrote the same into a block; C, which left B before that, has the block as it was."""
    world = Sites("abc", blocks=256)
    world.a.write(0, block("0", 200))
    world.follow(world.a, world.b, world.c)
    world.network.down.update({world.b.url, world.c.url})
    world.network.break_links()
    world.a.write(70, block("s"))
    world.a.primary.cut()
    for key in world.a.save.list("lists/"):  # the lists of A are lost: hashes are compared
        if "/blocks-" in key:
            world.a.save.delete([key])
    world.b.secondary.promote()
    world.b.reopen()
    world.network.down.clear()
    world.network.down.add(world.a.url)
    world.resync(world.c, world.b)
    world.settle(lambda: follows(world, world.c, world.b))
    world.network.down.add(world.c.url)
    world.network.break_links(world.c.url)
    world.b.write(70, block("s"))
    world.b.primary.cut()
    resync = world.resync(world.a, world.b)
    assert resync is not None
    assert resync.compares
    world.settle(lambda: getattr(read_root(world.a.save).resync, "exact", False))
    world.b.stop(power=True)
    world.network.down.clear()
    world.c.secondary.promote()
    world.c.reopen()
    world.resync(world.a, world.c)
    world.settle(lambda: follows(world, world.a, world.c))
    assert not different_blocks(world.a.content, world.c.content)


@pytest.mark.requirement("R4")
def test_where_the_primary_has_trimmed_its_lists_hashes_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Sites("ab", blocks=256)
    world.a.write(0, block("0", 200))
    world.follow(world.a, world.b)
    world.network.down.add(world.b.url)
    world.network.break_links()
    world.a.write(2, block("a", 6))
    world.a.primary.cut()
    world.b.secondary.promote()
    world.b.reopen()
    world.b.primary.set_policy(keep_sets=0)
    for start in (4, 80, 90):
        world.b.write(start, block("b", 3))
        world.b.primary.cut()
    capacity = world.b.save.capacity_bytes
    monkeypatch.setattr(world.b.save, "capacity_bytes", lambda part: 1 if part is Partition.LISTS else capacity(part))
    for _ in range(20):
        world.run(world.b)
    assert world.b.primary.root.first_listed == world.b.primary.root.last.number
    monkeypatch.undo()
    world.network.down.clear()
    resync = world.resync(world.a, world.b)
    assert resync is not None
    assert not resync.compares
    world.settle(lambda: follows(world, world.a, world.b))
    assert not different_blocks(world.a.content, world.b.content)


@pytest.mark.requirement("R4")
@pytest.mark.parametrize("rewind", [True, False])
def test_sets_that_were_trimmed_while_hashes_were_compared_do_not_leave_the_member_behind(rewind: bool) -> None:
    """Invariant 7: nobody held the sets after the snapshot; the side that returns follows all the same."""
    world = Sites("ab", blocks=256)
    world.a.write(0, block("0", 200))
    world.follow(world.a, world.b)
    world.network.down.add(world.b.url)
    world.network.break_links()
    world.a.write(2, block("a", 6))
    world.a.primary.cut()
    if not rewind:
        for key in world.a.save.list("lists/"):
            if "/blocks-" in key:
                world.a.save.delete([key])
    world.b.secondary.promote()
    world.b.reopen()
    world.b.primary.set_policy(keep_sets=0)
    for start in (4, 80, 90):
        world.b.write(start, block("b", 3))
        world.b.primary.cut()
    world.network.down.clear()
    resync = world.resync(world.a, world.b, rewind=rewind)
    assert resync is not None
    if not rewind:
        world.settle(lambda: bool(getattr(read_root(world.a.save).resync, "snapshot", "")))
    for start in (7, 8):
        world.b.write(start, block("c", 3))
        world.b.primary.cut()
    for _ in range(20):
        world.run(world.b)
    assert world.b.primary.root.first_kept > world.b.primary.root.last.number - 2
    world.settle(lambda: follows(world, world.a, world.b))
    assert not different_blocks(world.a.content, world.b.content)
