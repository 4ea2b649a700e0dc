"""What a process of the proof does: small pieces of each part, each of some seconds."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.fuzz.mutation import EscapedError, fuzz
from tests.fuzz.targets import Target, all_targets

from replkit.testing.sim.simulation import Outcome, run_seed

from .calls import Fault, Told, by_name, tell
from .states import State, tell_state
from .story import VARIANTS

ROOT = Path(__file__).parents[2]
CRASH_ROUNDS = ROOT / "tests" / "system" / "crash_rounds.py"


@dataclass
class Piece:
    """What came of a piece of work; a failure is its text and the command that repeats it."""

    count: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    coverage: Counter[tuple[str, str]] = field(default_factory=Counter)
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0


def quiet() -> None:
    """Errors of the code under test are expected; only what breaks is told."""
    logging.disable(logging.CRITICAL)


def work(kind: str, arguments: Any) -> Piece:
    """Do a piece; ``kind`` is the name of its part."""
    began_s = time.monotonic()
    piece = _KINDS[kind](arguments)
    piece.seconds = time.monotonic() - began_s
    return piece


def _seeds(arguments: tuple[int, int, int]) -> Piece:
    first, count, events = arguments
    piece = Piece()
    for seed in range(first, first + count):
        outcome = run_seed(seed, events)
        outcome.trace.clear()  # the seed tells it again
        piece.outcomes.append(outcome)
        piece.count += 1
        if outcome.error:
            repeat = f"python -m replkit.testing.sim --seed {seed} --events {events} --trace"
            piece.failures.append((f"seed {seed}: {outcome.error}", repeat))
    return piece


def _calls(faults: list[tuple[str, int, Fault]]) -> Piece:
    piece = Piece()
    for name, variant, fault in faults:
        _take(piece, tell(by_name(name), fault, VARIANTS[variant]), "calls")
    return piece


def _states(states: list[tuple[str, int, State]]) -> Piece:
    piece = Piece()
    for name, variant, state in states:
        _take(piece, tell_state(by_name(name), state, VARIANTS[variant]), "states")
    return piece


def _take(piece: Piece, end: Told, kind: str) -> None:
    piece.count += end.came_true
    piece.notes["healed by an operator"] += not end.finished
    piece.notes["did not come true"] += not end.came_true
    piece.coverage.update(end.coverage)
    if end.error:
        piece.failures.append((f"{end.name}: {end.error}", f"python -m tests.proof --repeat '{kind}:{end.name}'"))


@cache
def _targets() -> list[Target]:
    return all_targets()


def _inputs(arguments: tuple[int, int]) -> Piece:
    seed, each = arguments
    piece = Piece()
    for target in _targets():
        try:
            piece.count += fuzz(target, seed, each).inputs
        except EscapedError as error:
            inputs = each * len(_targets())
            piece.failures.append((str(error), f"python -m tests.fuzz --inputs {inputs} --seed {seed}"))
    return piece


def _kills(arguments: tuple[int, int]) -> Piece:
    """Real daemons, in a process of its own; what they had not synced is lost in every second piece."""
    rounds, seed = arguments
    command = [sys.executable, str(CRASH_ROUNDS), "--rounds", str(rounds), "--seed", str(seed)]
    command += ["--size-mib", "8", *(["--forgetful"] if seed % 2 else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        return Piece(failures=[(f"kills: {(done.stderr or done.stdout)[-2000:]}", " ".join(["python", *command[1:]]))])
    return Piece(count=2 * rounds)


_KINDS = {"seeds": _seeds, "calls": _calls, "states": _states, "inputs": _inputs, "kills": _kills}


def repeat(text: str) -> Told:
    """Tell a story again: ``calls:STORY:VARIANT:KIND:SITE:CALL`` or ``states:STORY:VARIANT:SITE:CALL:PARTS:TORN``."""
    kind, name, variant, *rest = text.split(":")
    if kind == "calls":
        fault, site, call = rest
        return tell(by_name(name), Fault(fault, site, int(call)), VARIANTS[int(variant)])
    site, call, parts, torn = rest
    state = State(site, int(call), tuple(int(part) for part in parts.split(",") if part), int(torn))
    return tell_state(by_name(name), state, VARIANTS[int(variant)])
