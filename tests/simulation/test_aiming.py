"""Faults are aimed at phases that pass quickly: most cells of fault and phase fill in a few seeds (X3)."""

from __future__ import annotations

import pytest

from replkit.testing.sim.coverage import CANNOT
from replkit.testing.sim.faults import KINDS
from replkit.testing.sim.runner import ALL_PHASES, run_seeds
from replkit.testing.sim.simulation import Simulation


@pytest.mark.requirement("X3")
def test_a_role_that_is_granted_is_met_by_faults() -> None:
    """It is taken at the next call: of seeds drawn without aim hardly one in ten met a fault there."""
    summary = run_seeds(400, 12, 1500)
    met = {kind for kind in KINDS if summary.coverage.cells[kind, "granted"]}
    assert len(met) > 5
    assert not summary.failures


@pytest.mark.requirement("X3")
def test_cells_that_cannot_be_are_cells_of_the_table_and_are_never_met() -> None:
    assert {fault for fault, _phase in CANNOT} <= set(KINDS)
    assert {phase for _fault, phase in CANNOT} <= set(ALL_PHASES)
    coverage = run_seeds(100, 6, 1500).coverage
    assert not [cell for cell in CANNOT if coverage.cells[cell]]


@pytest.mark.requirement("X3")
def test_stories_depend_on_the_run_alone() -> None:
    """What the run has met decides which fault comes next, so it must be that of this run and no other."""
    first, second = Simulation(407), Simulation(407)
    assert first.generator.aims.met is first.coverage.cells
    assert first.run(800).trace_hash == second.run(800).trace_hash
