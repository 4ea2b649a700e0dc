"""Full save volumes: they push back, or the policy decides; nothing is dropped silently (S4, invariant 11)."""

from __future__ import annotations

import threading

import msgspec
import pytest

from replkit.errors import CorruptRecordError, CutAbandonedError, StoreUnavailableError
from replkit.replication.policy import change_policy
from replkit.replication.set_reader import SetReader
from replkit.testing.sim.machines import BLOCK_SIZE, SimSecondary
from replkit.testing.sim.world import DEFAULT_POLICY, World

ROOM = 30 * 1024


def world_with(congestion: str, **options: object) -> World:
    policy = msgspec.structs.replace(DEFAULT_POLICY, congestion=congestion, interval_s=1000.0)  # type: ignore[arg-type]
    world = World(policy=policy, sets_bytes=ROOM, block_count=256, **options)  # type: ignore[arg-type]
    world.write(0, b"0" * BLOCK_SIZE * 10)
    world.add_members()
    world.settle(lambda: world.primary.replica.root.members[0].state == "following")
    world.settle(lambda: not world.primary.save.list("sets/"))
    return world


def fill(world: World, first: int, blocks: int, letter: bytes) -> None:
    world.write(first, letter * (BLOCK_SIZE * blocks))


def cut_off(world: World) -> SimSecondary:
    """No link to the member any more, which is returned."""
    member = world.secondaries[0]
    world.network.down.add(member.url)
    world.network.break_links()
    return member


def suspend_writes(world: World, step: int) -> None:
    """Fill the save volume for a member that is cut off, until the policy ``block`` suspends the writes."""
    cut_off(world)
    for number in range(3):
        fill(world, number * step, 15, bytes([65 + number]))
        world.primary.replica.cut()
    fill(world, 100, 20, b"Z")
    turn(world, 3)


def turn(world: World, rounds: int = 10) -> None:
    """Let the primary's services run, with the member out of reach."""
    for _ in range(rounds):
        for step in world.primary.steps():
            world.run(world.primary, step)
        world.runtime.advance(1.0)


@pytest.mark.requirement("S4")
def test_pull_ahead_gives_up_data_keeps_lists_and_spans_what_was_given_up() -> None:
    world = world_with("pull-ahead")
    member = world.secondaries[0]
    base = member.replica.player.position
    cut_off(world)
    for number in range(6):
        fill(world, number * 3, 20, bytes([65 + number]))
        try:
            world.primary.replica.cut()
        except CutAbandonedError:
            turn(world)  # the trimmer deletes what was given up
            world.primary.replica.cut()
    root = world.primary.replica.root
    assert root.spans
    assert root.given_up is None
    assert not world.primary.replica.volume.stats()["writes_suspended"]
    world.network.down.clear()
    world.settle()
    world.check_equal()
    assert member.replica.player.position.number > base.number + 1
    assert any("pull-ahead" in message for message in world.model.errors)


@pytest.mark.requirement("S4")
def test_what_was_given_up_is_carried_by_the_next_set_even_after_a_crash() -> None:
    world = world_with("pull-ahead")
    cut_off(world)
    fill(world, 0, 30, b"A")
    world.primary.replica.cut()
    fill(world, 10, 40, b"B")
    world.primary.replica.volume.flush()
    world.model.flush()
    with pytest.raises(CutAbandonedError):
        world.primary.replica.cut()
    assert world.primary.replica.root.given_up is not None
    world.crash(world.primary)
    world.settle(lambda: world.primary.is_up)
    turn(world, 3)
    world.primary.replica.cut()
    world.settle()
    world.check_equal()


@pytest.mark.requirement("S4")
def test_data_is_given_up_while_writes_are_suspended_by_the_policy_before() -> None:
    """The cutter waited for the writers that wait for the cutter: nothing was ever cut again."""
    world = world_with("block")
    suspend_writes(world, 5)
    assert world.primary.replica.volume.stats()["writes_suspended"]
    change_policy(world.primary.save, congestion="pull-ahead")
    failed: list[CutAbandonedError] = []

    def cut() -> None:
        try:
            world.primary.replica.cut()
        except CutAbandonedError as error:
            failed.append(error)

    cutting = threading.Thread(target=cut, daemon=True)
    cutting.start()
    cutting.join(30)
    assert not cutting.is_alive()
    assert failed
    assert world.primary.replica.root.given_up is not None
    turn(world)
    assert not world.primary.replica.volume.stats()["writes_suspended"]
    world.primary.replica.cut()
    world.network.down.clear()
    world.settle()
    world.check_equal()


