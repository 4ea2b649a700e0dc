"""What readers name is never what the trimmer may delete, at any moment of playback."""

from __future__ import annotations

import pytest

from replkit.replication.cells import Playing
from replkit.testing.sim.machines import BLOCK_SIZE
from replkit.testing.sim.world import World


@pytest.mark.requirement("C3")
def test_a_view_pinned_while_a_pass_ends_names_no_set_that_may_be_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by killing real daemons: the pass was over in the cell, and its sets were still in the index."""
    world = World()
    world.write(0, b"0" * BLOCK_SIZE)
    world.add_members()
    world.settle()
    player = world.secondaries[0].replica.player
    cell = player._cell
    publish, seen = cell.set, []

    def publish_and_pin(value: Playing) -> None:
        publish(value)
        key, _ticket, _boundary, index = player.sets.pin()
        seen.append((value.target, min(index.numbers, default=None), player.sets.lowest_named()))
        player.sets.end(key)

    monkeypatch.setattr(cell, "set", publish_and_pin)
    world.write(3, b"1" * BLOCK_SIZE)
    world.primary.replica.cut()
    world.settle()
    assert [target is None for target, _named, _floor in seen] == [False, True]
    assert all(named is None or named > floor for _target, named, floor in seen)


@pytest.mark.requirement("C3")
def test_a_set_that_is_not_in_the_index_yet_is_not_played(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by killing real daemons: a set was committed between the refresh of the index and the choice of a pass."""
    world = World()
    world.write(0, b"0" * BLOCK_SIZE)
    world.add_members()
    world.settle()
    replica = world.secondaries[0].replica
    before = replica.root
    monkeypatch.setattr(replica.player.sets, "_root", lambda: before)
    world.write(3, b"1" * BLOCK_SIZE)
    position = world.primary.replica.cut()
    for _ in range(200):
        world.tick()
    assert replica.root.last == position
    assert replica.player.position == before.last
    monkeypatch.undo()
    world.settle()
    assert replica.player.position == position
    assert not replica.player.sets.waiting_blocks()


@pytest.mark.requirement("C3")
def test_the_snapshot_of_a_pinned_view_goes_with_the_crash_that_took_the_view() -> None:
    world = World()
    world.write(0, b"0" * BLOCK_SIZE)
    world.add_members()
    world.settle()
    member = world.secondaries[0]
    member.replica.pin()
    world.write(3, b"1" * BLOCK_SIZE)
    world.primary.replica.cut()
    world.settle()
    assert [record.name.partition("-")[0] for record in member.replica.volume.snapshots()] == ["view.1"]
    world.crash(member)
    world.restart(member)
    assert not member.replica.volume.snapshots()
