"""Prints one of the README's two commands, so that CI runs exactly what a reader would type: `demo` or `tests`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

NAMES = ("demo", "tests")


def readme_commands(root: Path) -> dict[str, str]:
    """The README's `sh` blocks; it has exactly these two, each of one line."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (root / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = [block.strip() for block in blocks]
    if len(lines) != len(NAMES) or any("\n" in line for line in lines):
        raise SystemExit(f"README.md has {len(lines)} sh blocks; it must have {len(NAMES)} of one line each")
    return dict(zip(NAMES, lines, strict=True))


if __name__ == "__main__":
    sys.stdout.write(readme_commands(Path(__file__).resolve().parent.parent)[sys.argv[1]] + "\n")
