"""The README's two commands are what CI runs, and what they install is what they need."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def command(name: str) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "readme_command.py", name], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("name", ["demo", "tests"])
def test_each_command_stands_alone(name):
    assert command(name).startswith("python3 -m venv .venv && .venv/bin/pip install ")


def test_the_first_starts_the_demo_and_the_second_the_tests():
    assert command("demo").endswith(".venv/bin/replkit demo")
    assert command("tests").endswith(".venv/bin/pytest")


def test_the_extra_of_the_second_command_holds_what_the_tests_import():
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["testing"]
    assert {"pytest", "pytest-timeout", "hypothesis"} <= {name.split(">")[0] for name in extra}


def test_ci_runs_the_second_command_as_the_readme_says_it():
    assert "docs/readme_command.py tests" in (ROOT / ".ci" / "run").read_text()
