"""The n-th call fails: every story, every site, every kind of fault, every n (FAULTS.md, "n-th call fails").

A story is told once without faults, to count the calls of each kind. Then it is told again for each n: the n-th call
fails, the rest goes on as the story says, all is healed, and the checker and the story compare.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from replkit.testing.crashing import PowerFailure
from replkit.testing.sim.checker import BrokenInvariantError
from replkit.testing.sim.scale import small_sizes
from replkit.testing.sim.simruntime import StuckError

from .stories import ALL, Scenario
from .story import VARIANTS, Story, UnfinishedError, Variant

POWER = "power failure"
LINK_FAULTS = ("link cut", "lost reply", "garbled payload")
FAR = 1 << 60


class Fault(NamedTuple):
    """The ``call``-th call of a kind from the beginning of the acts goes wrong, at a site or (``""``) on a link."""

    kind: str
    site: str
    call: int


@dataclass
class Told:
    """How a story ended."""

    name: str
    error: str = ""
    finished: bool = True
    """Whether the story came to its end by itself; if not, an operator healed what was left."""
    came_true: bool = False
    crashes: int = 0
    coverage: Counter[tuple[str, str]] = field(default_factory=Counter)


def arm(story: Story, fault: Fault) -> None:
    """Let the fault come."""
    kind, call = fault.kind, fault.call
    if kind == POWER:
        story.site(fault.site).plug.fail_at(call)
    elif kind == "link cut":
        story.world.net.break_after(call)
    elif kind == "lost reply":
        story.world.lose_reply_after(call)
    elif kind == "garbled payload":
        story.world.net.garble_after = call
    else:
        story.site(fault.site).plug.break_at(kind, call)


def tell(scenario: Scenario, fault: Fault | None = None, variant: Variant = VARIANTS[0]) -> Told:
    """Tell a story, with a fault or without."""
    if fault is None:
        return told(scenario, "", lambda _story: None, variant)
    end = told(scenario, f"{fault.kind}:{fault.site}:{fault.call}", lambda story: arm(story, fault), variant)
    end.came_true = any(kind == fault.kind for kind, _phase in end.coverage)
    return end


def told(scenario: Scenario, name: str, prepare: Callable[[Story], None], variant: Variant) -> Told:
    """Tell a story to its end; ``prepare`` comes just before its acts. What breaks is in the result, not raised."""
    end = Told(f"{scenario.name}:{VARIANTS.index(variant)}:{name}")
    with small_sizes():
        story = scenario.make(variant)
        try:
            scenario.before(story)
            prepare(story)
            finish(scenario, story, end)
        except (BrokenInvariantError, StuckError) as error:
            end.error = str(error)
        except Exception:
            end.error = traceback.format_exc()
        except PowerFailure:
            end.error = "the power failed outside an event"
    end.crashes = sum(site.crashes for site in story.world.fault_sites.values())
    end.coverage = story.sim.coverage.cells
    return end


def finish(scenario: Scenario, story: Story, end: Told) -> None:
    """The acts, and what healing makes of them."""
    try:
        scenario.acts(story)
    except UnfinishedError:
        end.finished = False
    story.finish(scenario.primary, done=end.finished)


def count_calls(scenario: Scenario, variant: Variant = VARIANTS[0]) -> dict[tuple[str, str], int]:
    """(kind, site): how many calls of a kind the acts make; links have no site."""
    with small_sizes():
        story = scenario.make(variant)
        scenario.before(story)
        sites, net = story.world.fault_sites, story.world.net
        spent = {name: site.plug.calls for name, site in sites.items()}
        messages, calls = net.messages, story.world.calls
        net.garble_after = FAR
        for site in sites.values():
            for kind in story.store_faults(site.name):
                site.plug.break_at(kind, FAR)
        scenario.acts(story)
    counts = {(POWER, name): site.plug.calls - spent[name] for name, site in sites.items()}
    counts |= {
        (kind, name): FAR - (site.plug.left(kind) or FAR)
        for name, site in sites.items()
        for kind in story.store_faults(name)
    }
    counts["link cut", ""] = net.messages - messages
    counts["lost reply", ""] = story.world.calls - calls
    counts["garbled payload", ""] = FAR - (net.garble_after or FAR)
    return counts


def all_faults(scenario: Scenario, variant: Variant = VARIANTS[0]) -> list[Fault]:
    """Every fault of a story."""
    counts = count_calls(scenario, variant)
    return [Fault(kind, site, call) for (kind, site), count in counts.items() for call in range(1, count + 1)]


def sampled(faults: list[Fault], most: int) -> Iterator[Fault]:
    """So many of each kind at each site, evenly, the first and the last among them."""
    groups: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        groups.setdefault((fault.kind, fault.site), []).append(fault)
    for group in groups.values():
        if len(group) <= most:
            yield from group
        else:
            yield from (group[at * (len(group) - 1) // max(1, most - 1)] for at in range(most))


def by_name(name: str) -> Scenario:
    """A story of the table."""
    return next(scenario for scenario in ALL if scenario.name == name)
