"""A stale member is brought up to date by block lists, a diverged one is not; no full copy is made (T6, R4)."""

from __future__ import annotations

import msgspec
import pytest

from replkit.errors import InvalidArgumentError, NotFoundError, RecordMissingError, WrongRoleError
from replkit.rcp import messages as m
from replkit.replication.cells import MemberProgress, sent_cell
from replkit.replication.receive_difference import DifferenceInbox
from replkit.replication.root import load_struct
from replkit.testing.sim.model import read_all
from replkit.testing.sim.sites import VOLUME, Sites, block


class Stale:
    """B was away while A gave its sets up: its blocks of then are known by lists only."""

    def __init__(self, *, blocks: int = 256, played: bool = True) -> None:
        self.world = Sites("ab", blocks=blocks)
        self.a, self.b = self.world.a, self.world.b
        self.a.write(0, block("0", blocks - 6))
        self.world.follow(self.a, self.b)
        self.a.primary.set_policy(keep_sets=0)
        if not played:
            self.b.save.swap("policy", b'{"play_interval_s": 1e9, "play_high_water_bytes": 1000000000}', 0)
            self.a.write(1, block("q", 2))
            self.a.primary.cut()
            last = self.a.primary.root.last
            self.world.settle(lambda: self.b.secondary.root.last == last and self.received() == last.number)
        self.old = self.b.secondary.root.last
        self.old_content = read_all(self.b.secondary.view())
        self.world.network.down.add(self.b.url)
        self.world.network.break_links()
        for letter in "abcd":
            self.a.write(ord(letter) - 90, block(letter, 3))
            self.a.primary.cut()
        self.a.primary.congestion.mark_stale("test")
        self.world.settle(lambda: self.a.primary.root.first_kept > self.old.number + 1)

    def received(self) -> int:
        progress, _version = load_struct(self.a.save, sent_cell("b"), MemberProgress)
        return progress.received.number if progress is not None and progress.received is not None else 0

    def heal(self) -> None:
        self.world.network.down.clear()

    def is_equal(self) -> bool:
        return Sites.is_equal(self.a, self.b)


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[m.CopyBegin]:
    """Every difference that begins."""
    seen: list[m.CopyBegin] = []
    begin = DifferenceInbox.begin

    def note(self: DifferenceInbox, body: m.CopyBegin) -> None:
        seen.append(body)
        begin(self, body)

    monkeypatch.setattr(DifferenceInbox, "begin", note)
    return seen


@pytest.mark.requirement("T6", "R4")
def test_a_stale_member_gets_what_changed_and_no_more(copied: list[m.CopyBegin]) -> None:
    stale = Stale()
    stale.a.primary.members.catch_up("b")
    stale.heal()
    stale.world.settle(stale.is_equal)
    assert stale.a.content == stale.b.content
    (begin,) = copied
    assert begin.base == stale.old
    assert begin.block_count == 6  # a to d, of three blocks each, overlap
    assert stale.b.secondary.root.base is not None
    assert stale.b.secondary.root.base.copy_id != begin.copy_id


@pytest.mark.requirement("T6", "C3")
def test_it_stays_readable_at_its_boundary_until_it_jumps() -> None:
    """Invariant 5."""
    stale = Stale()
    stale.a.primary.members.catch_up("b")
    stale.heal()
    secondary = stale.b.secondary
    seen = 0
    for _ in range(300):
        stale.world.round()
        stale.a.write(200, block("w"))
        stale.a.primary.cut()  # sets after the snapshot wait until the member can take them
        if secondary.root.last == stale.old:
            assert read_all(secondary.view()) == stale.old_content
            seen += 1
        if stale.is_equal():
            break
    assert seen
    assert stale.a.content == stale.b.content


@pytest.mark.requirement("T6", "R6")
def test_sets_that_it_had_not_played_are_played_before_the_difference() -> None:
    stale = Stale(played=False)
    assert stale.b.secondary.player.position != stale.old
    stale.a.primary.members.catch_up("b")
    stale.heal()
    stale.world.settle(lambda: stale.b.secondary.view().boundary.number > stale.old.number)
    assert read_all(stale.b.secondary.view()) == stale.a.content
    stale.b.secondary.player.play_now()
    stale.world.settle(stale.is_equal)
    assert stale.a.content == stale.b.content


@pytest.mark.requirement("T6", "S4")
@pytest.mark.parametrize("played", [True, False])
def test_in_place_it_is_played_to_its_boundary_first(played: bool) -> None:
    """Invariant 6: what is written in place goes over a boundary, never over half of a pass."""
    stale = Stale(played=played)
    stale.b.save.sets_bytes = stale.b.save.used_bytes("sets") + 1000  # type: ignore[arg-type]
    stale.a.primary.members.catch_up("b")
    stale.heal()
    was_in_place = False

    def done() -> bool:
        nonlocal was_in_place
        running = stale.b.secondary.root.inconsistent
        was_in_place |= running is not None and running.base == stale.old
        return stale.is_equal()

    stale.world.settle(done)
    assert was_in_place
    assert stale.a.content == stale.b.content


@pytest.mark.requirement("T6", "D4")
def test_a_member_that_has_more_than_it_had_acknowledged_gets_what_it_lacks(copied: list[m.CopyBegin]) -> None:
    stale = Stale()
    cell = sent_cell("b")
    progress, version = load_struct(stale.a.save, cell, MemberProgress)
    assert progress is not None
    earlier = msgspec.structs.replace(stale.old, number=0, identity="0" * 32)
    stale.a.senders.clear()
    stale.a.save.swap(cell, msgspec.json.encode(msgspec.structs.replace(progress, received=earlier)), version)
    stale.a.primary.members.catch_up("b")
    stale.heal()
    stale.world.settle(stale.is_equal)
    assert [begin.base for begin in copied] == [stale.old]
    assert stale.a.content == stale.b.content


