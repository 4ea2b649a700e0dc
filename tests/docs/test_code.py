"""Python shown on a page runs: the blocks of a page one after another, as one program, in an empty folder.

A block whose fence says ``python fragment`` is part of something larger and must only be Python.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```python( fragment)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [
    page
    for page in sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/README.md")])
    if _BLOCK.search(page.read_text())
]


def test_some_page_shows_code():
    assert PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_on_the_page_runs(page, tmp_path):
    program = []
    for fragment, code in _BLOCK.findall(page.read_text()):
        ast.parse(code)
        if not fragment:
            program.append(code)
    if not program:
        return
    script = tmp_path / "page.py"
    script.write_text("\n".join(program))
    done = subprocess.run(
        [sys.executable, "-W", "error", script.name],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
