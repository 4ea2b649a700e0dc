"""Random histories of the volume stack of a primary, with power failures at any device call, and planted breaks."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replkit.blocks.bitmap import PagedBitmap
from replkit.errors import ReplkitError
from replkit.replication.changelog import ChangeLog
from replkit.replication.opencut import OpenCut
from replkit.snapshot import opening
from replkit.snapshot.intents import IntentLog
from replkit.snapshot.inuse import InUseCheckpoints, InUseMap
from replkit.snapshot.queue import SnapshotQueue
from replkit.snapshot.saver import OldBlocks
from replkit.snapshot.snapped import SnappedVolume

from .logged_world import SPOTS, STEPS, World


def any_steps(max_size: int = 40) -> st.SearchStrategy[list[tuple[str, list[int], int]]]:
    spots = st.lists(st.sampled_from(SPOTS), min_size=1, max_size=4, unique=True)
    fail_at = st.one_of(st.just(0), st.just(0), st.integers(1, 12))
    return st.lists(st.tuples(st.sampled_from(STEPS), spots, fail_at), max_size=max_size)


QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.requirement("D1", "D5", "S5", "P1", "P2", "P4", "P6")
@QUICK
@given(any_steps(), st.integers(0, 1000))
def test_every_history_of_steps_and_power_failures_shows_what_it_must(steps, seed):
    World(seed).run(steps)


@pytest.mark.requirement("P1", "P2")
@settings(QUICK, max_examples=20)
@given(any_steps(), st.integers(0, 1000))
def test_at_a_secondary_intents_stand_for_the_in_use_map_only(steps, seed):
    World(seed, changes_matter=False).run(steps)


@pytest.mark.requirement("P3")
@settings(QUICK, max_examples=20)
@given(any_steps(), st.integers(0, 1000), st.integers(1, 3))
def test_an_in_use_map_of_several_blocks_a_bit_shows_the_same(steps, seed, shift):
    World(seed, in_use_shift=shift).run(steps)


@pytest.mark.requirement("P1", "P6")
@settings(QUICK, max_examples=25)
@given(any_steps(), st.integers(0, 1000), st.integers(2_000, 20_000))
def test_a_snapshot_without_room_is_whole_or_visibly_invalid(steps, seed, areas_bytes):
    World(seed, areas_bytes=areas_bytes).run(steps)


# --- planted breaks: each must be found by the same random histories (DESIGN section 10) ---------------------------


def random_steps(chance: random.Random) -> list[tuple[str, list[int], int]]:
    def one() -> tuple[str, list[int], int]:
        spots = chance.sample(SPOTS, chance.randint(1, 4))
        return chance.choice(STEPS), spots, chance.choice([0, 0, 0, chance.randint(1, 12)])

    return [one() for _ in range(40)]


def short_histories(seed: int) -> list[list[tuple[str, list[int], int]]]:
    """Histories that random ones meet seldom; the power fails at a call that depends on the seed, where it does."""
    fail_at = seed + 1
    return [
        [
            ("checkpoint", [0], 0),
            ("write", [0], 0),
            ("flush", [0], 0),
            ("clear", [0], 0),
            ("crash", [0], 0),
            ("snapshot", [1], 0),
        ],
        [
            *[("write", [0], 0), ("flush", [0], 0), ("checkpoint", [0], 0), ("discard", [0], 0), ("clear", [0], 0)],
            *[("crash", [0], 0), ("snapshot", [1], 0)],
        ],
        [("discard", [0], 0), ("write", [0], 0), ("begin_cut", [2], 0), ("end_cut", [1], 0)],
        [("write", [0], 0), ("begin_cut", [2], 0), ("write", [0], 0), ("end_cut", [1], 0)],
        [
            ("write", [0], 0),
            ("snapshot", [1], 0),
            ("snapshot", [2], 0),
            ("write", [0], 0),
            ("snapshot", [2], 0),
            ("snapshot", [3], 0),
        ],
        [("write", [0], 0), ("snapshot", [1], 0), ("snapshot", [2, 0], fail_at)],
        [("write", [0], 0), ("begin_cut", [2], 0), ("clear", [0], 0), ("crash", [0], 0)],
    ]


def is_found() -> bool:
    histories = [(seed, random_steps(random.Random(seed))) for seed in range(12)]
    histories += [(seed, history) for seed in range(8) for history in short_histories(seed)]
    for seed, history in histories:
        try:
            World(seed, changes_matter=seed % 2 == 0).run(history)
        except (AssertionError, ReplkitError):
            return True
    return False


def test_nothing_is_found_where_nothing_is_broken():
    assert not is_found()


@pytest.mark.slow
@pytest.mark.requirement("D1", "D5", "S5", "P1", "P2", "P4", "P6")
@pytest.mark.parametrize("first_seed", range(100, 500, 100))
def test_many_random_histories_show_what_they_must(first_seed):
    for seed in range(first_seed, first_seed + 100):
        World(seed, changes_matter=seed % 2 == 0, in_use_shift=seed % 3).run(random_steps(random.Random(seed)))


class WithoutSync:
    """A save volume whose ``sync`` does nothing."""

    def __init__(self, save):
        self._save = save

    def __getattr__(self, name):
        return getattr(self._save, name)

    def sync(self):
        pass


def break_before_image_sync(patch):
    real = OldBlocks.__init__
    patch.setattr(OldBlocks, "__init__", lambda self, v, save, q, r: real(self, v, WithoutSync(save), q, r))


def break_intent_durability(patch):
    patch.setattr(IntentLog, "_swap", lambda self, regions: None)


def break_intents_of_an_open_cut(patch):
    patch.setattr(ChangeLog, "is_busy", lambda self, region: self.current.any_in(*region))


def break_flush_before_clearing(patch):
    def clear(self, busy=lambda region: False):
        candidates = self.intents.idle_candidates(busy)
        taken = self.intents.take_idle(candidates, busy)
        self._checkpoints.store(self._in_use.copy())
        self.intents.drop(taken)

    patch.setattr(SnappedVolume, "clear_intents", clear)


def break_in_use_before_clearing(patch):
    def clear(self, busy=lambda region: False):
        taken = self.intents.take_idle(self.intents.idle_candidates(busy), busy)
        self.volume.flush()
        self.intents.drop(taken)

    patch.setattr(SnappedVolume, "clear_intents", clear)


def break_flush_at_snapshot(patch):
    patch.setattr(SnappedVolume, "_publish", lambda self, in_use: self._checkpoints.store(in_use))


def break_areas_of_unpublished_snapshots(patch):
    patch.setattr(opening, "_adopt_newer_areas", lambda records, present: records)


def break_abandon(patch):
    patch.setattr(ChangeLog, "give_back", lambda self, old: setattr(self, "old", None))


def break_copy_ahead(patch):
    patch.setattr(OpenCut, "needs", lambda self, start, count: False)


def break_in_use_after_a_crash(patch):
    real = InUseCheckpoints.open
    patch.setattr(InUseCheckpoints, "open", lambda self, count, seed, intents: real(self, count, seed, ()))


def break_dirty_after_a_crash(patch):
    patch.setattr(ChangeLog, "begin_writing", lambda self: None)


def break_inheritance_of_areas(patch):
    patch.setattr("replkit.snapshot.queue._worth_keeping", lambda older, layer, *, is_newest: list(older.areas))


def break_before_images_at_all(patch):
    patch.setattr(SnappedVolume, "_keep_old_blocks", lambda self, extents, taker: None)


def break_flush_of_a_checkpoint(patch):
    def checkpoint(self, *, clean=False):
        self._checkpoints.store(self._in_use.copy(), clean=clean)

    patch.setattr(SnappedVolume, "checkpoint", checkpoint)


def break_in_use_marks(patch):
    patch.setattr(InUseMap, "set", lambda self, start, count: None)
    patch.setattr(PagedBitmap, "add", lambda self, block: None)


def break_kind_of_a_rewritten_block(patch):
    real = ChangeLog.mark

    def mark(self, extents):
        self.has_discards = False
        real(self, extents)

    patch.setattr(ChangeLog, "mark", mark)


def break_order_of_areas(patch):
    real = SnapshotQueue.areas_from
    patch.setattr(SnapshotQueue, "areas_from", lambda self, layer: list(reversed(real(self, layer))))


BREAKS = [planted for name, planted in sorted(globals().items()) if name.startswith("break_")]


@pytest.mark.requirement("D1", "S5", "P1")
@pytest.mark.parametrize("planted", BREAKS, ids=lambda planted: planted.__name__)
def test_a_planted_break_is_found(planted, monkeypatch):
    planted(monkeypatch)
    assert is_found()
