"""Deliberate breaks of the code under the simulator: bug, seeds needed, the check that caught it (DESIGN section 10).

``python -m tests.simulation.planted`` runs them all and prints the table; names as arguments choose some.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import pytest
from tests.simulation import plants_disk, plants_recovery, plants_replication
from tests.simulation.planting import Plant

from replkit.testing.sim.simulation import run_seed

SEEDS, EVENTS = 60, 1200
PLANTS: dict[str, Plant] = {
    plant.name: plant for plant in (*plants_disk.PLANTS, *plants_replication.PLANTS, *plants_recovery.PLANTS)
}


class Found(NamedTuple):
    """How a bug was found; ``seeds`` is 0 when it was not."""

    name: str
    seeds: int
    caught_by: int | None
    seconds: float


def hunt(name: str, seeds: int = SEEDS, events: int = EVENTS) -> Found:
    """Plant a bug and run seeds until a check fails."""
    plant, started = PLANTS[name], time.monotonic()
    for number in range(seeds):
        with pytest.MonkeyPatch.context() as patch:
            plant.plant(patch)
            try:
                caught = run_seed(plant.first_seed + number, events).invariant
            except Exception:  # the code broke down in a way that no check foresees: found as well
                caught = 12
        if caught is not None:
            return Found(name, number + 1, caught, time.monotonic() - started)
    return Found(name, 0, None, time.monotonic() - started)


def table(found: Iterable[Found]) -> str:
    """A table in Markdown."""
    lines = ["| planted bug | invariant | as in | seeds | caught by the check of |", "|---|---|---|---|---|"]
    for each in found:
        plant = PLANTS[each.name]
        by = "**not found**" if each.caught_by is None else str(each.caught_by or "convergence")
        lines.append(f"| {plant.text} | {plant.invariant} | {plant.twin} | {each.seeds or SEEDS} | {by} |")
    return "\n".join(lines)


def main(words: list[str], say: Callable[[str], object] = print) -> int:
    """Run and print; 1 when a bug was not found."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.planted", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"a planted bug (default: all): {', '.join(PLANTS)}")
    names = parser.parse_args(words).name
    if unknown := sorted(set(names) - PLANTS.keys()):
        parser.error(f"no planted bug is called {', '.join(unknown)}")
    chosen = names or list(PLANTS)
    with ProcessPoolExecutor(2) as pool:
        found = list(pool.map(hunt, chosen))
    say(table(found))
    missed = [each.name for each in found if not each.seeds]
    seeds = sum(each.seeds or SEEDS for each in found)
    say(f"\n{len(found) - len(missed)} of {len(found)} found with {seeds} seeds; missed: {', '.join(missed) or 'none'}")
    slowest = sorted(found, key=lambda each: -each.seconds)[:5]
    say("slowest: " + ", ".join(f"{each.name} {each.seconds:.0f} s" for each in slowest))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
