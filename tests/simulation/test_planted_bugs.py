"""Deliberate breaks of the invariants: the simulator must find each of them within a few seeds (DESIGN section 10)."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from replkit.errors import ReplkitError
from replkit.replication import receive_copy
from replkit.replication.accumulated import Accumulated
from replkit.replication.cutter import Cutter
from replkit.replication.logged import LoggedVolume
from replkit.replication.player import Player
from replkit.replication.root import RootCell
from replkit.testing.sim.machines import SimSaveVolume
from replkit.testing.sim.model import InvariantError
from replkit.testing.sim.scenario import Faults, run

Plant = Callable[[pytest.MonkeyPatch], None]
SEEDS = 25


def skip_the_flush_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    """Invariant 3."""
    flush = LoggedVolume.flush
    patch.setattr("replkit.replication.cut.Cut.commit", _without(flush, LoggedVolume, "flush"))


def _without(_kept: object, kind: type, name: str) -> Callable[..., object]:
    from replkit.replication.cut import Cut

    commit, method = Cut.commit, getattr(kind, name)

    def broken(self: Cut) -> object:
        setattr(kind, name, lambda _self: None)
        try:
            return commit(self)
        finally:
            setattr(kind, name, method)

    return broken


def sync_nothing(patch: pytest.MonkeyPatch) -> None:
    """Invariant 5: a set is named whose records a crash can lose."""
    patch.setattr(SimSaveVolume, "sync", lambda self: None)


def acknowledge_what_is_not_durable(patch: pytest.MonkeyPatch) -> None:
    """Invariant 7: the root is changed in memory only, every other time."""
    mutate = RootCell.mutate
    calls = [0]

    def broken(self: RootCell, change):  # type: ignore[no-untyped-def]
        calls[0] += 1
        if calls[0] % 3 or self.get().role == "primary":
            return mutate(self, change)
        self._root = change(self.get())
        return self._root

    patch.setattr(RootCell, "mutate", broken)


def play_under_the_feet_of_readers(patch: pytest.MonkeyPatch) -> None:
    """Invariant 5: a pinned view sees later blocks."""
    patch.setattr(Accumulated, "may_write", lambda self, number: True)


def do_not_announce_the_pass(patch: pytest.MonkeyPatch) -> None:
    """Invariants 5 and 6: after a crash in mid-pass the volume is believed to stand at a boundary."""
    announce = Player._announce
    patch.setattr(Player, "_announce", lambda self, target, *rest: announce(self, None, *rest))


def do_not_mark_a_copy(patch: pytest.MonkeyPatch) -> None:
    """Invariant 6: a half-made copy can be read."""
    begin = receive_copy._begin

    def broken(root, body):  # type: ignore[no-untyped-def]
        from replkit.replication.cells import Base

        base = Base(copy_id="planted", position=body.stamp)
        return msgspec.structs.replace(begin(root, body), inconsistent=None, base=base)

    patch.setattr(receive_copy, "_begin", broken)


def trim_before_all_have_played(patch: pytest.MonkeyPatch) -> None:
    """Invariant 7."""
    patch.setattr("replkit.replication.primary.members_floor", lambda save, root: root.last.number)


def say_played_before_the_flush(patch: pytest.MonkeyPatch) -> None:
    """Invariant 7: a pass ends without a flush."""
    end = Player._end

    def broken(self: Player, done):  # type: ignore[no-untyped-def]
        flush = self._volume.flush
        self._volume.flush = lambda: None  # type: ignore[method-assign]
        try:
            end(self, done)
        finally:
            self._volume.flush = flush  # type: ignore[method-assign]

    patch.setattr(Player, "_end", broken)


def end_a_copy_without_its_flush(patch: pytest.MonkeyPatch) -> None:
    """Invariant 6."""
    inbox = receive_copy.CopyInbox
    patch.setattr(inbox, "_flush", lambda self, copy_id: None)


def forget_the_blocks_of_an_abandoned_cut(patch: pytest.MonkeyPatch) -> None:
    """Invariant 2: what was cut and not committed is in no later set."""
    patch.setattr("replkit.replication.changelog.ChangeLog.give_back", lambda self, old: setattr(self, "old", None))


def stamp_the_copy_with_the_set_before(patch: pytest.MonkeyPatch) -> None:
    """C1: the copy claims an older position than its snapshot has; corrected stamps have one meaning."""
    cut = Cutter.cut

    def broken(self: Cutter, snapshot=None, marks=()):  # type: ignore[no-untyped-def]
        before = self._replica.root.get().last
        position = cut(self, snapshot, marks)
        return before if snapshot else position

    patch.setattr(Cutter, "cut", broken)


ALL = Faults(primary_crashes=True, secondary_crashes=True, link_breaks=True, pins=True)
FULL = Faults(pull_ahead=True, link_breaks=True, secondary_crashes=True)
PLANTS: list[tuple[Plant, Faults]] = [
    (skip_the_flush_before_the_commit, ALL),
    (sync_nothing, ALL),
    (acknowledge_what_is_not_durable, ALL),
    (play_under_the_feet_of_readers, Faults(pins=True)),
    (do_not_announce_the_pass, ALL),
    (do_not_mark_a_copy, ALL),
    (trim_before_all_have_played, ALL),
    (say_played_before_the_flush, ALL),
    (end_a_copy_without_its_flush, ALL),
    (forget_the_blocks_of_an_abandoned_cut, FULL),
    (stamp_the_copy_with_the_set_before, ALL),
]


@pytest.mark.requirement("X3")
@pytest.mark.parametrize(("plant", "faults"), PLANTS, ids=lambda value: getattr(value, "__name__", ""))
def test_the_simulator_finds_a_planted_bug(plant: Plant, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    for seed in range(SEEDS):
        try:
            run(seed, faults=faults, steps=600, settle_rounds=400)
        except (InvariantError, ReplkitError):
            return
    pytest.fail(f"{plant.__name__} was not found in {SEEDS} seeds")
