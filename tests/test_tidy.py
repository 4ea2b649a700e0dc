"""The style that a machine can check: rooms of one purpose, no promises instead of code, no registry named."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    [*ROOT.glob("src/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py"), *ROOT.glob("plugins/*/replkit_*/**/*.py")]
)
TEXTS = sorted({*SOURCES, *ROOT.glob("*.md"), *ROOT.glob("*.toml"), *ROOT.glob("docs/**/*.md"), ROOT / ".ci" / "run"})
# Written in pieces, so that this file is none of those it looks for.
PROMISES = re.compile("|".join(["TO" + "DO", "FIX" + "ME", "X" * 3, "NotImplemented" + "Error"]))
PLACES = re.compile(
    "|".join([r"py" + r"pi\.", r"pythonhosted" + r"\.", r"deb\.deb" + r"ian", r"/wo" + r"rk/", r"/opt/py" + "pi"])
)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(source: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.FunctionDef)]


def test_a_file_is_a_room_of_at_most_400_lines():
    assert [name(source) for source in SOURCES if len(source.read_text().splitlines()) > 400] == []


def test_a_function_fits_on_a_screen():
    found = [(name(source), node) for source in SOURCES for node in functions(source)]
    assert [f"{place}: {node.name}" for place, node in found if node.end_lineno - node.lineno > 75] == []


def test_nothing_is_promised_instead_of_done():
    assert [name(source) for source in SOURCES if PROMISES.search(source.read_text())] == []


def test_no_registry_and_no_place_of_one_machine_is_named():
    assert [name(text) for text in TEXTS if PLACES.search(text.read_text())] == []


@pytest.mark.requirement("U5")
def test_the_repository_is_laid_out_as_asked():
    asked = ["pyproject.toml", "src/replkit", "plugins", "tests", "examples", "docs"]
    assert [place for place in asked if not (ROOT / place).exists()] == []
    assert list(ROOT.glob("plugins/*/pyproject.toml"))
    assert list(ROOT.glob("examples/*.py"))


def test_each_package_says_what_comes_in_and_goes_out():
    silent = []
    for package in sorted(ROOT.glob("src/replkit/*/__init__.py")):
        docstring = ast.get_docstring(ast.parse(package.read_text())) or ""
        if not (
            re.search(r"comes? in", docstring, re.IGNORECASE) and re.search(r"go(es)? out", docstring, re.IGNORECASE)
        ):
            silent.append(name(package))
    assert silent == []
