"""A few rounds of ``crash_rounds.py``; its command line runs as many as one likes."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("crash_rounds.py")


def crash_rounds(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REPLKIT_")}
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment, check=False)


@pytest.mark.requirement("S5", "C4", "D5", "T6")
@pytest.mark.timeout(300)
def test_daemons_killed_under_load_lose_nothing_that_was_flushed() -> None:
    done = crash_rounds("--rounds", "2", "--forgetful", "--size-mib", "8")
    assert done.returncode == 0, done.stderr
    assert "nothing lost, nothing mixed: {'kills': {'a': 2, 'b': 2}" in done.stdout


@pytest.mark.slow
@pytest.mark.needs_tool("fio")
@pytest.mark.timeout(300)
@pytest.mark.requirement("S5", "C4", "D5")
def test_daemons_killed_under_fio_lose_nothing_that_fio_was_told() -> None:
    done = crash_rounds("--rounds", "3", "--load", "fio", "--size-mib", "64")
    assert done.returncode == 0, done.stderr
    assert "nothing lost, nothing mixed: {'kills': {'a': 3, 'b': 3}" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_second_full_copy_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    rounds = importlib.import_module("crash_rounds")
    trial = rounds.Trial(tmp_path, size_blocks=256, scheme="file", seed=1, broken=False, load="writer")
    try:
        trial.begin()
        trial.check_link()
        trial.a.ask("replica-remove", volume="disk", name="b")
        trial.a.ask("replica-add", volume="disk", name="b", url=f"tcp://127.0.0.1:{trial.link.port}")
        with pytest.raises(rounds.BrokenPromiseError, match="second full copy"):
            trial.check_link()
    finally:
        trial.stop()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("sync", ["flush", "save-sync"])
def test_a_sync_that_is_taken_out_is_noticed(sync: str) -> None:
    done = crash_rounds("--rounds", "12", "--forgetful", "--size-mib", "8", "--remove", sync)
    assert done.returncode != 0
    assert "BrokenPromiseError: after" in done.stderr
