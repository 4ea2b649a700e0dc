"""The parts of the proof: what each counts, how many there must be at least, and its pieces of work in order."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from replkit.testing.sim.runner import Summary

from .calls import Fault, all_faults, sampled
from .states import State, states_of
from .stories import ALL, SCENARIOS
from .story import VARIANTS
from .work import Piece

EVENTS = 3000
SEEDS_A_PIECE, STORIES_A_PIECE, INPUTS_A_PIECE, ROUNDS_A_PIECE = 2, 20, 1000, 5
KINDS = ("kills", "seeds", "calls", "states", "inputs")
CI_MINUTES = 15
"""The floors are for so long; a longer run has higher ones."""
LONG_TIMES = 4
"""From so many times as long on, every call of every story is a floor."""


@dataclass
class Part:
    """A kind of proof; ``share`` is its part of the time when all floors are reached."""

    kind: str
    what: str
    floor: int
    share: float
    pieces: Iterator[Any]
    count: int = 0
    seconds: float = 0.0
    failures: list[tuple[str, str]] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    coverage: Counter[tuple[str, str]] = field(default_factory=Counter)
    summary: Summary = field(default_factory=Summary)
    is_over: bool = False

    def take(self, piece: Piece) -> None:
        """Count a piece in."""
        self.count += piece.count
        self.seconds += piece.seconds
        self.failures += piece.failures
        self.notes.update(piece.notes)
        self.coverage.update(piece.coverage)
        for outcome in piece.outcomes:
            self.summary.add(outcome)
        self.summary.wall_s = self.seconds

    @property
    def is_met(self) -> bool:
        """Enough of them, and none broke."""
        return self.count >= self.floor and not self.failures


def all_parts(minutes: float, first_seed: int = 0, chosen: Collection[str] = KINDS) -> list[Part]:
    """The parts for a run of so many minutes; of them only those that were chosen."""
    times = minutes / CI_MINUTES
    kills, seeds, states, inputs = (max(1, round(each * times)) for each in (30, 1000, 5000, 300_000))
    is_long = times >= LONG_TIMES
    make: dict[str, Callable[[], Part]] = {
        "kills": lambda: Part("kills", "real kills of daemons under load", kills, 0.05, _kills(kills)),
        "seeds": lambda: Part("seeds", f"seeds of {EVENTS} events", seeds, 0.5, _seeds(first_seed)),
        "calls": lambda: Part("calls", "calls that failed, of stories of recovery", *_faults(is_long)),
        "states": lambda: Part("states", "crash states", states, 0.2, _states(is_long)),
        "inputs": lambda: Part("inputs", "mutated inputs of decoders", inputs, 0.05, _inputs()),
    }
    return [make[kind]() for kind in KINDS if kind in chosen]


def _seeds(first: int) -> Iterator[tuple[int, int, int]]:
    return ((seed, SEEDS_A_PIECE, EVENTS) for seed in count(first, SEEDS_A_PIECE))


def _kills(kills: int) -> Iterator[tuple[int, int]]:
    return ((ROUNDS_A_PIECE, seed) for seed in range(-(-kills // (2 * ROUNDS_A_PIECE))))


def _inputs() -> Iterator[tuple[int, int]]:
    return ((seed, INPUTS_A_PIECE) for seed in count(1))


def _faults(is_long: bool) -> tuple[int, float, Iterator[list[tuple[str, int, Fault]]]]:
    """Floor, share and pieces: some calls of each kind at each site of each story, then all others in any order.

    In the long run every call of every story is a floor.
    """
    whole = {scenario.name: all_faults(scenario) for scenario in ALL}
    first = [(name, 0, fault) for name, faults in whole.items() for fault in sampled(faults, 3)]
    random.Random(1).shuffle(first)  # so that a run that is cut short has some of each story
    chosen = set(first)
    rest = [each for name, faults in whole.items() for fault in faults if (each := (name, 0, fault)) not in chosen]
    random.Random(0).shuffle(rest)
    floor = len(first) + (len(rest) if is_long else 0)

    def pieces() -> Iterator[list[tuple[str, int, Fault]]]:
        yield from _batches([*first, *rest])
        for variant in range(1, len(VARIANTS)):
            more = [(each.name, variant, fault) for each in ALL for fault in all_faults(each, VARIANTS[variant])]
            random.Random(variant).shuffle(more)
            yield from _batches(more)

    return floor, 0.2, pieces()


def _states(is_long: bool) -> Iterator[list[tuple[str, int, State]]]:
    """Some states of each site of each story and variant, which are told apart by what they hold; then all others."""
    a_call, at_first = (300, 600) if is_long else (20, 80)
    rest: list[tuple[str, int, State]] = []
    chance = random.Random(0)
    stories = [(number, scenario) for number in range(len(VARIANTS)) for scenario in SCENARIOS]
    chance.shuffle(stories)
    for number, scenario in stories:
        seen: set[bytes] = set()
        for site in scenario.make(VARIANTS[number]).world.fault_sites:
            states = states_of(scenario, site, VARIANTS[number], a_call=a_call, seen=seen)
            found = [(scenario.name, number, state) for state in states]
            chance.shuffle(found)
            rest += found[at_first:]
            yield from _batches(found[:at_first])
    chance.shuffle(rest)
    yield from _batches(rest)


def _batches(items: list[Any]) -> Iterator[list[Any]]:
    return (items[at : at + STORIES_A_PIECE] for at in range(0, len(items), STORIES_A_PIECE))