@pytest.mark.requirement("S4", "D1")
def test_nothing_is_given_up_whose_blocks_cannot_be_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 2: a list that could not be read left its blocks out of the set that spans those given up."""
    world = world_with("pull-ahead")
    cut_off(world)
    fill(world, 0, 30, b"A")
    world.primary.replica.cut()
    fill(world, 10, 40, b"B")
    read = SetReader.block_list
    monkeypatch.setattr(SetReader, "block_list", unreadable)
    with pytest.raises(CorruptRecordError, match="read error"):
        world.primary.replica.cut()
    assert world.primary.replica.root.given_up is None
    monkeypatch.setattr(SetReader, "block_list", read)
    with pytest.raises(CutAbandonedError):
        world.primary.replica.cut()
    assert world.primary.replica.root.given_up is not None
    turn(world, 3)
    world.primary.replica.cut()
    world.network.down.clear()
    world.settle()
    world.check_equal()


@pytest.mark.requirement("S4")
def test_members_that_became_stale_in_a_swap_of_which_no_reply_came_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 11, seed 100931: the next try found them stale already, and said nothing."""
    world = world_with("pull-ahead")
    primary, said = world.primary.replica, len(world.model.errors)
    swap = world.primary.save.swap

    def swap_and_lose_the_reply(cell: str, value: bytes, expected_version: int) -> int:
        swap(cell, value, expected_version)
        raise StoreUnavailableError("no reply")

    with monkeypatch.context() as patch:
        patch.setattr(world.primary.save, "swap", swap_and_lose_the_reply)
        with pytest.raises(StoreUnavailableError):
            primary.congestion.mark_stale("test")
    assert any("members may be stale: test" in each for each in world.model.errors[said:])
    primary.congestion.mark_stale("test")
    assert [member.state for member in primary.root.members] == ["stale"]
    world.crash(world.primary)  # seed 300976: it can come before any message
    said = len(world.model.errors)
    world.restart(world.primary)
    assert any("members are stale: m0" in each for each in world.model.errors[said:])


def unreadable(_reader: SetReader, number: int) -> None:
    raise CorruptRecordError(f"read error in the list of set {number}")


@pytest.mark.requirement("S4")
def test_block_suspends_writes_until_the_trimmer_has_made_room() -> None:
    world = world_with("block")
    suspend_writes(world, 20)
    assert world.primary.replica.status()["congestion"]["writes_suspended"]  # type: ignore[index]
    done = threading.Event()

    def blocked_writer() -> None:
        world.write(200, b"W" * BLOCK_SIZE)
        done.set()

    writer = threading.Thread(target=blocked_writer)
    writer.start()
    assert not done.wait(0.05)
    world.settle(lambda: not world.primary.replica.volume.stats()["writes_suspended"])
    writer.join(60)
    assert done.is_set()
    world.settle(lambda: world.primary.replica.volume.dirty_blocks > 0 or world.has_converged())
    world.primary.replica.cut()
    world.settle()
    world.check_equal()


@pytest.mark.requirement("S4")
def test_a_full_save_volume_at_the_member_stops_the_sender_and_drops_nothing() -> None:
    world = World(member_sets_bytes=24 * 1024, block_count=256)
    world.write(0, b"0" * BLOCK_SIZE * 10)
    world.add_members()
    world.settle()
    member = world.secondaries[0]
    player = member.replica.player.step
    member.replica.player.step = lambda: 0.0  # type: ignore[method-assign]
    for number in range(8):
        fill(world, number * 16, 16, bytes([65 + number]))
        world.primary.replica.cut()
        for _ in range(10):
            world.round()
    assert member.replica.root.last.number < world.primary.replica.root.last.number
    assert member.save.used_bytes("sets") <= 24 * 1024  # type: ignore[arg-type]
    world.check()
    member.replica.player.step = player  # type: ignore[method-assign]
    world.settle()
    world.check_equal()


