"""Primary to secondary, whole: written blocks are cut, sent, received and played, whatever breaks on the way."""

from __future__ import annotations

import pytest

from replkit.errors import AlreadyExistsError, InconsistentError, ReadOnlyError
from replkit.rcp import messages as m
from replkit.rcp.multicast import ControlBlock
from replkit.replication.cells import MemberProgress, sent_cell
from replkit.replication.root import load_struct
from replkit.testing.sim.machines import BLOCK_SIZE
from replkit.testing.sim.model import read_all
from replkit.testing.sim.world import World


def block(letter: str) -> bytes:
    return letter.encode() * BLOCK_SIZE


def following(**options: object) -> World:
    """A world whose members have their copies and stand at the newest boundary."""
    world = World(**options)  # type: ignore[arg-type]
    world.write(0, block("0") * 16)
    world.add_members()
    world.settle()
    world.settle(lambda: knows_all(world))
    return world


def knows_all(world: World) -> bool:
    """The primary has every acknowledgement, and no member is copying."""
    root = world.primary.replica.root
    return all(
        member.state == "following" and progress(world, member.name).played == root.last for member in root.members
    )


def progress(world: World, member: str = "m0") -> MemberProgress:
    value, _version = load_struct(world.primary.save, sent_cell(member), MemberProgress)
    assert value is not None
    return value


@pytest.mark.requirement("S3", "D3", "D4", "C1", "C2")
def test_what_is_written_is_played_at_the_secondary() -> None:
    world = following()
    world.check_equal()
    world.write(10, block("b"))
    world.write(3, block("c"))
    world.model.write(0, bytes(2 * BLOCK_SIZE))
    world.primary.replica.volume.discard(0, 2)
    position = world.primary.replica.cut()
    world.settle()
    world.check_equal()
    assert world.secondaries[0].replica.player.position == position


@pytest.mark.requirement("D1")
def test_several_writes_to_one_block_travel_once() -> None:
    world = following()
    for letter in "abcdef":
        world.write(7, block(letter))
    position = world.primary.replica.cut()
    assert world.primary.replica.cutter.status()["history"][-1]["blocks"] == 1  # type: ignore[index]
    world.settle()
    assert world.secondaries[0].replica.player.position == position
    world.check_equal()


@pytest.mark.requirement("C1", "T6")
def test_a_new_copy_is_made_while_writes_go_on_and_a_member_is_added_at_any_time() -> None:
    world = World(secondaries=2, block_count=256)
    world.write(0, block("0") * 200)
    world.primary.replica.add_member("m0", "sim:m0", "vol")
    for number in range(300):
        world.write(number % 250, bytes([number % 251]) * BLOCK_SIZE)
        world.tick()
        world.check()
        if number == 100:
            world.primary.replica.add_member("m1", "sim:m1", "vol")
    world.settle()
    world.check_equal()


@pytest.mark.requirement("C1")
def test_only_blocks_in_use_travel_and_all_else_becomes_unused() -> None:
    world = World(block_count=256, found=block("x") * 150)
    world.write(5, block("a"))
    world.add_members()
    world.settle()
    world.check_equal()
    assert world.secondaries[0].receivers[0].received_bytes < 20 * BLOCK_SIZE


@pytest.mark.requirement("C1")
def test_the_hold_is_durable_before_the_snapshot_of_the_copy_is_cut() -> None:
    world = World()
    world.write(0, block("a"))
    world.add_members()
    member = world.primary.replica.root.members[0]
    assert member.state == "copying"
    assert member.copy_snapshot is None
    world.crash(world.primary)
    world.restart(world.primary)
    assert world.primary.replica.root.members == (member,)
    world.settle()
    world.check_equal()
    world.settle(lambda: knows_all(world))
    assert not world.primary.replica.snapshots()


@pytest.mark.requirement("C1")
def test_a_copy_that_broke_off_can_be_neither_read_nor_played_and_goes_on_where_it_was() -> None:
    """Invariant 6."""
    world = World(block_count=256)
    world.write(0, bytes(range(1, 201)) * BLOCK_SIZE)
    world.add_members()
    secondary = world.secondaries[0]
    world.settle(lambda: bool(secondary.receivers) and secondary.receivers[0].received_bytes > 30_000)
    world.crash(secondary)
    world.restart(secondary)
    assert secondary.replica.root.inconsistent is not None
    with pytest.raises(InconsistentError):
        read_all(secondary.replica.view())
    with pytest.raises(InconsistentError):
        secondary.replica.pin()
    world.settle()
    world.check_equal()


