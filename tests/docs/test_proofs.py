"""A whole run fails when the coverage page claims what no test of that run proved; a part of a run never does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = """
import pytest
@pytest.mark.requirement("D1")
def test_one(): pass
@pytest.mark.needs_tool("no-such-program")
@pytest.mark.requirement("D2")
def test_two(): pass
@pytest.mark.slow
@pytest.mark.requirement("D3")
def test_three(): pass
"""
SETTINGS = """
[tool.pytest.ini_options]
testpaths = ["tests"]
addopts = "--import-mode=importlib -p no:cacheprovider"
markers = ["requirement", "needs_tool", "needs_root", "slow"]
"""


@pytest.fixture(name="project")
def small_project(tmp_path: Path) -> Path:
    """A checkout with three tests, of which one lacks its program and one is slow; nothing is claimed."""
    for place, text in {"tests/test_it.py": TESTS, "pyproject.toml": SETTINGS, "docs/coverage.md": ""}.items():
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(text)
    for place in ("docs/coverage_page.py", "tests/conftest.py"):
        shutil.copy(ROOT / place, tmp_path / place)
    claim(tmp_path)
    return tmp_path


def claim(project: Path, *claimed: str) -> None:
    rows = [f"| D{n} | {'met' if f'D{n}' in claimed else 'open'} | `x` | `tests/test_it.py` | |" for n in range(1, 6)]
    (project / "docs" / "coverage.md").write_text("\n".join(rows) + "\n")


def run(project: Path, *arguments: str, strict: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "REPLKIT_"))}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    return subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=project,
        env=environment | ({"REPLKIT_STRICT_COVERAGE": "1"} if strict else {}),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_claim_that_was_proved_passes(project):
    claim(project, "D1")
    assert run(project, strict=True).returncode == 0


def test_a_claim_that_nothing_proved_fails_the_whole_run_but_not_a_part(project):
    claim(project, "D1", "D4")
    whole = run(project)
    assert whole.returncode == 1
    assert "D4 is claimed, but no test that names it ran and passed" in whole.stdout
    assert run(project, "-k", "one").returncode == 0


def test_workers_of_xdist_are_counted_together(project):
    claim(project, "D1")
    done = run(project, "-p", "xdist", "-n", "2", strict=True)
    assert "created: 2/2 workers" in done.stdout
    assert (done.returncode, "is claimed" in done.stdout) == (0, False)


def test_a_claim_whose_tests_were_skipped_is_told_and_fails_only_the_strict_run(project):
    claim(project, "D2")
    tolerant = run(project)
    assert tolerant.returncode == 0
    assert "D2 is claimed, but its tests were skipped" in tolerant.stdout
    assert run(project, strict=True).returncode == 1


def test_slow_tests_run_only_when_asked_for_and_so_prove_nothing_by_default(project):
    claim(project, "D3")
    assert run(project).returncode == 1
    assert run(project, "--slow").returncode == 0
    assert "1 passed" in run(project, "tests/test_it.py::test_three").stdout


def test_a_mark_with_an_unknown_requirement_is_refused(project):
    (project / "tests" / "test_it.py").write_text(TESTS.replace("D1", "D77"))
    assert "D77" in run(project).stderr
