"""Bugs that seeds of the simulator found, as what is left of the seed: each ends with a healed world (X3).

A script has an event a line, as the simulator prints them: kind, site, other site, two numbers.
"""

from __future__ import annotations

import pytest

from replkit.testing.sim.scale import small_sizes
from replkit.testing.sim.simulation import Simulation
from replkit.testing.sim.topology import Options
from replkit.testing.sim.workload import Event

ROLLED_BACK = """
save_state a - 0 0; clone a b 3 0; write a - 0 1; operate b a 11 1723; operate a a 5 1823; step a resync 0 0
rollback a b 2 0; write a - 42 1
"""
SMALLER = """
write a - 37 8; operate a a 10 15; step a send:d 0 0; step d receive 0 0; step a send:b 0 0; step a members 0 0
step a send:d 0 0; step a send:d 0 0; step b receive 0 0; resize a - 17 0; step a send:b 0 0; step a send:b 0 0
step a send:b 0 0; step b receive 0 0; step d receive 0 0; promote d - 0 605
"""
JOINED_TOGETHER = """
operate a c 4 1; step a send:c 0 0; step a send:b 0 0; step b receive 0 0; step a send:b 0 0; step c receive 0 0
step a members 0 0; step a send:b 0 0; step a send:b 0 0; step a send:c 0 0; step b receive 0 0; step a send:c 0 0
clone b a 5 0; step c receive 0 0; operate a c 8 544; lost_reply c b 4 0; snapshot c c 0 684; step c trimmer 0 0
zero c - 61 3; operate c c 3 750; step c members 0 0; write c - 55 8
"""
REMOVED = """
operate a c 2 152; step a members 0 0; step a send:b 0 0; step b receive 0 0; step a send:b 0 0; step a send:b 0 0
step b receive 0 0; promote b - 1 328; write b - 18 8; write b - 5 8; operate b a 6 624; step a resync 0 0
step b send:a 0 0; step a receive 0 0; discard b - 45 2; step b members 0 0; step b send:a 0 0; step b send:a 0 0
sync_error a b 3 0; step b send:a 0 0; step a receive 0 0; remove b a 8 884
"""


def events(script: str) -> list[Event]:
    found = []
    for line in script.replace("\n", ";").split(";"):
        if line.strip():
            kind, site, other, a, b = line.split()
            found.append(Event(kind.replace("_", " "), site, other.strip("-"), int(a), int(b)))
    return found


@pytest.mark.requirement("X3", "R4", "R6", "R9")
@pytest.mark.parametrize(
    ("seed", "options", "script"),
    [
        pytest.param(684, Options(names="abc", blocks=64, block_size=1024), ROLLED_BACK, id="rolled back"),
        pytest.param(
            1013, Options(names="abcd", blocks=48, sets_bytes=90112, areas_bytes=24576), SMALLER, id="made smaller"
        ),
        pytest.param(9, Options(names="abc"), REMOVED, id="removed and added again"),
        pytest.param(673, Options(names="abc", blocks=64), JOINED_TOGETHER, id="joined together"),
    ],
)
def test_what_is_left_of_a_seed_breaks_nothing(seed: int, options: Options, script: str) -> None:
    with small_sizes():
        outcome = Simulation(seed, options=options).run(0, events(script))
    assert not outcome.error
    assert outcome.events > len(events(script))
