"""The one command of the proof: floors, exit status, failures that can be repeated, time shared out."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import repeat

import pytest
from tests.simulation.planted import PLANTS

from replkit.testing.sim.faults import STORE_FAULTS

from . import parts
from .__main__ import main, table
from .buckets import BUCKET_FAULTS
from .calls import LINK_FAULTS, POWER, by_name, count_calls
from .parts import Part
from .sharing import _next_part
from .work import Piece


@pytest.fixture(autouse=True)
def _logging_again() -> Iterator[None]:
    """The command switches logging off, for the rest of its process."""
    yield
    logging.disable(logging.NOTSET)


def part(kind: str, *, count: int = 0, floor: int = 10, seconds: float = 0.0, share: float = 0.5) -> Part:
    made = Part(kind, kind, floor, share, repeat(None))
    made.take(Piece(count=count, seconds=seconds))
    return made


@pytest.mark.requirement("X3")
def test_a_run_that_comes_to_its_floors_ends_well_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--minutes", "0.02", "--jobs", "1", "--parts", "inputs"]) == 0
    shown = capsys.readouterr().out
    assert "mutated inputs of decoders" in shown
    assert "NOT MET" not in shown


def test_a_run_that_does_not_come_to_a_floor_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parts, "CI_MINUTES", 0.0001)
    assert main(["--minutes", "0.0001", "--jobs", "1", "--parts", "inputs"]) == 1
    assert "NOT MET" in capsys.readouterr().out


def test_a_failure_is_told_with_the_command_that_repeats_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Processes of the run are forks, so they have the planted bug too."""
    story = "calls:writes and cuts:0:save full:a:3"
    assert main(["--repeat", story]) == 0
    assert main(["--repeat", "states:playback:1:b:6::0"]) == 0
    assert "as it should be; 1 crashes" in capsys.readouterr().out
    PLANTS["abandoned-cut"].plant(monkeypatch)
    assert main(["--repeat", story]) == 1
    monkeypatch.setattr(parts, "ALL", [by_name("writes and cuts")])
    assert main(["--minutes", "0.25", "--jobs", "1", "--parts", "calls"]) == 1
    shown = capsys.readouterr().out
    assert "FAILED calls: writes and cuts:0:save full:a:" in shown
    assert "repeat: python -m tests.proof --repeat 'calls:writes and cuts:0:save full:a:" in shown


def test_floors_come_first_then_the_time_is_shared_out() -> None:
    low, high = part("low", count=2), part("high", count=9)
    assert _next_part([high, low], {}) is low
    busy, idle = part("busy", count=10, seconds=90.0), part("idle", count=10, seconds=10.0)
    assert _next_part([busy, idle], {}) is idle
    assert _next_part([busy, idle, high], {}) is high
    assert _next_part([busy, idle, high], {}, only_floors=True) is high
    assert _next_part([busy, idle], {}, only_floors=True) is None
    assert "NOT MET" in table([high])
    assert "NOT MET" not in table([busy])


@pytest.mark.requirement("X3")
def test_the_floors_are_those_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    two = [by_name("playback"), by_name("playback, B in a bucket")]
    monkeypatch.setattr(parts, "ALL", two)
    short = {each.kind: each.floor for each in parts.all_parts(15)}
    assert (short["seeds"], short["states"], short["inputs"], short["kills"]) == (1000, 5000, 300_000, 30)
    long = {each.kind: each.floor for each in parts.all_parts(90)}
    assert long["calls"] == sum(sum(count_calls(scenario).values()) for scenario in two) > 2 * short["calls"]
    assert {kind for scenario in two for kind, _site in count_calls(scenario)} == {
        POWER, *LINK_FAULTS, *STORE_FAULTS, *BUCKET_FAULTS,
    }  # fmt: skip
