"""What is refused, and how it is said: fenced owners, other histories, damaged chunks, wrong policies."""

from __future__ import annotations

import msgspec
import pytest

from replkit.contracts.position import Epoch, HistoryEntry, Position
from replkit.errors import (
    CorruptRecordError,
    FencedError,
    InvalidArgumentError,
    NotFoundError,
    ProtocolError,
    RecordMissingError,
    WrongRoleError,
)
from replkit.replication.admission import is_in_history
from replkit.replication.cells import PRODUCER_CELLS, MemberProgress, Root, Span, sent_cell
from replkit.replication.directory import add_set, forget_before, numbers_between, set_after, tag_of
from replkit.replication.policy import Policy, change_policy, load_policy
from replkit.replication.primary import PrimaryReplica
from replkit.replication.receive_set import SetInbox
from replkit.replication.replica import Replica
from replkit.replication.root import RootCell, load_struct, new_root, read_root
from replkit.replication.secondary import SecondaryReplica
from replkit.testing.crashing import CrashSaveVolume, Power
from replkit.testing.runtime import ManualRuntime
from replkit.testing.sim.machines import BLOCK_SIZE
from replkit.testing.sim.model import read_all
from replkit.testing.sim.world import World

EPOCH = Epoch(1, "00")


def following() -> World:
    world = World()
    world.write(0, b"0" * BLOCK_SIZE * 16)
    world.add_members()
    world.settle()
    return world


def test_an_owner_that_was_replaced_publishes_nothing() -> None:
    """Invariant 8."""
    save, runtime = CrashSaveVolume(Power()), ManualRuntime()
    old = RootCell.claim(save, runtime, "primary")
    new = RootCell.claim(save, runtime, "primary")
    with pytest.raises(FencedError):
        old.mutate(lambda root: msgspec.structs.replace(root, paused=True))
    with pytest.raises(FencedError):
        old.get()
    assert not read_root(save).paused
    assert new.mutate(lambda root: msgspec.structs.replace(root, paused=True)).paused


def test_a_primary_whose_save_volume_was_taken_cuts_nothing_more() -> None:
    world = following()
    before = read_root(world.primary.save)
    world.write(0, b"z" * BLOCK_SIZE)
    RootCell.claim(world.primary.save, world.runtime, "primary")
    with pytest.raises(FencedError):
        world.primary.replica.cut()
    assert read_root(world.primary.save).last == before.last


def test_a_primary_whose_save_volume_was_taken_begins_no_write_that_needs_an_intent() -> None:
    """Invariant 8: its cells have other versions since, and those of the new owner are not disturbed by it."""
    world = following()
    cells = {name: world.primary.save.load(name) for name in PRODUCER_CELLS}
    RootCell.claim(world.primary.save, world.runtime, "primary")
    taken = {name: world.primary.save.load(name) for name in PRODUCER_CELLS}
    assert all(taken[name].value == cells[name].value for name in PRODUCER_CELLS)
    content = read_all(world.primary.disk)
    with pytest.raises(FencedError, match="intents"):
        world.write(0, b"z" * BLOCK_SIZE)
    assert read_all(world.primary.disk) == content
    assert {name: world.primary.save.load(name) for name in PRODUCER_CELLS} == taken


def test_a_save_volume_is_not_opened_in_the_other_role() -> None:
    world = following()
    machine = world.secondaries[0]
    with pytest.raises(WrongRoleError):
        PrimaryReplica.open(machine.disk, machine.save, world.runtime, world.model, "vol")
    with pytest.raises(WrongRoleError):
        SecondaryReplica.open(world.primary.disk, world.primary.save, world.runtime, world.model, "vol")


def test_a_root_that_is_absent_or_damaged_is_said() -> None:
    save = CrashSaveVolume(Power())
    with pytest.raises(NotFoundError):
        read_root(save)
    save.swap("root", b"{}", 0)
    with pytest.raises(CorruptRecordError, match="root"):
        read_root(save)


