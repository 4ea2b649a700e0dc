"""The simulator itself: the same seed gives the same run, seeds break nothing, failures are shrunk (X3, U1)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from replkit.replication.changelog import ChangeLog
from replkit.testing.sim.__main__ import main
from replkit.testing.sim.coverage import Coverage
from replkit.testing.sim.runner import run_seeds
from replkit.testing.sim.shrink import shrink
from replkit.testing.sim.simulation import run_seed

HASH = "from replkit.testing.sim.simulation import run_seed; print(run_seed(3, 300).trace_hash)"


@pytest.mark.requirement("X3")
def test_the_same_seed_gives_the_same_trace_in_any_process() -> None:
    hashes = {run_seed(3, 300).trace_hash}
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", HASH], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        )
        hashes.add(run.stdout.decode().strip())
    assert len(hashes) == 1
    assert run_seed(4, 300).trace_hash not in hashes


@pytest.mark.requirement("X3")
def test_a_script_is_run_as_it_was_drawn() -> None:
    drawn = run_seed(5, 250, keep=True)
    assert run_seed(5, 0, drawn.trace).trace_hash == drawn.trace_hash
    assert len(drawn.trace) == 250


@pytest.mark.requirement("X3", "U1", "R1", "R4", "R7", "R9")
def test_some_seeds_break_no_invariant() -> None:
    summary = run_seeds(0, 24, 600)
    assert not summary.failures, [outcome.error for outcome in summary.failures]
    assert summary.counts["epochs"] > summary.seeds
    assert summary.counts["resync"] > 2
    assert summary.counts["crashes"] > 5
    assert summary.counts["checks"] > summary.events / 2


@pytest.mark.slow
@pytest.mark.requirement("X3", "U1")
def test_many_seeds_break_no_invariant_and_meet_each_fault_in_each_phase() -> None:
    """A minute and a half; CI runs ``python -m replkit.testing.sim --seconds`` for longer."""
    summary = run_seeds(10_000, None, 2000, jobs=2, limit_s=90)
    assert not summary.failures, [(outcome.seed, outcome.error) for outcome in summary.failures]
    assert summary.events > 20_000


@pytest.mark.requirement("X3")
def test_a_failing_run_is_shrunk_to_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChangeLog, "give_back", lambda self, old: setattr(self, "old", None))
    outcome = next(found for found in (run_seed(seed, 600) for seed in range(20)) if found.invariant == 2)
    script = shrink(outcome, tries=40)
    assert len(script) < len(outcome.trace) * 0.7
    assert run_seed(outcome.seed, 0, script).invariant == 2


@pytest.mark.requirement("X3")
def test_a_blinded_checker_does_not_see_what_it_sees_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replkit.replication.primary.members_floor", lambda _save, root: root.last.number)
    seed = next(seed for seed in range(20) if run_seed(seed, 600).invariant == 7)
    assert run_seed(seed, 600, blind=frozenset({7})).invariant != 7


@pytest.mark.requirement("X3")
def test_the_command_tells_how_to_repeat_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--seeds", "2", "--events", "150"]) == 0
    assert "events/s" in capsys.readouterr().out
    monkeypatch.setattr("replkit.snapshot.snapped.SnappedVolume.flush", lambda _self: None)
    assert main(["--seeds", "2", "--events", "300", "--no-shrink"]) == 1
    shown = capsys.readouterr().out
    assert "FAILED seed" in shown
    assert "repeat: python -m replkit.testing.sim --seed" in shown
    assert main(["--seed", "1", "--events", "50", "--trace", "--no-shrink"]) in {0, 1}
    assert "trace hash" in capsys.readouterr().out


def test_coverage_names_the_cells_that_were_not_met() -> None:
    coverage = Coverage()
    coverage.add("power failure", "primary")
    cannot = frozenset({("rot", "primary")})
    faults, phases = ("power failure", "rot"), ("primary", "playing")
    assert coverage.empty(faults, phases, cannot) == ["power failure x playing", "rot x playing"]
    assert coverage.table(faults, phases, cannot).splitlines()[-1].split() == ["rot", "-", "!"]
