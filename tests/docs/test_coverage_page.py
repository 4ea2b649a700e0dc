"""The coverage page says nothing that the tree does not bear out."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(name="page")
def coverage_page_program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("coverage_page", ROOT / "docs" / "coverage_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tree(tmp_path: Path, page: ModuleType, **rows: str) -> Path:
    """A checkout whose page has all requirements open, except for the rows that are given."""
    lines = [
        rows.get(f"{group}{number}", f"| {group}{number} | open | | | something |")
        for group, count in page.GROUPS.items()
        for number in range(1, count + 1)
    ]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "coverage.md").write_text("# Coverage\n\n" + "\n".join(lines) + "\n")
    (tmp_path / "src" / "replkit").mkdir(parents=True)
    (tmp_path / "src" / "replkit" / "here.py").write_text("")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text('@pytest.mark.requirement("D1", "D10")\ndef test_it(): ...\n')
    return tmp_path


def test_the_page_of_this_checkout_has_no_fault(page):
    assert list(page.faults(ROOT)) == []


def test_a_true_claim_is_accepted(tmp_path, page):
    root = tree(tmp_path, page, D1="| D1 | met | `here.py` | `tests/test_it.py` | a note |")
    assert list(page.faults(root)) == []


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("| D1 | met | `gone.py` | `tests/test_it.py` | note |", "there is no gone.py"),
        ("| D1 | met | `here.py` | `tests/test_gone.py` | note |", "there is no tests/test_gone.py"),
        ("| D1 | part | | `tests/test_it.py` | note |", "names no module or no test"),
        ("| D1 | met | `here.py` | | note |", "names no module or no test"),
        ("| D1 | done | `here.py` | `tests/test_it.py` | note |", "state 'done'"),
        ("| D9 | open | | | note |", "the requirements are"),
    ],
)
def test_a_claim_that_the_tree_does_not_bear_out_is_a_fault(tmp_path, page, row, fault):
    assert any(fault in found for found in page.faults(tree(tmp_path, page, D1=row)))


def test_a_test_must_name_the_requirement_itself(tmp_path, page):
    root = tree(tmp_path, page, X1="| X1 | met | `here.py` | `tests/test_it.py` | D10 is not X1 |")
    assert [fault for fault in page.faults(root) if "X1" in fault]


def test_a_row_with_a_column_missing_is_refused(tmp_path, page):
    with pytest.raises(SystemExit, match="D1"):
        list(page.faults(tree(tmp_path, page, D1="| D1 | met | `here.py` | note |")))