@pytest.mark.requirement("T6", "R6")
@pytest.mark.parametrize("victim", ["a", "b"])
def test_either_side_may_crash_at_any_call_while_it_catches_up(victim: str) -> None:
    call = crashed = 0
    while True:
        call += 1
        stale = Stale(blocks=48)
        stale.a.primary.members.catch_up("b")
        stale.heal()
        site = getattr(stale, victim)
        site.power.fail_at(call)
        replica = site.replica
        for _ in range(60):
            stale.world.round()
        crashed += site.replica is not replica
        was_hit = site.replica is not replica
        site.power.fail_at(None)
        stale.a.primary.cut()
        stale.world.settle(stale.is_equal)
        assert stale.a.content == stale.b.content
        if not was_hit:
            break
    assert crashed > 15


@pytest.mark.requirement("S1")
def test_where_the_lists_are_trimmed_it_says_so_and_changes_nothing() -> None:
    stale = Stale()
    stale.a.primary._replica.root.mutate(lambda root: msgspec.structs.replace(root, first_listed=root.last.number))
    before = stale.a.primary.root
    with pytest.raises(RecordMissingError, match="list trimmed"):
        stale.a.primary.members.catch_up("b")
    assert stale.a.primary.root == before


def test_a_member_that_lacks_nothing_does_not_catch_up() -> None:
    world = Sites("ab")
    world.follow(world.a, world.b)
    with pytest.raises(WrongRoleError, match="following"):
        world.a.primary.members.catch_up("b")
    with pytest.raises(NotFoundError):
        world.a.primary.members.catch_up("c")


@pytest.mark.requirement("S1")
def test_the_lists_that_a_running_difference_needs_are_not_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    stale = Stale()
    monkeypatch.setattr("replkit.replication.trimmer.LISTS_SHARE", 0.0)
    stale.a.primary.members.catch_up("b")
    for _ in range(50):
        stale.world.round()
    assert stale.a.primary.root.first_listed <= stale.old.number + 1
    stale.heal()
    stale.world.settle(stale.is_equal)
    assert stale.a.content == stale.b.content


@pytest.mark.requirement("R2", "R5")
def test_a_member_that_stands_in_the_history_follows_without_a_copy(copied: list[m.CopyBegin]) -> None:
    world = Sites("ab")
    world.a.write(0, block("0", 20))
    world.follow(world.a, world.b)
    at = world.b.secondary.root.last
    world.a.primary.remove_member("b")
    world.a.write(5, block("n", 3))
    world.a.primary.cut()
    world.a.primary.members.add_following("b", world.b.url, VOLUME, at)
    world.settle(lambda: Sites.is_equal(world.a, world.b))
    assert world.a.content == world.b.content
    assert not copied
    root = world.a.primary.root
    world.a.primary.members.add_following("b", world.b.url, VOLUME, at)
    assert world.a.primary.root == root
    beyond = msgspec.structs.replace(root.last, number=root.last.number + 1)
    with pytest.raises(InvalidArgumentError):
        world.a.primary.members.add_following("b", world.b.url, VOLUME, beyond)
    world.a.primary._replica.root.mutate(lambda now: msgspec.structs.replace(now, first_kept=root.last.number))
    with pytest.raises(RecordMissingError):
        world.a.primary.members.add_following("c", "sim:c", VOLUME, msgspec.structs.replace(at, number=0))


def test_a_paused_follower_goes_on_without_a_copy() -> None:
    world = Sites("ab")
    world.follow(world.a, world.b)
    world.a.primary.members.add_following("b", world.b.url, VOLUME, world.b.secondary.root.last)
    world.a.primary.pause("b")
    world.a.primary.resume("b")
    assert world.a.primary.root.members[0].state == "following"
    world.settle(lambda: Sites.is_equal(world.a, world.b))


@pytest.mark.requirement("R9")
def test_a_follower_without_any_copy_is_diverged() -> None:
    world = Sites("ab")
    world.a.primary.members.add_following("b", world.b.url, VOLUME, world.a.primary.root.last)
    world.settle(lambda: _state(world) == "diverged")


def _state(world: Sites) -> str:
    progress, _version = load_struct(world.a.save, sent_cell("b"), MemberProgress)
    return progress.state if progress is not None else ""


@pytest.mark.requirement("S4", "T6")
def test_a_member_whose_save_volume_cannot_hold_the_next_set_is_brought_on_in_place(copied: list[m.CopyBegin]) -> None:
    world = Sites("ab", blocks=512)
    a, b = world.a, world.b
    a.write(0, block("0", 16))
    world.follow(a, b)
    old = b.secondary.root.last
    a.primary.set_policy(slow_retry_s=1000.0)
    b.save.sets_bytes = 16 << 10
    a.write(100, block("a", 200))
    a.primary.cut()

    def refusal() -> str:
        progress, _version = load_struct(a.save, sent_cell("b"), MemberProgress)
        return progress.last_error if progress is not None and progress.state == "refused" else ""

    world.settle(lambda: bool(refusal()))
    assert "cannot hold this one set" in refusal()
    assert "replkit replica catch-up" in refusal()
    assert b.secondary.root.last == old
    a.primary.members.catch_up("b")
    began_s = world.runtime.monotonic()
    world.settle(lambda: Sites.is_equal(a, b))
    assert world.runtime.monotonic() - began_s < 100, "a command is tried at once"
    (begin,) = copied
    assert begin.base == old
    a.write(0, block("b", 2))
    a.primary.cut()
    world.settle(lambda: Sites.is_equal(a, b))
