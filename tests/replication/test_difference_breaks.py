"""A difference that breaks off at any message, or with either site at any call of its stores, ends as it should."""

from __future__ import annotations

import pytest

from replkit.rcp import messages as m
from replkit.replication.receive_difference import DifferenceInbox
from replkit.testing.sim.returning import Fork
from replkit.testing.sim.sites import BLOCK, Site, block

IN_PLACE_BYTES = 6_000
MODES = pytest.mark.parametrize("in_place", [False, True], ids=["staged", "in place"])


def ready(*, in_place: bool, blocks: int = 64) -> Fork:
    """A is about to come back; its difference is some chunks, with data, zeros and discards."""
    fork = Fork(blocks=blocks, first=block("0", blocks - 8))
    fork.a.write(0, block("A", 20))
    fork.a.write(blocks - 4, block("A", 3))
    fork.b.write(18, block("B", 12))
    fork.b.write(40, bytes(BLOCK * 2))
    fork.b.primary.volume.discard(44, 2)
    fork.leave()
    if in_place:
        fork.a.save.sets_bytes = IN_PLACE_BYTES + fork.a.save.used_bytes("sets")  # type: ignore[arg-type]
    return fork


def end(fork: Fork, *, in_place: bool) -> None:
    """Let it come to its end; more sets follow, so that the next are known to fit."""
    fork.world.network.break_after(None)
    for site in (fork.a, fork.b):
        site.power.fail_at(None)
    fork.b.primary.cut()  # after a crash it may take blocks for changed
    fork.world.settle(fork.is_back)
    assert fork.a.content == fork.b.content
    root = fork.a.secondary.root
    assert root.resync is None
    assert root.base is not None
    assert (root.base.position == fork.fork) is not in_place
    fork.b.write(5, block("z"))
    fork.b.primary.cut()
    fork.world.settle(fork.is_back)
    assert fork.a.content == fork.b.content


@MODES
@pytest.mark.requirement("R4", "R6", "D4")
def test_it_resumes_after_a_break_at_any_message(in_place: bool) -> None:
    message = 0
    was_broken = True
    while was_broken:
        message += 1
        fork = ready(in_place=in_place)
        fork.world.network.break_after(message)
        for _ in range(60):
            fork.world.round()
        was_broken = fork.world.network._left is None
        end(fork, in_place=in_place)
    assert message > 10


@MODES
@pytest.mark.requirement("R4", "R6", "T7")
def test_what_is_durable_is_not_sent_again(in_place: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver says how far it is; with a flush after every chunk nothing at all is sent twice."""
    monkeypatch.setattr("replkit.replication.receive_difference.FLUSH_BYTES", 1)
    for message in range(1, 24):
        fork = ready(in_place=in_place)
        seen: list[int] = []
        take = DifferenceInbox.chunk

        def note(self: DifferenceInbox, body: m.CopyChunk, payload: memoryview, seen=seen, take=take) -> object:  # type: ignore[no-untyped-def]
            seen.append(body.next_block)
            return take(self, body, payload)

        with monkeypatch.context() as patch:
            patch.setattr(DifferenceInbox, "chunk", note)
            fork.world.network.break_after(message)
            end_after_break(fork)
        assert len(seen) == len(set(seen))
        assert fork.a.content == fork.b.content


def end_after_break(fork: Fork) -> None:
    for _ in range(60):
        fork.world.round()
    fork.world.settle(fork.is_back)


def crash_everywhere(victim: str, *, in_place: bool) -> int:
    """Fail at the first, second, … call, until a run ends without a failure; how many runs failed."""
    call = 0
    while True:
        call += 1
        fork = ready(in_place=in_place)
        site: Site = getattr(fork.world, victim)
        crashes = count_crashes(site)
        site.power.fail_at(call)
        for _ in range(400):
            if fork.is_back() or crashes:
                break
            fork.world.round()
        failed = bool(crashes)
        end(fork, in_place=in_place)
        if not failed:
            return call


def count_crashes(site: Site) -> list[int]:
    crashes: list[int] = []
    crash = site.crash

    def note() -> None:
        crashes.append(1)
        crash()

    site.crash = note  # type: ignore[method-assign]
    return crashes


@MODES
@pytest.mark.requirement("R4", "R6", "S5")
def test_the_one_that_returns_may_crash_at_any_call(in_place: bool) -> None:
    """Invariants 5 and 6."""
    assert crash_everywhere("a", in_place=in_place) > 60


@pytest.mark.requirement("R4", "R6", "S5")
def test_the_new_primary_may_crash_at_any_call() -> None:
    assert crash_everywhere("b", in_place=False) > 15
