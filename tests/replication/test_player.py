"""What the player takes for its own after a new copy, and what not."""

from __future__ import annotations

import pytest

from replkit.replication.cells import PLAYING, Playing
from replkit.replication.root import StructCell
from replkit.testing.sim.machines import BLOCK_SIZE
from replkit.testing.sim.world import World


@pytest.mark.requirement("C2")
def test_a_pass_that_was_announced_before_a_new_copy_is_not_finished_after_it() -> None:
    """The copy stands where the announced pass began, so that only its id tells the two apart."""
    world = World()
    world.write(0, b"0" * BLOCK_SIZE)
    world.add_members()
    world.settle()
    member = world.secondaries[0]
    base = member.replica.root.base
    assert base is not None
    world.crash(member)
    cell = StructCell(member.save, PLAYING, Playing)
    cell.set(Playing(copy_id="an older copy", position=base.position, target=base.position.number + 5))
    world.restart(member)
    assert member.replica.player.is_at_rest
    for byte in b"12":
        world.write(3, bytes([byte]) * BLOCK_SIZE)
        world.primary.replica.cut()
    world.settle()
    world.check_equal()


@pytest.mark.requirement("C3")
def test_a_snapshot_of_another_boundary_with_the_same_number_is_not_taken_for_a_view() -> None:
    world = World()
    world.write(0, b"0" * BLOCK_SIZE)
    world.add_members()
    world.settle()
    replica = world.secondaries[0].replica
    here = replica.player.position
    replica.volume.create_snapshot(f"view.{here.number}", None)
    replica.volume.create_snapshot(f"view.{here.number}-{'0' * 16}", None)
    pinned = replica.pin()
    world.write(3, b"1" * BLOCK_SIZE)
    world.primary.replica.cut()
    world.settle()
    assert pinned.snapshot_name == f"view.{here.number}-{here.identity[:16]}"
    assert replica.volume.snapshot(pinned.snapshot_name).stamp == here
    pinned.close()
    assert len(replica.volume.snapshots()) == 2


@pytest.mark.requirement("T10", "C2")
def test_playback_that_was_asked_for_once_keeps_to_its_policy_afterwards() -> None:
    world = World()
    world.write(0, b"0" * BLOCK_SIZE)
    world.add_members()
    world.settle()
    member = world.secondaries[0]
    member.save.swap("policy", b'{"play_interval_s": 1e6}', 0)
    player = member.replica.player
    for byte in b"12":
        world.write(3, bytes([byte]) * BLOCK_SIZE)
        asked = world.primary.replica.cut()
        world.settle(lambda: member.replica.root.last == world.primary.replica.root.last)
    player.play_now()
    world.settle(lambda: player.position == asked)
    world.write(4, b"3" * BLOCK_SIZE)
    later = world.primary.replica.cut()
    world.settle(lambda: member.replica.root.last == later)
    for _ in range(20):
        player.step()
    assert player.position == asked
    player.play_now()
    world.settle(lambda: player.position == later)
    world.check_equal()
