"""A member that left this history comes back by the blocks that differ, each sent once (R4, R5, P5)."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from replkit.blocks.bitmap import PagedBitmap
from replkit.contracts.message import PREFIX_BYTES, Message
from replkit.deltaset.chunk import decode_chunk
from replkit.deltaset.pieces import Kind, Piece
from replkit.errors import DivergedError, InconsistentError
from replkit.rcp import messages as m
from replkit.replication.cells import MemberProgress, sent_cell
from replkit.replication.difference import blocks_between, has_list
from replkit.replication.receive_difference import DifferenceInbox
from replkit.replication.root import load_struct
from replkit.testing.sim.model import read_all
from replkit.testing.sim.network import SimLink
from replkit.testing.sim.returning import LIST, RESYNC, Fork
from replkit.testing.sim.sites import BLOCK, block


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[Piece]:
    """What arrives in chunks of differences."""
    seen: list[Piece] = []
    take = DifferenceInbox.chunk

    def note(self: DifferenceInbox, body: m.CopyChunk, payload: memoryview) -> object:
        answer = take(self, body, payload)
        seen.extend(decode_chunk(payload, block_count=1 << 20).pieces)
        return answer

    monkeypatch.setattr(DifferenceInbox, "chunk", note)
    return seen


def counted(pieces: list[Piece]) -> Counter[int]:
    return Counter(number for piece in pieces for number in range(piece.start, piece.stop))


def blocks_of(*maps: PagedBitmap) -> set[int]:
    return {number for each in maps for run in each.runs() for number in range(run.start, run.stop)}


def two_ways(*, blocks: int = 64) -> Fork:
    """A and B both wrote after the fork, in part the same blocks."""
    fork = Fork(blocks=blocks)
    fork.a.write(3, block("A", 5))
    fork.a.primary.cut()
    fork.a.write(20, block("A", 4))
    fork.a.primary.volume.discard(10, 2)
    fork.b.write(6, block("B", 4))
    fork.b.primary.cut()
    fork.b.write(40, block("B", 2))
    fork.b.primary.volume.discard(0, 2)
    fork.b.write(50, bytes(BLOCK * 2))
    return fork


def staged(fork: Fork) -> list[str]:
    """The chunks of the difference that A keeps."""
    return [key for key in fork.a.save.list("sets/") if ".copy-" in key]


def progress_of(fork: Fork) -> MemberProgress:
    value, _version = load_struct(fork.b.save, sent_cell("a"), MemberProgress)
    return value or MemberProgress()


@pytest.mark.requirement("R4", "R5")
def test_an_old_primary_gets_mine_and_theirs_each_block_once(pieces: list[Piece]) -> None:
    fork = two_ways()
    fork.leave()
    fork.world.settle(fork.is_back)
    assert fork.a.content == fork.b.content
    stamp = fork.b.primary.root.members[0].copy_stamp
    assert stamp is not None
    seen = counted(pieces)
    assert set(seen) == blocks_of(fork.mine, fork.theirs(stamp))
    assert set(seen.values()) == {1}
    kinds = {number: piece.kind for piece in pieces for number in range(piece.start, piece.stop)}
    assert {kinds[number] for number in (0, 1, 20, 23)} == {Kind.DISCARD}  # unused at B, whoever wrote them here
    assert {kinds[number] for number in (50, 51)} == {Kind.ZERO}
    assert {kinds[number] for number in (3, 6, 9, 10, 40)} == {Kind.DATA}
    assert list(fork.a.disk.in_use()) == list(fork.b.disk.in_use())
    assert not has_list(fork.b.save, LIST)


@pytest.mark.requirement("R4", "C1")
def test_sets_after_the_difference_arrive_meanwhile_and_are_played_after_it() -> None:
    fork = Fork(blocks=1024, first=block("0", 1000))
    fork.a.write(0, block("A", 900))
    fork.leave()
    secondary = fork.a.secondary
    fork.world.settle(lambda: secondary.root.resync is not None and secondary.root.resync.stamp is not None)
    stamp = secondary.root.last
    for letter in "xyz":
        fork.b.write(ord(letter), block(letter, 2))
        fork.b.primary.cut()
    fork.world.settle(lambda: secondary.root.last.number > stamp.number)
    assert secondary.root.resync is not None, "a set arrived before the difference was whole"
    assert secondary.status()["state"] == "resyncing"
    with pytest.raises(InconsistentError):
        read_all(secondary.view())
    fork.world.settle(fork.is_back)
    assert fork.a.content == fork.b.content
    assert secondary.root.last.number == stamp.number + 3


@pytest.mark.requirement("R4")
def test_a_staged_difference_touches_no_block_before_it_is_whole() -> None:
    fork = Fork(blocks=256, first=block("0", 250))
    fork.a.write(0, block("A", 200))
    fork.leave()
    content = fork.a.content
    secondary = fork.a.secondary
    fork.world.settle(lambda: bool(staged(fork)))
    while secondary.root.resync is not None:
        assert fork.a.content == content
        assert not secondary.root.inconsistent
        for step in fork.b.steps():
            step()
        fork.a.receive()
        fork.world.runtime.advance(0.05)
    assert read_all(secondary.view()) == fork.b.content
    assert secondary.player.position == fork.fork
    fork.world.settle(fork.is_back)
    assert fork.a.content == fork.b.content


@pytest.mark.requirement("R4", "R6", "S4")
def test_where_the_save_volume_is_too_small_it_is_written_in_place_and_marked(pieces: list[Piece]) -> None:
    """Invariant 6."""
    fork = Fork(blocks=256, first=block("0", 250))
    fork.a.write(0, block("A", 200))
    fork.leave()
    fork.a.save.sets_bytes = 30_000
    secondary = fork.a.secondary
    fork.world.settle(lambda: secondary.root.inconsistent is not None)
    assert secondary.root.resync is not None
    assert secondary.root.resync.in_place
    with pytest.raises(InconsistentError):
        read_all(secondary.view())
    fork.world.settle(fork.is_back)
    assert fork.a.content == fork.b.content
    assert set(counted(pieces)) == blocks_of(fork.mine)
    root = secondary.root
    assert root.inconsistent is None
    changed = blocks_between(fork.a.save, root, fork.fork.number, root.last.number, 256)
    assert blocks_of(changed) == blocks_of(fork.mine)  # its lists go on, for the next resync


@pytest.mark.requirement("P5")
def test_hardly_more_is_sent_than_the_blocks_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    fork = Fork(blocks=1024, first=block("0", 1000))
    fork.b.primary.set_policy(chunk_bytes=64 << 10)
    fork.a.write(100, block("A", 300))
    fork.b.write(600, block("B", 300))
    fork.leave()
    sent = 0
    send = SimLink.send

    def count(self: SimLink, message: Message, timeout_s: float) -> None:
        nonlocal sent
        sent += PREFIX_BYTES + len(message.body) + memoryview(message.payload).nbytes
        send(self, message, timeout_s)

    monkeypatch.setattr(SimLink, "send", count)
    fork.world.settle(fork.is_back)
    assert fork.a.content == fork.b.content
    assert 600 * BLOCK <= sent <= 1.05 * 600 * BLOCK


def test_what_it_says_it_will_send_is_exact() -> None:
    fork = two_ways()
    fork.leave()
    begun: list[m.CopyBegin] = []
    sender = fork.b.sender("a")
    sent = sender._outbox.sent
    sender._outbox.sent = lambda transfer, body: (  # type: ignore[method-assign]
        begun.append(body) if isinstance(body, m.CopyBegin) else None,
        sent(transfer, body),
    )
    fork.world.settle(fork.is_back)
    (begin,) = begun
    assert begin.base == fork.fork
    blocks = blocks_of(fork.mine, fork.theirs(begin.stamp))
    assert begin.block_count == len(blocks)
    unused = {0, 1, 20, 21, 22, 23}
    assert begin.block_count_in_use == len(blocks - unused)
    assert begin.data_bytes == begin.block_count_in_use * BLOCK


@pytest.mark.parametrize(
    "wrong",
    [
        {"resync": "other"},
        {"fork": "earlier"},
    ],
    ids=["another resync", "another fork"],
)
@pytest.mark.requirement("R9")
def test_a_difference_that_was_not_asked_for_is_refused_and_changes_nothing(wrong: dict[str, str]) -> None:
    """Invariant 12."""
    fork = two_ways()
    earlier = msgspec.structs.replace(fork.fork, identity="e" * 32)
    fork.leave(resync_id=wrong.get("resync", RESYNC), fork=earlier if "fork" in wrong else None)
    before = (fork.a.secondary.root, fork.a.content)
    fork.world.settle(lambda: bool(progress_of(fork).last_error))
    for _ in range(20):
        fork.world.round()
    assert progress_of(fork).state == "diverged"
    assert "refused" in progress_of(fork).last_error
    after = fork.a.secondary.root
    assert (msgspec.structs.replace(after, condemned=before[0].condemned), fork.a.content) == before
    assert not staged(fork)
    assert fork.b.primary.root.members[0].state == "copying"


@pytest.mark.requirement("R9")
def test_while_it_waits_for_its_resync_only_the_epoch_that_it_asked_may_send() -> None:
    """Invariant 8."""
    fork = two_ways()
    fork.leave()
    fork.b.primary._replica.root.mutate(
        lambda root: msgspec.structs.replace(root, epoch=msgspec.structs.replace(root.epoch, count=7))
    )
    fork.world.settle(lambda: progress_of(fork).state == "refused")
    assert "asked epoch 2, not 7" in progress_of(fork).last_error
    assert fork.a.secondary.root.epoch.count == 2


@pytest.mark.requirement("R4")
def test_a_difference_whose_snapshot_was_invalidated_begins_again_and_still_brings_it_back() -> None:
    fork = Fork(blocks=1024, first=block("0", 1000))
    fork.a.write(0, block("A", 900))
    fork.leave()
    secondary = fork.a.secondary
    fork.world.settle(lambda: len(staged(fork)) > 3)
    assert secondary.root.resync is not None
    queue = fork.b.primary.volume.snapped.queue
    for record in fork.b.primary.snapshots():
        fork.b.primary.volume.snapped.hold_snapshot(record.name, held=not record.name.startswith("copy."))
    assert queue.invalidate_oldest(queue.room_made)
    fork.world.settle(lambda: "." in fork.b.primary.root.members[0].copy_id)
    fork.world.settle(fork.is_back)
    assert fork.a.content == fork.b.content
    assert secondary.root.base is not None
    assert secondary.root.base.difference.startswith(f"{RESYNC}.")


@pytest.mark.requirement("R4", "R6")
def test_a_third_site_at_the_fork_follows_the_one_that_took_the_difference_in() -> None:
    """The set of a difference is sent on like any other, to a member that stands where it begins."""
    fork = two_ways()
    for letter in "xyz":
        fork.b.write(33, block(letter))
        fork.b.primary.cut()
    fork.leave()
    fork.world.settle(fork.is_back)
    root = fork.a.secondary.root
    span = root.spans[0]
    assert (span.first, span.last) == (fork.fork.number + 1, fork.b.primary.root.members[0].copy_stamp.number)  # type: ignore[union-attr]
    from replkit.replication.send_difference import identity_at
    from replkit.replication.send_set import next_header
    from replkit.replication.set_reader import SetReader

    reader = SetReader(fork.a.save, lambda: root, 64)
    header = next_header(reader, root, fork.fork)
    assert header is not None
    assert header.number == span.last
    assert identity_at(reader, root, span.last) == header.identities[-1]
    inside = msgspec.structs.replace(fork.fork, number=span.first, identity="1" * 32)
    with pytest.raises(DivergedError):
        next_header(reader, root, inside)


@pytest.mark.requirement("R4", "R7")
@pytest.mark.parametrize("message", [0, 6, 9, 12])
def test_a_rewind_brings_back_mine_from_the_restart_point_and_sets_follow(message: int, pieces: list[Piece]) -> None:
    """FIG. 34: the snapshot is that of the fork, so nothing of theirs travels but as sets."""
    fork = Fork(blocks=64, first=block("0", 60))
    fork.a.write(3, block("A", 30))
    for letter in "xy":
        fork.b.write(40, block(letter, 5))
        fork.b.primary.cut()
    fork.leave(snapshot="restart.2")
    assert fork.a.secondary.root.resync is not None
    fork.world.network.break_after(message or None)
    fork.world.settle(fork.is_back, 1200)
    assert fork.a.content == fork.b.content
    assert set(counted(pieces)) == blocks_of(fork.mine)
    root = fork.a.secondary.root
    assert root.resync is None
    assert root.base is not None
    assert root.base.position == fork.fork
    assert [record.name for record in fork.b.primary.snapshots()] == ["restart.2"]


@pytest.mark.requirement("R4", "X5")
@pytest.mark.parametrize("in_place", [False, True], ids=["staged", "in place"])
@pytest.mark.parametrize("sizes", [(64, 80), (64, 50), (70, 64), (50, 64), (50, 90)])
def test_both_sides_may_have_been_resized_since_the_fork(sizes: tuple[int, int], in_place: bool) -> None:
    fork = Fork(blocks=64, first=block("0", 64))
    mine, theirs = sizes
    if mine != 64:
        fork.a.primary.resize(mine * BLOCK)
    fork.a.write(mine - 4, block("A", 4))
    if theirs != 64:
        fork.b.primary.resize(theirs * BLOCK)
    fork.b.write(theirs - 2, block("B", 2))
    fork.leave()
    if in_place:
        fork.a.save.sets_bytes = fork.a.save.used_bytes("sets") + 100  # type: ignore[arg-type]
    fork.world.settle(fork.is_back)
    assert fork.a.content == fork.b.content