@pytest.mark.requirement("R9")
def test_a_member_with_another_history_is_diverged_and_the_error_handler_is_told() -> None:
    world = following()
    member = world.secondaries[0].replica
    other = msgspec.structs.replace(member.root.last, identity="f" * 32)
    member._replica.root.mutate(lambda root: msgspec.structs.replace(root, last=other))
    world.network.break_links()
    world.write(0, b"z" * BLOCK_SIZE)
    world.primary.replica.cut()
    for _ in range(60):
        world.round()
    progress, _version = load_struct(world.primary.save, sent_cell("m0"), MemberProgress)
    assert progress is not None
    assert progress.state == "diverged"
    assert member.root.last == other
    assert sum("diverged" in message for message in world.model.errors) == 1


@pytest.mark.requirement("R9")
def test_a_member_that_has_seen_a_higher_epoch_refuses_the_old_primary() -> None:
    world = following()
    member = world.secondaries[0].replica
    higher = Epoch(2, "ab")
    member._replica.root.mutate(lambda root: msgspec.structs.replace(root, epoch=higher))
    world.network.break_links()
    for _ in range(60):
        world.round()
    progress, _version = load_struct(world.primary.save, sent_cell("m0"), MemberProgress)
    assert progress is not None
    assert progress.state == "refused"
    assert "fenced" in progress.last_error


def test_a_position_is_in_a_history_only_before_the_epoch_ended() -> None:
    first, second = Epoch(1, "a"), Epoch(2, "b")
    history = (HistoryEntry(first, 1), HistoryEntry(second, 10))
    assert is_in_history(Position(first, 9, ""), history)
    assert not is_in_history(Position(first, 10, ""), history)
    assert is_in_history(Position(second, 50, ""), history)
    assert not is_in_history(Position(Epoch(2, "c"), 50, ""), history)


@pytest.mark.requirement("D3")
@pytest.mark.parametrize("place", [0, 40, 200, -1])
def test_a_chunk_that_is_damaged_on_the_way_is_not_kept(place: int) -> None:
    """Invariants 5 and 12: every chunk is verified, and the set is accepted only whole."""
    world = following()
    world.write(0, b"z" * BLOCK_SIZE * 20)
    position = world.primary.replica.cut()
    sender = world.primary.sender("m0")
    peek = type(sender._outbox).pick
    damaged = []

    def damage(root, member):  # type: ignore[no-untyped-def]
        transfer = peek(sender._outbox, root, member)
        if transfer is not None and not damaged:
            body, payload = transfer.peek()
            if payload:
                damaged.append(body)
                broken = bytearray(payload)
                broken[place] ^= 1
                transfer.peek = lambda: (body, bytes(broken))
        return transfer

    sender._outbox.pick = damage  # type: ignore[method-assign]
    world.settle()
    world.check_equal()
    assert damaged
    assert any("refused" in message for message in world.model.errors)
    assert world.secondaries[0].replica.player.position == position


@pytest.mark.requirement("D3")
def test_a_set_already_received_is_acknowledged_again_and_not_kept_again() -> None:
    """Invariant 7: the answer is the same when the set comes twice."""
    world = following()
    secondary = world.secondaries[0]
    root = secondary.replica.root
    inbox = SetInbox(secondary.replica._replica)
    from replkit.rcp.messages import SetBegin

    inbox.begin(
        SetBegin(
            tag=f"{root.last.number:016x}.again", epoch=root.epoch, first_number=root.last.number,
            number=root.last.number, base_identity="0" * 32, chunk_count=1, digest="0" * 32,
        )
    )  # fmt: skip
    assert inbox.end(b"whatever it is, it is not looked at") == root.last
    assert not secondary.save.list(f"sets/{root.last.number:016x}.again")
    with pytest.raises(ProtocolError, match="stands at"):
        inbox.begin(
            SetBegin(
                tag=f"{99:016x}.gap", epoch=root.epoch, first_number=99, number=99, base_identity="0" * 32,
                chunk_count=1, digest="0" * 32,
            )
        )  # fmt: skip