@pytest.mark.requirement("C3")
def test_a_view_shows_a_set_as_soon_as_it_is_received_and_before_it_is_played() -> None:
    world = following()
    secondary = world.secondaries[0]
    world.primary.replica.set_policy(play_interval_s=1e6)
    before = secondary.replica.player.position
    world.write(2, block("n") * 3)
    position = world.primary.replica.cut()
    world.settle(lambda: secondary.replica.root.last == position)
    change = secondary.replica.player
    change.sets.refresh()
    secondary.save.swap("policy", b'{"play_interval_s": 1e6}', 0)
    assert secondary.replica.view().boundary == position
    assert change.position == before
    assert read_all(secondary.disk) != bytes(world.model.image)
    assert world.model.check_view("m0", secondary.replica.view())
    with pytest.raises(ReadOnlyError):
        secondary.replica.view().write(0, block("x"))


@pytest.mark.requirement("C3")
def test_a_pinned_view_stays_at_its_boundary_while_playback_goes_on() -> None:
    world = following()
    secondary = world.secondaries[0]
    view = secondary.replica.pin()
    image = bytes(world.model.image)
    world.write(0, block("y") * 10)
    world.primary.replica.cut()
    world.settle()
    assert read_all(view) == image
    assert read_all(secondary.disk) == bytes(world.model.image)
    assert view.snapshot_name is not None
    assert [record.name for record in secondary.replica.root.snapshots] == [view.snapshot_name]
    view.close()
    assert not secondary.replica.root.snapshots


@pytest.mark.requirement("C2")
def test_several_sets_are_played_in_one_pass_and_the_newest_block_wins() -> None:
    world = following()
    secondary = world.secondaries[0]
    secondary.save.swap("policy", b'{"play_interval_s": 3.0}', 0)
    for letter in "abc":
        world.write(4, block(letter))
        world.write(ord(letter) - 90, block(letter))
        world.primary.replica.cut()
    world.settle()
    world.check_equal()
    last = secondary.replica.player.status()["history"][-1]  # type: ignore[index]
    assert last["sets"] == 3
    assert last["blocks"] == 4


@pytest.mark.requirement("D4", "T7")
def test_a_transfer_resumes_at_the_chunk_where_the_link_broke() -> None:
    world = following(block_count=256)
    world.write(0, bytes(range(1, 101)) * BLOCK_SIZE)
    position = world.primary.replica.cut()
    secondary = world.secondaries[0]
    world.network.break_after(13)
    for _ in range(20):
        world.round()
        if world.network._left is None:
            break
    partial = len([key for key in secondary.save.list("sets/") if f"{position.number:016x}" in key])
    assert partial > 2
    seen: list[m.Body] = []
    sender = world.primary.sender("m0")
    sent = sender._outbox.sent
    sender._outbox.sent = lambda transfer, body: (seen.append(body), sent(transfer, body))  # type: ignore[method-assign]
    world.settle()
    world.check_equal()
    first = next(body for body in seen if isinstance(body, m.Chunk))
    assert first.index == partial


@pytest.mark.requirement("T1")
def test_a_dead_secondary_delays_neither_the_primary_nor_the_other() -> None:
    world = following(secondaries=2)
    dead, alive = world.secondaries
    world.crash(dead)
    for letter in "abc":
        world.write(1, block(letter))
        position = world.primary.replica.cut()
        for _ in range(20):
            for step in (*world.primary.steps(), *alive.steps()):
                step()
            world.runtime.advance(0.05)
        assert alive.replica.player.position == position
    assert progress(world, "m0").state == "disconnected"
    assert progress(world, "m1").played == position
    world.settle()
    world.check_equal()


@pytest.mark.requirement("D4")
def test_after_the_retries_the_error_handler_is_told_once_and_retries_go_on() -> None:
    world = following()
    world.network.down.add("sim:m0")
    world.network.break_links()
    for _ in range(200):
        for step in world.primary.steps():
            step()
        world.runtime.advance(0.05)
    told = [message for message in world.model.errors if "member m0" in message]
    assert len(told) == 1
    assert progress(world).last_error
    world.write(0, block("z"))
    world.primary.replica.cut()
    world.settle()
    world.check_equal()
    assert progress(world).state == "following"


