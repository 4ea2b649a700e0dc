"""Failover (FIG. 23, 31, 32): the secondary plays what it has, makes the restart point, and is the primary (R1, R3)."""

from __future__ import annotations

import pytest

from replkit.contracts.position import Epoch
from replkit.errors import CutAbandonedError, FencedError, InconsistentError, NotFoundError
from replkit.recovery.leftbehind import delete_left_behind
from replkit.replication.root import read_root
from replkit.testing.crashing import PowerFailure
from replkit.testing.sim.model import read_all
from replkit.testing.sim.sites import VOLUME, Site, Sites, block


def two_sites(**options: int) -> Sites:
    """A with some blocks, and B that has played them all."""
    world = Sites("ab", **options)
    world.a.write(0, block("0", 16))
    world.follow(world.a, world.b)
    return world


def hold_back(site: Site) -> None:
    """The site receives and does not play, until it is told to."""
    site.save.swap("policy", b'{"play_interval_s": 1e9, "play_high_water_bytes": 1000000000}', 0)


def received_not_played(world: Sites) -> list[bytes]:
    """Three sets that B has received and not played; the content of A before and after each."""
    hold_back(world.b)
    contents = [world.a.content]
    for letter in "abc":
        world.a.write(ord(letter) - 90, block(letter, 2))
        world.a.primary.cut()
        contents.append(world.a.content)
    last = world.a.primary.root.last
    world.settle(lambda: world.b.secondary.root.last == last)
    return contents


@pytest.mark.requirement("R1")
def test_failover_plays_all_that_was_received_makes_the_restart_point_and_writes_on() -> None:
    """FIG. 32: the sets that were received are played; the restart point is stamped with the last of them."""
    world = two_sites()
    contents = received_not_played(world)
    assert world.b.content == contents[0]
    last = world.a.primary.root.last
    world.a.stop(power=True)

    assert world.b.secondary.promote() == last
    world.b.reopen()

    primary = world.b.primary
    assert world.b.content == contents[-1]
    assert primary.root.epoch.count == 2
    assert [(entry.epoch.count, entry.first_number) for entry in primary.root.history] == [(1, 1), (2, last.number + 1)]
    (restart,) = primary.snapshots()
    assert (restart.name, restart.stamp, restart.at_boundary, restart.held) == ("restart.2", last, True, True)
    world.b.write(3, block("n"))
    position = primary.cut()
    assert (position.epoch, position.number) == (primary.root.epoch, last.number + 1)
    assert read_all(primary.volume.snapped.open_snapshot("restart.2")) == contents[-1]
    assert world.b.hooks.roles == [("primary", 2)]


@pytest.mark.requirement("R1")
def test_the_first_cut_after_a_failover_carries_what_was_written_since_and_nothing_else() -> None:
    """Intents that playback left would make whole regions of blocks count as changed."""
    world = two_sites(blocks=4096)
    received_not_played(world)
    world.b.secondary.promote()
    world.b.reopen()
    assert world.b.primary.volume.dirty_blocks == 0
    world.b.write(9, block("n"))
    world.b.primary.cut()
    assert world.b.primary.cutter.status()["history"][-1]["blocks"] == 1  # type: ignore[index]


@pytest.mark.requirement("R3")
def test_failover_now_plays_nothing_more_and_keeps_what_lies_beyond_as_a_branch() -> None:
    world = two_sites()
    contents = received_not_played(world)
    here = world.b.secondary.player.position
    left = world.b.secondary.root.last
    assert world.b.secondary.promote("now") == here
    world.b.reopen()
    root = world.b.primary.root
    assert world.b.content == contents[0]
    assert root.last == here
    (branch,) = root.branches
    assert (branch.first, branch.last) == (here.number + 1, left)
    kept = {key.split("/")[1] for key in world.b.save.list("sets/")}
    assert {int(tag.split(".")[0], 16) for tag in kept} >= set(range(here.number + 1, left.number + 1))
    world.b.write(1, block("n"))
    assert world.b.primary.cut().number == here.number + 1  # the number is used again, under a higher epoch


@pytest.mark.requirement("R3", "S4")
def test_what_was_left_behind_is_told_when_it_takes_the_room_of_a_cut_and_deleted_by_a_command() -> None:
    """No set ever fitted again, so nobody could follow, and no failback came that would have freed the room."""
    world = two_sites(sets_bytes=13_000)
    received_not_played(world)
    world.a.stop(power=True)
    world.b.secondary.promote("now")
    world.b.reopen()
    world.b.write(1, bytes(range(1, 21)) * 512)
    with pytest.raises(CutAbandonedError, match="no room"):
        world.b.primary.cut()
    assert any("left behind, take room" in error for error in world.b.hooks.errors)
    world.round()
    assert world.b.primary.root.branches, "it is kept until somebody says otherwise"

    assert delete_left_behind(world.b.primary) == 3
    world.settle(lambda: not world.b.primary.root.condemned, rounds=10)
    world.b.primary.cut()
    with pytest.raises(NotFoundError, match="left no set behind"):
        delete_left_behind(world.b.primary)


