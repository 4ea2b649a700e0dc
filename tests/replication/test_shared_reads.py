"""What a view of a member that shares the primary's save volume names is not trimmed under it."""

from __future__ import annotations

import pytest
from tests.replication.test_shared import Local

from replkit.errors import RecordMissingError
from replkit.replication.root import load_struct
from replkit.replication.set_reader import BlockReader
from replkit.replication.shared_cells import ReadFloor, reads_cell
from replkit.replication.view import PinnedView
from replkit.testing.sim.machines import BLOCK_SIZE
from replkit.testing.sim.model import read_all


def pin_before_playback(local: Local) -> PinnedView:
    """Cut, and pin the view while the set waits to be played."""
    local.primary.set_policy(play_interval_s=1000.0)
    local.primary.cut()
    local.replica.step()
    return local.replica.pin()


@pytest.mark.requirement("S2", "C3")
def test_what_a_local_view_names_is_not_trimmed_until_it_is_closed() -> None:
    """Invariant 7: the primary's trimmer learns of reads in another process from the cell that their member keeps."""
    local = Local()
    local.settle()
    local.world.write(5, b"b" * BLOCK_SIZE * 3)
    pinned = pin_before_playback(local)
    image = read_all(pinned)
    local.replica.player.play_now()
    local.settle()  # plays the set that the view reads
    for _ in range(20):
        for _name, step in local.primary.services():
            step()
        local.replica.step()
    local.disk.write(5, b"x" * BLOCK_SIZE * 3)  # so the blocks can only come from the set
    pinned_reads = BlockReader(local.replica.player.sets.reader, local.world.runtime)
    local.replica.player.sets.blocks = pinned_reads  # nothing is in its cache
    assert read_all(pinned) == image
    pinned.close()
    for _ in range(20):
        local.replica.step()
        for _name, step in local.primary.services():
            step()
    assert not local.world.primary.save.list("sets/")


@pytest.mark.requirement("S2")
def test_a_local_member_that_never_comes_back_holds_nothing_once_it_is_removed() -> None:
    local = Local()
    local.settle()
    local.world.write(5, b"b" * BLOCK_SIZE)
    pin_before_playback(local)
    local.replica.player.play_now()
    local.settle()
    floor, _version = load_struct(local.world.primary.save, reads_cell("local"), ReadFloor)
    assert floor is not None
    assert floor.number < local.primary.root.last.number
    for _ in range(20):
        for _name, step in local.primary.services():
            step()
    assert local.world.primary.save.list("sets/")
    local.primary.remove_member("local")
    for _ in range(20):
        for _name, step in local.primary.services():
            step()
    assert not local.world.primary.save.list("sets/")


@pytest.mark.requirement("S2", "C3")
def test_a_read_whose_sets_the_primary_gave_up_says_that_its_boundary_was_trimmed() -> None:
    local = Local()
    local.settle()
    local.world.write(5, b"b" * BLOCK_SIZE)
    pinned = pin_before_playback(local)
    position = pinned.boundary
    local.primary.members.step()  # its copy is done
    local.primary.congestion.mark_stale("a test")
    for _ in range(20):
        for _name, step in local.primary.services():
            step()
    with pytest.raises(RecordMissingError, match=rf"boundary {position} was trimmed.*open a new view"):
        read_all(pinned)
    with pytest.raises(RecordMissingError, match=rf"boundary {position} was trimmed.*open a new view"):
        read_all(local.replica.view())