@pytest.mark.requirement("D2")
def test_a_policy_is_changed_while_running_and_wrong_values_change_nothing() -> None:
    save = CrashSaveVolume(Power())
    assert load_policy(save) == Policy()
    assert change_policy(save, interval_s=2.0, congestion="pull-ahead").interval_s == 2.0
    for wrong in ({"interval_s": 0}, {"congestion": "drop"}, {"chunk_bytes": 1}, {"colour": "red"}):
        with pytest.raises(InvalidArgumentError):
            change_policy(save, **wrong)
    assert load_policy(save) == Policy(interval_s=2.0, congestion="pull-ahead")


@pytest.mark.requirement("D2")
def test_a_set_is_cut_after_the_interval_or_at_the_high_water_mark_whichever_is_first() -> None:
    world = World(secondaries=0)
    world.primary.replica.set_policy(interval_s=10.0, high_water_bytes=8 * BLOCK_SIZE)
    step = world.primary.replica.cutter.step
    world.write(0, b"a" * BLOCK_SIZE)
    step()
    assert world.primary.replica.root.last.number == 0
    world.runtime.advance(11)
    step()
    assert world.primary.replica.root.last.number == 1
    world.write(0, b"b" * BLOCK_SIZE * 8)
    step()
    assert world.primary.replica.root.last.number == 2


@pytest.mark.requirement("D5")
def test_the_application_is_frozen_around_the_cut_and_thawed_even_when_the_freeze_fails() -> None:
    world = World(secondaries=0)
    seen: list[str] = []
    freeze = world.model.replkit_freeze
    world.model.replkit_freeze = lambda **kw: (seen.append("freeze"), freeze(**kw))  # type: ignore[method-assign]
    world.model.replkit_thaw = lambda **kw: seen.append("thaw")  # type: ignore[method-assign]
    world.write(0, b"a" * BLOCK_SIZE)
    world.primary.replica.cut()
    assert seen == ["freeze", "thaw"]

    def fail(**_: object) -> None:
        raise RuntimeError("the database does not come to rest")

    world.model.replkit_freeze = fail  # type: ignore[method-assign]
    world.write(1, b"a" * BLOCK_SIZE)
    from replkit.errors import CutAbandonedError

    with pytest.raises(CutAbandonedError, match="come to rest"):
        world.primary.replica.cut()
    assert seen == ["freeze", "thaw", "thaw"]
    assert world.primary.replica.volume.dirty_blocks == 1


def root_of(*spans: Span) -> Root:
    root = new_root(ManualRuntime(), "primary")
    for span in spans:
        root = add_set(root, span, "w1" if span.last < 5 else "w2", Position(EPOCH, span.last, "x"))
    return root


def test_the_set_after_a_position_is_the_one_that_spans_it() -> None:
    root = root_of(Span(1, 1), Span(2, 2), Span(3, 6), Span(7, 7))
    assert set_after(root, 0) == Span(1, 1)
    assert [set_after(root, number) for number in (2, 3, 5)] == [Span(3, 6)] * 3
    assert set_after(root, 7) is None
    assert numbers_between(root, 1, 7) == [1, 2, 6, 7]
    assert tag_of(root, 2).endswith(".w1")
    assert tag_of(root, 6).endswith(".w2")


def test_a_position_whose_set_was_trimmed_or_forgotten_is_said() -> None:
    root = msgspec.structs.replace(root_of(Span(1, 1), Span(2, 2), Span(3, 6)), first_kept=3)
    with pytest.raises(RecordMissingError):
        set_after(root, 0)
    assert set_after(root, 2) == Span(3, 6)
    forgotten = forget_before(root, 6)
    with pytest.raises(RecordMissingError):
        tag_of(forgotten, 1)
    assert tag_of(forgotten, 6).endswith(".w2")


def test_a_replica_is_what_its_services_share() -> None:
    world = following()
    assert isinstance(world.primary.replica._replica, Replica)
    assert world.primary.replica._replica.save is world.primary.save
