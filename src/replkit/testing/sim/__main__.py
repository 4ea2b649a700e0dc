"""``python -m replkit.testing.sim``: run seeds, or one seed with its trace; exit status 1 when an invariant broke."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from replkit.testing.sim.runner import run_seeds
from replkit.testing.sim.shrink import shrink
from replkit.testing.sim.simulation import Outcome, run_seed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m replkit.testing.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=None, help="how many seeds (default 100, or what --seconds allow)")
    parser.add_argument("--seconds", type=float, default=None, help="begin no further seed after so long")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--events", type=int, default=3000, help="events a seed, healing not counted (default 3000)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--seed", type=int, default=None, help="run this one seed")
    parser.add_argument("--trace", action="store_true", help="with --seed: print every event")
    parser.add_argument("--no-shrink", action="store_true", help="do not look for a shorter run that fails")
    given = parser.parse_args(arguments)
    if given.seed is not None:
        return _run_one(given.seed, given.events, trace=given.trace, shrinks=not given.no_shrink)
    seeds = given.seeds if given.seeds is not None or given.seconds is not None else 100
    summary = run_seeds(
        given.first,
        seeds,
        given.events,
        jobs=given.jobs,
        limit_s=given.seconds,
        on_failure=lambda outcome: _tell(outcome, given.events),
    )
    if summary.failures and not given.no_shrink:
        _print_short(summary.failures[0])
    _say(summary.text())
    return 1 if summary.failures else 0


def _run_one(seed: int, events: int, *, trace: bool, shrinks: bool) -> int:
    outcome = run_seed(seed, events, keep=True)
    if trace:
        for number, event in enumerate(outcome.trace):
            _say(f"{number} {event}")
    _say(f"seed {seed}: {outcome.events} events, trace hash {outcome.trace_hash}, {dict(outcome.counts)}")
    if not outcome.error:
        return 0
    _tell(outcome, events)
    if shrinks:
        _print_short(outcome)
    return 1


def _tell(outcome: Outcome, events: int) -> None:
    _say(f"FAILED seed {outcome.seed} after {outcome.events} events: {outcome.error}")
    _say(f"  repeat: python -m replkit.testing.sim --seed {outcome.seed} --events {events} --trace")


def _print_short(outcome: Outcome) -> None:
    script = shrink(outcome)
    _say(f"seed {outcome.seed} breaks invariant {outcome.invariant} with {len(script)} events of {len(outcome.trace)}:")
    for event in script:
        _say(f"  {event}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
