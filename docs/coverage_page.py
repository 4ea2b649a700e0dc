"""Reads and checks `docs/coverage.md`: which requirement is met by which module, and which test proves it.

Run as a program it prints every fault and fails if there is one. `tests/conftest.py` reads the same page to check,
after a whole run, that each claim was proved in that run.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

GROUPS = {"U": 5, "T": 11, "S": 5, "D": 5, "C": 5, "P": 7, "R": 9, "X": 5}
"""How many requirements each group has: U1 to U5, and so on."""
STATES = ("met", "part", "open")
_ROW = re.compile(r"^\| *([A-Z]\d+) *\|(.*)\|(.*)\|(.*)\|(.*)\| *$")
_CODE = re.compile(r"`([^`]+)`")
_MARK = re.compile(r"requirement\(([^)]*)\)")


class Row(NamedTuple):
    """One requirement. ``modules`` and ``tests`` are paths as written, relative to src/replkit and to the checkout."""

    id: str
    state: str
    modules: tuple[str, ...]
    tests: tuple[str, ...]

    @property
    def is_claimed(self) -> bool:
        """Whether the page says that something of it is done, which then must be proved."""
        return self.state != "open"


class Page(NamedTuple):
    """The rows of the page, in its order."""

    rows: tuple[Row, ...]

    @property
    def ids(self) -> list[str]:
        """The requirement of each row."""
        return [row.id for row in self.rows]


def read_page(root: Path) -> Page:
    """Parse the table; a line that begins like a row but has other columns is a fault."""
    rows = []
    for line in (root / "docs" / "coverage.md").read_text().splitlines():
        if not re.match(r"\| *[A-Z]\d+ ", line):
            continue
        match = _ROW.match(line)
        if match is None:
            raise SystemExit(f"docs/coverage.md: not ID, state, modules, tests, note: {line}")
        name, state, modules, tests, _note = match.groups()
        rows.append(
            Row(id=name, state=state.strip(), modules=tuple(_CODE.findall(modules)), tests=tuple(_CODE.findall(tests)))
        )
    return Page(rows=tuple(rows))


def faults(root: Path) -> Iterator[str]:
    """Everything on the page that is not so in the tree."""
    page = read_page(root)
    wanted = [f"{group}{number}" for group, count in GROUPS.items() for number in range(1, count + 1)]
    if page.ids != wanted:
        yield f"the page lists {page.ids}, the requirements are {wanted}"
    for row in page.rows:
        if row.state not in STATES:
            yield f"{row.id}: state {row.state!r} is none of {', '.join(STATES)}"
        if row.is_claimed and not (row.modules and row.tests):
            yield f"{row.id}: is {row.state}, but names no module or no test"
        for module in row.modules:
            if not any((base / module).exists() for base in (root / "src" / "replkit", root)):
                yield f"{row.id}: there is no {module}"
        for test in row.tests:
            yield from _faults_of_test(root, row.id, test)


def _faults_of_test(root: Path, name: str, test: str) -> Iterator[str]:
    path = root / test
    if not path.is_file():
        yield f"{name}: there is no {test}"
    elif name not in named_in(path):
        yield f"{name}: no test in {test} has a requirement mark that names it"


def named_in(path: Path) -> set[str]:
    """Requirements that marks in a test file name."""
    return {name for mark in _MARK.findall(path.read_text()) for name in re.findall(r"[A-Z]\d+", mark)}


def main() -> int:
    """Print the faults, or how much of the page is claimed."""
    root = Path(__file__).resolve().parent.parent
    found = list(faults(root))
    for fault in found:
        sys.stderr.write(f"docs/coverage.md: {fault}\n")
    states = [row.state for row in read_page(root).rows]
    sys.stdout.write(", ".join(f"{states.count(state)} {state}" for state in STATES) + f" of {len(states)}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
