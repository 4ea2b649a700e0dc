"""Runs many seeds, in several processes, and tells what they met: counts, speed, faults by phase, failures."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import count, islice

from replkit.testing.sim.coverage import CANNOT, Coverage
from replkit.testing.sim.faults import KINDS, PHASES
from replkit.testing.sim.simulation import Outcome, run_seed

ALL_PHASES = (*dict.fromkeys(PHASES.values()), "cutting", "giving a copy", "giving a difference", "playing")


@dataclass(kw_only=True)
class Summary:
    """What all seeds together met."""

    seeds: int = 0
    events: int = 0
    simulated_s: float = 0.0
    wall_s: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    coverage: Coverage = field(default_factory=Coverage)
    failures: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Take a run in."""
        self.seeds += 1
        self.events += outcome.events
        self.simulated_s += outcome.simulated_s
        self.counts.update(outcome.counts)
        self.coverage.update(outcome.coverage)
        if outcome.error:
            self.failures.append(outcome)

    @property
    def empty_cells(self) -> list[str]:
        """Fault and phase that were possible and not met."""
        return self.coverage.empty(KINDS, ALL_PHASES, CANNOT)

    def text(self) -> str:
        """For people."""
        speed = self.events / max(self.wall_s, 1e-9)
        days = self.simulated_s / 86400 / max(self.wall_s / 60, 1e-9)
        counts = ", ".join(f"{name} {number}" for name, number in sorted(self.counts.items()))
        return (
            f"{self.coverage.table(KINDS, ALL_PHASES, CANNOT)}\n"
            f"empty cells: {len(self.empty_cells)} {'; '.join(self.empty_cells[:10])}\n{counts}\n"
            f"{self.seeds} seeds, {self.events} events in {self.wall_s:.0f} s: {speed:.0f} events/s, "
            f"{days:.1f} simulated days a minute; {len(self.failures)} failures"
        )


def run_seeds(
    first: int,
    seeds: int | None,
    events: int,
    *,
    jobs: int = 1,
    limit_s: float | None = None,
    on_failure: Callable[[Outcome], None] = lambda _outcome: None,
) -> Summary:
    """Run seeds from ``first`` on: so many, or as many as fit into ``limit_s``."""
    summary, started = Summary(), time.monotonic()
    numbers = count(first) if seeds is None else iter(range(first, first + seeds))

    def take(outcome: Outcome) -> None:
        summary.add(outcome)
        summary.wall_s = time.monotonic() - started
        if outcome.error:
            on_failure(outcome)

    def may_go_on() -> bool:
        return limit_s is None or time.monotonic() - started < limit_s

    if jobs <= 1:
        for seed in numbers:
            if not may_go_on():
                break
            take(run_seed(seed, events))
    else:
        _run_in_processes(numbers, events, jobs, take, may_go_on)
    return summary


def _run_in_processes(
    numbers: Iterator[int],
    events: int,
    jobs: int,
    take: Callable[[Outcome], None],
    may_go_on: Callable[[], bool],
) -> None:
    with ProcessPoolExecutor(min(jobs, os.cpu_count() or jobs)) as pool:
        running: set[Future[Outcome]] = {pool.submit(run_seed, seed, events) for seed in islice(numbers, jobs * 2)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for each in done:
                take(each.result())
                seed = next(numbers, None) if may_go_on() else None
                if seed is not None:
                    running.add(pool.submit(run_seed, seed, events))
