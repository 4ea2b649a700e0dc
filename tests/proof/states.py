"""Crash states: every state that a power failure may leave on a disk and in a save volume (FAULTS.md, "Crash states").

A story is told once, and at each call of a site that changes something it is noted what waits there: writes since the
last flush, records and deletions since the last sync. The prefix of the log up to that call, and which of what waits
survives, make one state: nothing, all, all with the last write torn at each sector, and every subset of up to ten
(drawn above that). The story is told again up to that call, the power fails, just that survives, the site is opened,
and the story goes on to its end under all checks. States are counted by what they hold, so that none counts twice.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from xxhash import xxh3_128

from replkit.testing.sim.scale import small_sizes
from replkit.testing.sim.topology import FaultSite

from .calls import Told, told
from .stories import Scenario
from .story import Story, Variant

EXHAUSTIVE = 10
"""Of so many waiting parts all subsets are enumerated."""


class State(NamedTuple):
    """The power fails at the ``call``-th call of a site, and of what waits the parts of these numbers survive.

    Writes are numbered first, then records put, then records deleted. ``torn`` is for the last write: it survives up to
    that sector; 0 is for a whole one.
    """

    site: str
    call: int
    parts: tuple[int, ...]
    torn: int = 0


def states_of(scenario: Scenario, site: str, variant: Variant, *, a_call: int, seen: set[bytes]) -> list[State]:
    """At most so many states of each call of a site, without those whose content was ``seen``."""
    found: list[State] = []
    chance = random.Random(f"{scenario.name}/{site}/{variant}")
    with small_sizes():
        story = scenario.make(variant)
        scenario.before(story)
        at, calls = story.site(site), 0

        def note() -> None:
            nonlocal calls
            calls += 1
            for state in islice(_choices(at, calls, chance), a_call):
                digest = _digest(at, state)
                if digest not in seen:
                    seen.add(digest)
                    found.append(state)

        at.plug.on_spend = note
        scenario.acts(story)
        at.plug.on_spend = None
    return found


def tell_state(scenario: Scenario, state: State, variant: Variant) -> Told:
    """The story with a power failure that leaves just this."""

    def prepare(story: Story) -> None:
        at = story.site(state.site)
        at.plug.outcome = lambda: _survive(at, state)
        at.plug.fail_at(state.call)

    parts = ",".join(map(str, state.parts))
    end = told(scenario, f"{state.site}:{state.call}:{parts}:{state.torn}", prepare, variant)
    end.came_true = end.crashes > 0
    return end


def _choices(site: FaultSite, call: int, chance: random.Random) -> Iterator[State]:
    """The states of a call: the plain ones first, then torn ones, then subsets in any order."""
    disk = site.stack
    writes = disk.waiting
    everything = tuple(range(len(writes) + len(site.store.waiting)))
    yield State(site.name, call, ())
    if not everything:
        return
    yield State(site.name, call, everything)
    if writes:
        sectors = sum(versions[-1][0] == writes[-1] for versions in disk.pending.values())
        yield from (State(site.name, call, everything, torn) for torn in range(1, sectors))
    top = (1 << len(everything)) - 1
    if len(everything) <= EXHAUSTIVE:
        masks = list(range(1, top))
        chance.shuffle(masks)
    else:
        masks = [chance.randrange(1, top) for _ in range(1 << EXHAUSTIVE)]
    for mask in masks:
        yield State(site.name, call, tuple(number for number in everything if mask >> number & 1))


def _chosen(site: FaultSite, state: State) -> tuple[set[int], set[str]]:
    """Which writes and which keys the numbers mean."""
    writes, keys = site.stack.waiting, site.store.waiting
    return (
        {writes[number] for number in state.parts if number < len(writes)},
        {keys[number - len(writes)] for number in state.parts if number >= len(writes)},
    )


def _survive(site: FaultSite, state: State) -> None:
    writes, keys = _chosen(site, state)
    site.stack.survive(writes, state.torn)
    site.store.survive(keys)


def _digest(site: FaultSite, state: State) -> bytes:
    """Of all that the site would hold."""
    writes, keys = _chosen(site, state)
    content = bytearray(site.stack.durable)
    for sector, data in site.stack.survivors(writes, state.torn).items():
        content[sector * len(data) : (sector + 1) * len(data)] = data
    hashed = xxh3_128(bytes(content))
    for key, record in sorted(site.store.survivors(keys).items()):
        hashed.update(f"{key} {len(record)} ".encode())
        hashed.update(record)
    for name in site.store.cells():
        hashed.update(f"{name} {site.store.load(name)}".encode())
    return hashed.digest()
