"""A bad plugin fails the kit, and the message says what is wrong; the right one of which it is made passes.

The plugins and the suites over them are in ``flawed_*.py``; pytest runs over those files in a process of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NamedTuple

import pytest

FILES = sorted(Path(__file__).parent.glob("flawed_*.py"))
ROOT = Path(__file__).parents[2]
ENOUGH_S = 360


class Flaw(NamedTuple):
    """A test of a suite over a bad plugin, and words of the message with which it fails."""

    test: str
    words: str


FLAWS = [
    # volumes
    Flaw(
        "TestFlushDoesNothing::test_a_power_failure_loses_nothing_that_was_flushed[0]",
        r"sector \d+ \(block \d+\) holds neither what the last flush made durable nor anything written since",
    ),
    Flaw(
        "TestFlushDoesNothing::test_a_flush_covers_what_other_threads_wrote_before_it", "before the flush, and are lost"
    ),
    Flaw(
        "TestFlushDoesNothingInSimulator::test_the_standard_scenarios_under_faults[1]",
        r"contract of the backend at b: after a power failure sector \d+ .* flush returned too early",
    ),
    Flaw("TestDiscardForgets::test_a_discarded_block_reads_as_zeros", "a discarded block does not read as zeros"),
    Flaw(
        "TestDiscardForgetsInSimulator::test_the_standard_scenarios[a]",
        r"contract of the backend at a: .*blocks \[[0-9, ]+\] do not hold what was written last",
    ),
    Flaw("TestInUseMisses::test_in_use_covers_what_was_written", r"in_use leaves out blocks \[.*every copy would lose"),
    Flaw(
        "TestInUseMissesInSimulator::test_the_standard_scenarios[a]",
        r"contract of the backend at a: in_use leaves out blocks",
    ),
    Flaw(
        "TestLosesTheLastOfABatch::test_extents_are_read_and_written_like_single_runs",
        "write_extents lost its write at block 5",
    ),
    Flaw(
        "TestReadsFromMemory::test_bytes_changed_in_the_store_are_read", "a read came from memory, not from the store"
    ),
    Flaw(
        "TestDeclaresTooMuch::test_capabilities_are_the_declared_ones", "resizes is EMULATED, the suite declares NATIVE"
    ),
    # save volumes
    Flaw(
        "TestSyncDoesNothing::test_after_a_power_failure_a_record_is_whole_or_absent[0]",
        r"record \S+ was synced, and is gone after a power failure",
    ),
    Flaw(
        "TestSyncDoesNothingInSimulator::test_the_standard_scenarios_under_faults[2]",
        r"contract of the backend at a: record \S+ was synced, and is gone after a power failure",
    ),
    Flaw(
        "TestPutLeavesHalf::test_after_a_power_failure_a_record_is_whole_or_absent[0]",
        r"record \S+ came back damaged after a power failure; it must be whole or absent",
    ),
    Flaw(
        "TestSwapIsNotAtomic::test_of_two_swappers_one_wins_each_time",
        r"50 swaps of two openers counted to .*not atomic",
    ),
    Flaw("TestSwapLooksAtNoVersion::test_a_swap_at_another_version_changes_nothing", "a swap at version 0 of 1 gave 1"),
    Flaw("TestListMisses::test_list_is_sorted_and_keeps_to_the_prefix", r"list of '' leaves out \['sets/x'\]"),
    Flaw(
        "TestListMissesInSimulator::test_the_standard_scenarios[a]",
        r"contract of the backend at a: list .*leaves out",
    ),
    Flaw("TestBelievesItsBytes::test_rotten_bytes_are_found", "did not see that they are damaged"),
    Flaw(
        "TestReadsDeletedRecords::test_deleted_records_are_gone_and_absent_ones_are_passed_over",
        "get of a deleted record gave b'one'",
    ),
    # transports
    Flaw("TestReorders::test_messages_keep_their_order", "message 8 was to come, b'9' came: out of order, or lost"),
    Flaw("TestReordersInSimulator::test_the_standard_scenarios[a]", "messages are out of order or lost"),
    Flaw("TestDrops::test_messages_keep_their_order", "message 6 was to come, b'7' came: out of order, or lost"),
    Flaw("TestDropsInSimulator::test_the_standard_scenarios[a]", r"messages are out of order or lost|it is lost"),
    Flaw("TestChanges::test_a_message_arrives_as_it_was_sent", "a message was changed on its way"),
    Flaw("TestChangesInSimulator::test_the_standard_scenarios[a]", "messages are changed"),
    Flaw("TestReusesItsBuffer::test_a_received_payload_stays_as_it_is", "a payload changed when the next message came"),
    Flaw("TestCloseWakesNobody::test_close_wakes_a_receive_here_and_there", "DID NOT RAISE|did not return"),
]
RIGHT = [
    "TestCachedVolume::test_a_power_failure_loses_nothing_that_was_flushed[0]",
    "TestCachedVolumeInSimulator::test_the_standard_scenarios_under_faults[1]",
    "TestCachedSaveVolume::test_after_a_power_failure_a_record_is_whole_or_absent[0]",
    "TestCachedSaveVolumeInSimulator::test_the_standard_scenarios_under_faults[2]",
    "TestWrapped::test_messages_keep_their_order",
    "TestWrappedInSimulator::test_the_standard_scenarios[a]",
]


def verdicts(tmp: Path, *words: str) -> dict[str, str]:
    """Each test that ran, as ``Class::test``, and the message with which it failed; empty if it passed."""
    report = tmp / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *words]
    wordy = {**os.environ, "CI": "true"}  # pytest then leaves nothing out of a difference, however large
    done = subprocess.run(command, cwd=ROOT, env=wordy, capture_output=True, text=True, timeout=ENOUGH_S, check=False)
    said = f"pytest ended with {done.returncode}\n{done.stdout[-20_000:]}\n{done.stderr[-5000:]}"
    assert done.returncode in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}, said
    found = {}
    for case in ET.parse(report).iter("testcase"):
        if case.find("skipped") is None:
            failures = [*case.iter("failure"), *case.iter("error")]
            name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
            found[name] = "\n".join(f"{failure.get('message')}\n{failure.text}" for failure in failures)
    return found


def place(test: str) -> str:
    """A test as pytest wants it named, with its file."""
    suite = test.partition("::")[0]
    return next(f"{file}::{test}" for file in FILES if f"class {suite}(" in file.read_text())


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    names = [*RIGHT, *(flaw.test for flaw in FLAWS)]
    return verdicts(tmp_path_factory.mktemp("kit"), *map(place, names))


@pytest.mark.requirement("U1", "U4")
@pytest.mark.parametrize("flaw", FLAWS, ids=lambda flaw: flaw.test)
def test_a_bad_plugin_fails_with_words_that_say_why(chosen: dict[str, str], flaw: Flaw) -> None:
    assert chosen[flaw.test], f"{flaw.test} passed"
    assert re.search(flaw.words, chosen[flaw.test]), chosen[flaw.test][-3000:]


@pytest.mark.parametrize("name", RIGHT)
def test_the_plugin_without_the_flaw_passes(chosen: dict[str, str], name: str) -> None:
    assert chosen[name] == ""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_bad_plugin_fails_its_suite_and_every_right_one_passes(tmp_path: Path) -> None:
    """All suites over all of them, a process for each file: threads that bad transports leave would slow the others."""
    failing: dict[str, int] = {}
    for file in FILES:
        for name, message in verdicts(tmp_path, str(file)).items():
            suite = name.partition("::")[0]
            failing[suite] = failing.get(suite, 0) + bool(message)
    right = {suite for suite in failing if suite.startswith(("TestCached", "TestWrapped"))}
    assert {suite for suite, count in failing.items() if not count} == right
    assert len(failing) - len(right) >= 24
