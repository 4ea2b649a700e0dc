"""Seeded runs of the whole topology with crashes and broken links; a failing seed is kept here by its number."""

from __future__ import annotations

from typing import Any

import pytest

from replkit.replication.cells import DifferenceProgress
from replkit.replication.receive_difference import DifferenceInbox
from replkit.testing.sim.scenario import draw_faults, run

FOUND: tuple[int, ...] = (203,)
"""Seeds that once failed."""


@pytest.mark.requirement("X3", "S5", "D4", "C1", "C2", "C3", "T1")
@pytest.mark.parametrize("first", [0, *(pytest.param(first, marks=pytest.mark.slow) for first in range(16, 64, 16))])
def test_every_seed_converges_and_breaks_no_invariant(first: int) -> None:
    outcomes = [run(seed) for seed in range(first, first + 16)]
    assert sum(outcome.crashes for outcome in outcomes) > 16
    assert sum(outcome.played for outcome in outcomes) > 32


@pytest.mark.requirement("X3")
def test_the_same_seed_gives_the_same_run() -> None:
    assert run(7) == run(7)
    assert run(7) != run(15)


def test_every_kind_of_fault_is_drawn_alone_and_together() -> None:
    assert len({draw_faults(seed) for seed in range(16)}) == 16


@pytest.mark.requirement("X3", "T6", "R6")
@pytest.mark.parametrize("first", [64, *(pytest.param(first, marks=pytest.mark.slow) for first in range(80, 128, 16))])
def test_stale_members_catch_up_whatever_else_happens(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences, staged and in place, under crashes, breaks, small save volumes, pull-ahead and pins."""
    begun: list[bool] = []
    begin = DifferenceInbox._begin_anew

    def note(self: DifferenceInbox, *arguments: Any) -> DifferenceProgress:
        progress = begin(self, *arguments)
        begun.append(progress.in_place)
        return progress

    monkeypatch.setattr(DifferenceInbox, "_begin_anew", note)
    for seed in range(first, first + 16):
        run(seed)
    assert len(begun) > 16


@pytest.mark.parametrize("seed", FOUND)
def test_a_seed_that_once_failed_does_so_no_more(seed: int) -> None:
    run(seed)