@pytest.mark.requirement("R3")
def test_failover_now_finishes_the_pass_under_way_so_that_it_stands_at_a_boundary() -> None:
    world = two_sites()
    contents = received_not_played(world)
    world.a.write(100, block("l", 80))
    world.a.primary.cut()
    contents.append(world.a.content)
    long = world.a.primary.root.last
    world.settle(lambda: world.b.secondary.root.last == long)
    secondary = world.b.secondary
    secondary.player.play_now()
    secondary.player.step()
    assert not secondary.player.is_at_rest
    target = secondary.root.last
    world.a.write(40, block("z"))
    world.a.primary.cut()
    later = world.a.primary.root.last
    while secondary.root.last != later:  # no step of the player meanwhile
        world.a.sender("b").step()
        world.b.receive()
    assert not secondary.player.is_at_rest
    assert secondary.promote("now") == target
    assert world.b.content == contents[-1] != world.a.content
    assert secondary.root.branches[0].last == later


@pytest.mark.requirement("R1", "R6")
@pytest.mark.parametrize("mode", ["received", "now"])
def test_a_crash_at_any_call_leaves_a_secondary_or_a_primary_and_a_repeat_finishes(mode: str) -> None:
    """Invariants 5 and 8: one swap makes the role, whatever the power fails at."""
    seen: set[str] = set()
    call = 0
    while "finished" not in seen:
        call += 1
        world = two_sites(seed=call)
        contents = received_not_played(world)
        site = world.b
        site.power.fail_at(call)
        try:
            site.secondary.promote(mode, request_id="r1")  # type: ignore[arg-type]
            site.power.fail_at(None)
            seen.add("finished")
        except PowerFailure:
            pass
        site.stop(power=True)
        role = read_root(site.save).role
        seen.add(role)
        site.start()
        if role == "secondary":
            assert read_all(site.secondary.view()) == contents[-1]  # a secondary still, at the newest boundary
            site.secondary.promote(mode, request_id="r1")  # type: ignore[arg-type]
            site.reopen()
        root = site.primary.root
        assert root.epoch.count == 2
        assert [record.name for record in site.primary.snapshots()] == ["restart.2"]
        assert site.primary.snapshots()[0].stamp == root.last == root.restart
        assert site.content == contents[root.last.number - 1]
        assert read_all(site.primary.volume.snapped.open_snapshot("restart.2")) == site.content
        assert root.branches == () if mode == "received" else len(root.branches) <= 1
    assert {"secondary", "primary"} <= seen
    assert call > 10


@pytest.mark.requirement("R6")
def test_a_volume_in_the_middle_of_its_copy_is_not_promoted() -> None:
    """Invariant 6."""
    world = Sites("ab")
    with pytest.raises(InconsistentError, match="first new copy"):
        world.b.secondary.promote()
    world.a.write(0, block("0", 100))
    world.a.primary.add_member("b", world.b.url, VOLUME)
    world.settle(lambda: world.b.secondary.root.inconsistent is not None)
    with pytest.raises(InconsistentError, match="a new copy is not finished"):
        world.b.secondary.promote("now")
    assert world.b.secondary.root.role == "secondary"


@pytest.mark.requirement("R2", "R9")
def test_a_granted_epoch_is_taken_as_it_is_and_only_while_it_is_not_over() -> None:
    world = two_sites()
    with pytest.raises(FencedError, match="cannot begin epoch 1"):
        world.b.secondary.promote(epoch=Epoch(1, "other"))
    granted = Epoch(2, "granted")
    world.b.secondary.promote(epoch=granted)
    world.b.reopen()
    assert world.b.primary.root.epoch == granted


@pytest.mark.requirement("R1")
def test_what_was_received_and_is_lost_is_not_passed_over_in_silence() -> None:
    world = two_sites()
    received_not_played(world)
    for key in world.b.save.list("sets/"):
        world.b.save.delete([key])
    with pytest.raises(InconsistentError, match="cannot be played"):
        world.b.secondary.promote()
    assert world.b.secondary.root.role == "secondary"
    assert not world.b.secondary.root.snapshots


@pytest.mark.requirement("R1")
def test_a_pinned_view_does_not_hold_a_failover_up() -> None:
    world = two_sites()
    contents = received_not_played(world)
    view = world.b.secondary.pin()
    world.b.secondary.promote()
    assert world.b.content == contents[-1]
    view.close()
