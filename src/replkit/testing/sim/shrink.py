"""Makes a failing run short: drops events, in halves and then smaller parts, while the same invariant still breaks."""

from __future__ import annotations

from collections.abc import Sequence

from replkit.testing.sim.simulation import Outcome, run_seed
from replkit.testing.sim.workload import Event


def shrink(outcome: Outcome, *, tries: int = 400, blind: frozenset[int] = frozenset()) -> list[Event]:
    """The shortest script found in so many ``tries`` that breaks the same invariant in the world of that seed."""
    left = tries

    def fails(script: Sequence[Event]) -> bool:
        nonlocal left
        left -= 1
        return run_seed(outcome.seed, 0, script, blind=blind).invariant == outcome.invariant

    script = list(outcome.trace)
    if not fails(script):
        return script
    part = len(script) // 2
    while part and left > 0:
        at = 0
        while at < len(script) and left > 0:
            shorter = script[:at] + script[at + part :]
            if fails(shorter):
                script = shorter
            else:
                at += part
        part //= 2
    return script
