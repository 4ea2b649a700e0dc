"""A small part of the proof of recovery (``python -m tests.proof`` is the whole): R1-R9 under crashes and faults."""

from __future__ import annotations

import random

import pytest
from tests.simulation.planted import PLANTS

from .buckets import BUCKET_FAULTS
from .calls import Fault, all_faults, by_name, count_calls, tell
from .states import states_of, tell_state
from .stories import SCENARIOS
from .story import VARIANTS, Variant

RECOVERY = ("R1", "R2", "R3", "R4", "R5", "R6", "R7", "X2", "X3", "X4")


@pytest.mark.requirement(*RECOVERY)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_story_ends_as_it_says_when_nothing_fails(scenario, variant: Variant) -> None:
    end = tell(scenario, None, variant)
    assert (end.error, end.finished, end.crashes) == ("", True, 0)


@pytest.mark.requirement(*RECOVERY)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_call_that_fails_changes_nothing_of_the_end(scenario) -> None:
    """Invariant 9: the call in the middle of some kinds at some sites; the command takes all calls of all."""
    groups = sorted(count_calls(scenario).items())
    for (kind, site), count in groups[len(scenario.name) % 6 :: 6]:
        if count:
            end = tell(scenario, Fault(kind, site, 1 + count // 2))
            assert (end.error, end.finished) == ("", True), end.name


@pytest.mark.requirement("U2", "U3", "R1", "R4", "R7", "X3")
@pytest.mark.parametrize("kind", BUCKET_FAULTS)
@pytest.mark.parametrize("name", ["failover", "resync", "failback"])
def test_a_request_that_fails_changes_nothing_of_the_end(name: str, kind: str) -> None:
    """Invariant 9, with B in a bucket: the request in the middle of its kind."""
    scenario = by_name(f"{name}, B in a bucket")
    count = count_calls(scenario)[kind, "b"]
    end = tell(scenario, Fault(kind, "b", 1 + count // 2))
    assert (end.error, end.finished) == ("", True)
    assert end.came_true == bool(count)


@pytest.mark.requirement("T6", "U2")
@pytest.mark.parametrize("kind", ["409", "503"])
def test_a_set_whose_sync_failed_is_finished_in_its_session(kind: str) -> None:
    """Liveness: its header was there already when the end of the set was tried again."""
    scenario = by_name("writes and cuts, B in a bucket")
    for call in range(1, 5):
        end = tell(scenario, Fault(kind, "b", call))
        assert (end.error, end.finished) == ("", True)


@pytest.mark.requirement(*RECOVERY, "S4")
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_from_what_a_power_failure_leaves_the_story_goes_on(scenario) -> None:
    """Invariants 1 to 6 and 9: some states of each site, of blocks of two sectors, torn ones among them."""
    seen: set[bytes] = set()
    variant = VARIANTS[2]
    for site in scenario.make(variant).world.fault_sites:
        states = states_of(scenario, site, variant, a_call=4, seen=seen)
        for state in random.Random(scenario.name).sample(states, min(1, len(states))):
            end = tell_state(scenario, state, variant)
            assert (end.error, end.finished, end.came_true) == ("", True, True), end.name


def test_states_are_distinct_and_every_subset_is_among_them() -> None:
    scenario, variant = by_name("writes and cuts"), VARIANTS[2]
    seen: set[bytes] = set()
    states = states_of(scenario, "a", variant, a_call=70, seen=seen)
    assert len(states) == len(seen) == len(set(states))
    assert any(state.torn for state in states)
    call = max((state.call for state in states), key=lambda call: sum(each.call == call for each in states))
    assert sum(state.call == call for state in states) > 60
    assert states_of(scenario, "a", variant, a_call=70, seen=seen) == []


@pytest.mark.requirement("X3")
@pytest.mark.parametrize(
    ("plant", "name"),
    [
        ("intents-in-memory", "writes and cuts"),
        ("before-image-in-memory", "writes and cuts"),
        ("pass-not-announced", "playback"),
    ],
)
def test_states_show_a_planted_bug(monkeypatch: pytest.MonkeyPatch, plant: str, name: str) -> None:
    scenario, variant = by_name(name), VARIANTS[1]
    PLANTS[plant].plant(monkeypatch)
    assert not tell(scenario, None, variant).error
    states = [state for site in "ab" for state in states_of(scenario, site, variant, a_call=3, seen=set())]
    assert any(tell_state(scenario, state, variant).error for state in states)


@pytest.mark.requirement("X3")
@pytest.mark.parametrize(
    ("plant", "name", "kind"),
    [("abandoned-cut", "writes and cuts", "save full"), ("pass-goes-on", "playback", "write error")],
)
def test_failing_calls_show_a_planted_bug(monkeypatch: pytest.MonkeyPatch, plant: str, name: str, kind: str) -> None:
    scenario = by_name(name)
    PLANTS[plant].plant(monkeypatch)
    assert not tell(scenario).error
    assert any(tell(scenario, fault).error for fault in all_faults(scenario) if fault.kind == kind)