@pytest.mark.requirement("D4", "T6", "S1")
def test_a_sender_is_stopped_and_begun_again_from_the_save_volume_alone() -> None:
    world = following()
    world.primary.senders.pop("m0").close()
    world.write(9, block("q"))
    world.primary.replica.cut()
    world.settle()
    world.check_equal()


@pytest.mark.requirement("S1")
def test_what_every_member_has_played_is_trimmed_and_the_block_lists_stay() -> None:
    """Invariant 7."""
    world = following(secondaries=2)
    world.crash(world.secondaries[0])
    world.write(1, block("a"))
    position = world.primary.replica.cut()
    for _ in range(40):
        for step in (*world.primary.steps(), *world.secondaries[1].steps()):
            step()
        world.runtime.advance(0.05)
    assert world.primary.save.list(f"sets/{position.number:016x}")
    world.settle(lambda: not world.primary.save.list("sets/"))
    assert world.primary.save.list(f"lists/{position.number:016x}")
    world.settle(lambda: not any(secondary.save.list("sets/") for secondary in world.secondaries))


@pytest.mark.requirement("C4")
def test_pausing_leaves_every_secondary_at_a_boundary_and_lasts_over_a_restart() -> None:
    world = following()
    position = world.primary.replica.root.last
    world.primary.replica.pause()
    world.write(1, block("p"))
    world.primary.replica.cut()
    world.crash(world.primary)
    for _ in range(50):
        world.round()
    world.check()
    assert world.secondaries[0].replica.player.position == position
    world.primary.replica.resume()
    world.settle()
    world.check_equal()


@pytest.mark.requirement("R8")
def test_status_of_both_ends_says_what_is_durable() -> None:
    """Invariant 13."""
    world = following()
    world.network.down.add("sim:m0")
    world.network.break_links()
    for letter in "ab":
        world.write(1, block(letter))
        position = world.primary.replica.cut()
    world.runtime.advance(5)
    status = world.primary.replica.status()
    member = status["members"][0]  # type: ignore[index]
    assert member["outstanding_sets"] == 2
    assert member["lag_s"] >= 5
    world.settle()
    world.settle(lambda: knows_all(world))
    status = world.primary.replica.status()
    member = status["members"][0]  # type: ignore[index]
    assert (member["received"], member["played"], member["lag_s"]) == (position.number, position.number, 0.0)
    there = world.secondaries[0].replica.status()
    assert there["identity"] == position.identity
    assert there["played"] == position.number
    assert there["history"][-1]["number"] == position.number  # type: ignore[index]


@pytest.mark.requirement("T10", "T11")
def test_control_blocks_are_broadcast_and_answered_by_every_member_that_is_there() -> None:
    world = following(secondaries=2)
    for secondary in world.secondaries:
        secondary.save.swap("policy", b'{"play_interval_s": 1e6}', 0)
    world.write(1, block("n"))
    position = world.primary.replica.cut()
    world.settle(lambda: all(secondary.replica.root.last == position for secondary in world.secondaries))
    assert all(secondary.replica.player.position != position for secondary in world.secondaries)
    block_ = ControlBlock.start_playback(position.number)
    pending = [world.primary.sender(name).command(block_) for name in ("m0", "m1")]
    unknown = world.primary.sender("m0").command(ControlBlock("make-tea"))
    world.settle()
    world.settle(lambda: all(each.done.is_set() for each in (*pending, unknown)))
    assert all(each.outcome is not None and each.outcome.ok for each in pending)
    assert unknown.outcome is not None
    assert not unknown.outcome.ok
    world.check_equal()


@pytest.mark.requirement("T10")
def test_a_command_whose_session_ends_has_failed() -> None:
    world = following()
    pending = world.primary.sender("m0").command(ControlBlock("late"))
    world.network.break_links()
    world.primary.sender("m0").step()
    assert pending.outcome is not None
    assert not pending.outcome.ok


@pytest.mark.requirement("P6")
def test_a_snapshot_name_that_is_taken_is_refused_before_anything_is_cut() -> None:
    world = following()
    primary = world.primary.replica
    primary.create_snapshot("one")
    world.write(3, block("c"))
    before = primary.root.last
    with pytest.raises(AlreadyExistsError, match="one already"):
        primary.create_snapshot("one")
    assert primary.root.last == before
    assert not primary.cutter.status()["last_error"]  # it would hold back the next cuts
    world.settle()
    world.check_equal()
