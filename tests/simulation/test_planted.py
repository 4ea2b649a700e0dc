"""Every planted bug is found, or the checks prove nothing (X3). The table: ``python -m tests.simulation.planted``."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest
from tests.simulation.planted import PLANTS, hunt

from replkit.testing.sim.checker import CHECKS

SAMPLE = (
    "flush-says-done",
    "abandoned-cut",
    "commit-without-flush",
    "before-image-of-the-first",
    "holes-missing",
    "copy-ends-unflushed",
    "trimmed-too-early",
    "epoch-not-raised",
    "no-salvage",
    "stale-in-silence",
    "untyped-error",
    "status-ahead",
)
"""One of each invariant, of those that few events find; those of invariant 10 need more."""


@pytest.mark.requirement("X3")
@pytest.mark.parametrize("name", SAMPLE)
def test_a_planted_bug_is_found(name: str) -> None:
    assert hunt(name, seeds=20).seeds


@pytest.mark.requirement("X3")
def test_each_invariant_has_planted_bugs() -> None:
    planted = Counter(plant.invariant for plant in PLANTS.values())
    assert set(planted) == set(CHECKS)
    assert min(planted.values()) >= 2
    assert {PLANTS[name].invariant for name in SAMPLE} == set(CHECKS) - {10}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.requirement("X3")
def test_every_planted_bug_is_found() -> None:
    with ProcessPoolExecutor(2) as pool:
        found = list(pool.map(hunt, PLANTS))
    assert not [each.name for each in found if not each.seeds]
