"""Every story has its transcript, every transcript its story, and every figure of recovery is told."""

from __future__ import annotations

import ast
from pathlib import Path

from .story import TRANSCRIPTS

FIGURES = (*range(21, 24), *range(28, 41))


def stories() -> set[str]:
    nodes = [node for path in Path(__file__).parent.glob("test_*.py") for node in ast.parse(path.read_text()).body]
    tests = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return {node.name.removeprefix("test_") for node in tests if any(each.arg == "tell" for each in node.args.args)}


def test_stories_and_transcripts_are_the_same():
    assert stories() == {path.stem for path in TRANSCRIPTS.glob("*.txt")}


def test_every_figure_of_recovery_is_told():
    told = {int(name.split("_")[1]) for name in stories() if name.startswith("fig_")}
    assert told == set(FIGURES)