@pytest.mark.requirement("S4", "C1")
def test_a_full_save_volume_does_not_hold_up_a_new_copy() -> None:
    world = World(member_sets_bytes=12 * 1024, block_count=256)
    world.write(0, bytes(range(1, 201)) * BLOCK_SIZE)
    world.add_members()
    member = world.secondaries[0]
    world.settle(lambda: bool(member.receivers) and member.receivers[0].received_bytes > 8_000)
    for number in range(4):
        fill(world, number * 16, 12, bytes([65 + number]))
        world.primary.replica.cut()
        world.round()
    world.settle()
    world.check_equal()


def test_a_set_that_no_save_volume_can_hold_makes_members_stale_and_says_so() -> None:
    world = world_with("block")
    fill(world, 0, 100, b"X")
    turn(world, 30)
    assert world.primary.replica.root.members[0].state == "stale"
    assert not world.primary.replica.volume.stats()["writes_suspended"]
    assert any("stale" in message for message in world.model.errors)


@pytest.mark.requirement("S4", "T6")
@pytest.mark.parametrize("congestion", ["block", "pull-ahead"])
def test_members_that_became_stale_by_too_large_a_set_catch_up_by_what_changed(congestion: str) -> None:
    """The set is cut without its data, as nobody needs it any more: else no cut would ever come again."""
    world = world_with(congestion)
    before = world.primary.replica.root.last.number
    fill(world, 0, 100, b"X")
    turn(world, 30)
    fill(world, 100, 100, b"Y")
    if congestion == "pull-ahead":
        with pytest.raises(CutAbandonedError):  # with this one the members become stale
            world.primary.replica.cut()
    position = world.primary.replica.cut()
    root = world.primary.replica.root
    assert position.number > before
    assert root.first_kept == position.number + 1
    assert world.primary.replica.volume.dirty_blocks == 0
    world.primary.replica.members.catch_up("m0")
    world.settle()
    world.check_equal()
    fill(world, 50, 5, b"Z")
    world.primary.replica.cut()
    world.settle()
    world.check_equal()


@pytest.mark.requirement("S4", "C1", "R4")
def test_a_volume_filled_faster_than_its_save_volume_could_hold_gets_its_first_copy_and_keeps_the_list() -> None:
    policy = msgspec.structs.replace(DEFAULT_POLICY, interval_s=1000.0)
    world = World(policy=policy, sets_bytes=ROOM, block_count=256)
    fill(world, 0, 200, b"a")
    first = world.primary.replica.cut()
    assert first.number == 1
    assert world.primary.save.used_bytes("sets") < 2048  # type: ignore[arg-type]
    assert any("its data is not kept" in message for message in world.model.errors)
    reader = SetReader(world.primary.save, lambda: world.primary.replica.root, 256)
    assert [tuple(piece)[:2] for piece in reader.block_list(1)] == [(at, 8) for at in range(0, 200, 8)]
    fill(world, 20, 200, b"b")
    world.add_members()
    world.settle()
    world.check_equal()
    world.crash(world.primary)
    world.settle()
    world.check_equal()


@pytest.mark.requirement("S4")
def test_a_member_that_needs_the_set_after_all_has_the_cut_given_up() -> None:
    """Invariant 7: it came while a set without data was being cut."""
    policy = msgspec.structs.replace(DEFAULT_POLICY, interval_s=1000.0)
    world = World(policy=policy, sets_bytes=ROOM, block_count=256)
    primary = world.primary.replica
    fill(world, 0, 200, b"a")
    at = primary.root.last
    begin = primary.cutter._begin

    def begin_and_add(*arguments: object) -> object:
        cut = begin(*arguments)  # type: ignore[arg-type]
        primary.members.add_following("m0", world.secondaries[0].url, "vol", at)
        return cut

    primary.cutter._begin = begin_and_add  # type: ignore[assignment, method-assign]
    with pytest.raises(CutAbandonedError, match="needed by a member after all"):
        primary.cut()
    assert primary.root.last == at
    assert primary.volume.dirty_blocks == 200
