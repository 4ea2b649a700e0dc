"""The states of members."""

from __future__ import annotations

import msgspec
import pytest

from replkit.contracts.position import Position
from replkit.errors import InvalidArgumentError, SaveVolumeFullError
from replkit.replication.cells import MemberProgress, sent_cell
from replkit.replication.root import load_struct
from replkit.replication.set_writer import SetWriter
from replkit.snapshot.snapped import SnappedVolume
from replkit.testing.sim.machines import BLOCK_SIZE
from replkit.testing.sim.world import World


@pytest.mark.requirement("C4")
def test_a_member_paused_before_its_snapshot_was_cut_gets_its_copy_when_it_goes_on() -> None:
    world = World()
    world.add_members()
    world.primary.replica.pause("m0")
    world.primary.replica.resume("m0")
    assert world.primary.replica.root.members[0].state == "copying"
    world.settle()
    world.check_equal()


@pytest.mark.requirement("C4")
def test_a_stale_member_stays_stale_when_it_is_paused_and_resumed() -> None:
    """Invariant 7: its sets are not kept, so it must not count as following."""
    world = World()
    world.add_members()
    world.settle(lambda: world.primary.replica.root.members[0].state == "following")
    world.primary.replica.congestion.mark_stale("test")
    world.primary.replica.pause("m0")
    world.primary.replica.resume("m0")
    assert world.primary.replica.root.members[0].state == "stale"


class Crash(BaseException):
    """The process is gone."""


@pytest.mark.requirement("C1")
def test_the_snapshot_of_a_copy_that_was_done_goes_though_a_crash_came_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by reading: between the swap that lets go of the snapshot and its deletion nobody knew of it any more."""
    world = World()
    world.write(0, b"a" * BLOCK_SIZE)
    world.add_members()

    def crash(_volume: SnappedVolume, name: str) -> None:
        raise Crash(name)

    with monkeypatch.context() as patch:
        patch.setattr(SnappedVolume, "delete_snapshot", crash)
        with pytest.raises(Crash, match="copy"):
            world.settle(lambda: world.primary.replica.root.members[0].state == "following")
    assert world.primary.replica.root.members[0].copy_snapshot is None
    assert [record.name[:5] for record in world.primary.replica.snapshots()] == ["copy."]
    world.crash(world.primary)
    world.restart(world.primary)
    world.primary.replica.members.step()
    assert not world.primary.replica.snapshots()


def test_the_snapshot_of_a_copy_goes_where_the_member_was_removed_while_it_was_cut() -> None:
    world = World()
    world.add_members()
    primary = world.primary.replica
    cut = primary.cutter.cut

    def cut_and_remove(name: str) -> Position:
        position = cut(name)
        primary.remove_member("m0")
        return position

    primary.cutter.cut = cut_and_remove  # type: ignore[method-assign,assignment]
    primary.members.step()
    assert len(primary.snapshots()) == 1
    primary.members.step()
    assert not primary.snapshots()


def test_the_snapshot_of_a_copy_under_way_and_those_of_users_stay() -> None:
    world = World()
    world.add_members()
    primary = world.primary.replica
    primary.create_snapshot("mine")
    for _ in range(3):
        primary.members.step()
    primary.pause("m0")
    primary.members.step()
    assert [record.name.partition("-")[0] for record in primary.snapshots()] == ["mine", "copy.m0"]


@pytest.mark.parametrize("name", ["copy.mine", "view.1", "verify.x"])
def test_a_user_cannot_take_a_name_under_which_a_service_would_delete_the_snapshot(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="would be deleted"):
        World(secondaries=0).primary.replica.create_snapshot(name)


@pytest.mark.requirement("R8", "T6")
def test_what_an_earlier_member_of_the_name_acknowledged_counts_for_nothing() -> None:
    """Invariant 13: the cell of its sender is still there when a member is made anew, and its sender may never come."""
    world = World()
    world.write(0, b"a" * BLOCK_SIZE)
    world.add_members()
    primary = world.primary.replica
    for byte in b"bc":
        world.settle()
        world.write(0, bytes([byte]) * BLOCK_SIZE)
        primary.cut()
    name, url, newest = "m0", world.secondaries[0].url, primary.root.last
    world.settle(lambda: primary.progress() == {name: (newest.number, newest.number)})
    assert primary.progress() == {name: (newest.number, newest.number)}
    world.crash(world.secondaries[0])
    primary.remove_member(name)
    primary.members.add_following(name, url, "vol", newest)  # as after a switchover, whatever it had received before
    assert primary.progress() == {name: (0, 0)}
    primary.remove_member(name)
    primary.add_member(name, url, "vol")
    status = primary.status()["members"][0]  # type: ignore[index]
    assert (status["received"], status["played"], status["copy_next_block"]) == (0, 0, 0)
    world.primary.sender(name).step()
    assert world.primary.sender(name).status()["copy_next_block"] == 0


@pytest.mark.requirement("C4", "R6")
@pytest.mark.parametrize("paused", [False, True])
def test_a_member_that_denies_its_copy_gets_no_other_one_by_resume(paused: bool) -> None:
    """Invariants 6 and 10: it was rolled back into its copy, and would get the rest from another snapshot."""
    world = World()
    world.write(0, b"a" * BLOCK_SIZE)
    world.add_members()
    world.settle(lambda: world.primary.replica.root.members[0].state == "following")
    save, primary = world.primary.save, world.primary.replica
    told, version = load_struct(save, sent_cell("m0"), MemberProgress)
    assert told is not None
    denied = msgspec.structs.replace(told, copied="", received=None, played=None)
    save.swap(sent_cell("m0"), msgspec.json.encode(denied), version)
    if paused:
        primary.pause("m0")
    primary.resume("m0")
    member = primary.root.members[0]
    assert (member.state, member.copy_snapshot) == ("following", None)


@pytest.mark.requirement("C1")
@pytest.mark.parametrize("is_changed", [True, False])
def test_a_new_copy_does_not_try_to_cut_again_before_an_abandoned_cut_is_due(
    is_changed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try freezes applications and writes chunks; a full save volume had one twice a second.

    Where nothing changes any more no other cut is ever due, and the copy must go on all the same (seed 185).
    """
    world = World()
    world.write(0, b"a" * BLOCK_SIZE)
    if not is_changed:
        world.primary.replica.cut()
    world.add_members()
    primary, tries = world.primary.replica, 0

    def refuse(*_: object, **__: object) -> None:
        nonlocal tries
        tries += 1
        raise SaveVolumeFullError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(SetWriter, "add" if is_changed else "commit", refuse)
        for _ in range(40):
            primary.members.step()
            primary.cutter.step()
            world.runtime.advance(0.25)
    assert 2 <= tries <= 4, "at once, and after 1, 2 and 4 seconds"
    world.settle()
    world.check_equal()
