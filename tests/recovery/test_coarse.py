"""After a crash of the old primary, blocks in doubt are compared before they are sent (DESIGN section 9; R4)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from replkit.contracts.position import Position
from replkit.recovery.salvage import salvage_blocks
from replkit.replication.difference import get_list
from replkit.replication.logged import LoggedVolume
from replkit.replication.root import read_root
from replkit.testing.sim.sites import BLOCK, Site, Sites, block
from replkit.testing.sim.world import different_blocks

BLOCKS = 8192
USED = 5000


def follows(world: Sites, site: Site, primary: Site) -> bool:
    if not primary.is_primary or site.is_primary:
        return False
    if primary.primary.volume.dirty_blocks:
        primary.primary.cut()
    names = [member.name for member in primary.primary.root.members]
    return site.name in names and world.is_equal(primary, site)


def crashed(*, cut: bool = False) -> Sites:
    """A wrote one block that it flushed, and lost power; B was promoted, and wrote another one."""
    world = Sites("ab", blocks=BLOCKS)
    world.a.write(0, world.runtime.random_bytes(BLOCK * USED))
    world.follow(world.a, world.b)
    world.network.down.add(world.b.url)
    world.network.break_links()
    world.a.write(70, block("a"))
    world.a.primary.volume.flush()
    world.a.crash()
    assert world.a.primary.volume.dirty_blocks > 2000
    if cut:
        world.a.primary.cut()
    world.b.secondary.promote()
    world.b.reopen()
    world.b.write(3000, block("b"))
    world.b.primary.cut()
    world.network.down.clear()
    return world


@pytest.mark.requirement("R4")
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("rewind", [False, True])
def test_what_is_only_in_doubt_is_compared_by_hash_and_sent_where_it_differs(cut: bool, rewind: bool) -> None:
    world = crashed(cut=cut)
    received = _count_received(world.a)
    resync = world.resync(world.a, world.b, rewind=rewind)
    assert resync is not None
    assert not resync.compares
    world.settle(lambda: follows(world, world.a, world.b))
    assert not different_blocks(world.a.content, world.b.content)
    differing = 1 if rewind else 2  # block 70, and block 3000, which B changed; the rest are headers and a block list
    assert BLOCK < received() <= differing * BLOCK + 8000
    a = world.a.secondary
    assert salvage_blocks(a.parts, a.volume, resync.id).count() > 2000  # what may have been written, as before


def _count_received(site: Site) -> Callable[[], int]:
    return lambda: sum(receiver.received_bytes for receiver in site.receivers)


@pytest.mark.requirement("R4", "R6")
def test_a_second_failover_compares_again_what_was_in_doubt() -> None:
    """Invariant 9: B wrote what A had written; C has the block as it was before."""
    world = Sites("abc", blocks=BLOCKS)
    world.a.write(0, world.runtime.random_bytes(BLOCK * USED))
    world.follow(world.a, world.b, world.c)
    world.network.down.update({world.b.url, world.c.url})
    world.network.break_links()
    world.a.write(70, block("s"))
    world.a.primary.volume.flush()
    world.a.crash()
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
    assert resync.coarse_key
    world.settle(lambda: bool(getattr(read_root(world.a.save).resync, "snapshot", "")))
    compared = read_root(world.a.save).resync
    assert compared is not None
    assert not get_list(world.a.save, compared.list_key, BLOCKS)
    world.b.stop(power=True)
    world.network.down.clear()
    world.c.secondary.promote()
    world.c.reopen()
    world.resync(world.a, world.c)
    world.settle(lambda: follows(world, world.a, world.c))
    assert not different_blocks(world.a.content, world.c.content)


@pytest.mark.requirement("R4")
def test_a_rewind_compares_with_the_restart_point_and_not_with_what_came_later() -> None:
    """Invariant 5: A and B wrote the same; at the fork the block was another one, and there a rewind ends."""
    world = crashed()
    world.b.write(70, block("a"))
    world.b.primary.cut()
    assert world.resync(world.a, world.b, rewind=True) is not None
    world.settle(lambda: bool(getattr(read_root(world.a.save).resync, "snapshot", "")))
    resync = read_root(world.a.save).resync
    assert resync is not None
    assert resync.snapshot == "restart.2"
    assert get_list(world.a.save, resync.list_key, BLOCKS).any_in(70, 1)
    world.settle(lambda: follows(world, world.a, world.b))
    assert not different_blocks(world.a.content, world.b.content)


@pytest.mark.requirement("R4")
def test_the_arrival_of_a_difference_is_told_when_it_is_named_so_that_its_player_need_not_look_for_it() -> None:
    world = crashed()
    told: list[tuple[str, int, bool]] = []

    def received(member: str, position: Position, **_: object) -> None:
        told.append((member, position.number, read_root(world.a.save).last == position))

    world.a.hooks.replkit_delta_set_received = received  # type: ignore[attr-defined]
    assert world.resync(world.a, world.b) is not None
    world.settle(lambda: follows(world, world.a, world.b))
    assert told
    assert told[0][0] == "a"
    assert told[0][2]
    assert len({number for _, number, _ in told}) == len(told)  # each once


@pytest.mark.requirement("R4")
def test_a_snapshot_that_is_asked_for_twice_at_a_time_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call timed out and is still cutting: the second must not take its unstamped snapshot for a leftover."""
    world = Sites("ab", blocks=64)
    world.a.write(0, block("0", 40))
    world.a.primary.cut()
    world.a.write(3, block("a"))
    begun, answers = threading.Event(), []
    begin = LoggedVolume.begin_cut

    def begin_slowly(self: LoggedVolume, *args: Any, **options: Any) -> Any:
        opened = begin(self, *args, **options)
        begun.set()
        second.join(0.3)  # it waits, so this runs out
        return opened

    def ask() -> None:
        answers.append(world.peer(world.a.url).prepare("twice"))

    def ask_again() -> None:
        assert begun.wait(20)
        ask()

    second = threading.Thread(target=ask_again)
    second.start()
    with monkeypatch.context() as patch:
        patch.setattr(LoggedVolume, "begin_cut", begin_slowly)
        ask()
    second.join(20)
    assert len(answers) == 2
    assert answers[0] == answers[1]
    assert [record.name for record in world.a.primary.snapshots()] == [answers[0].snapshot]
