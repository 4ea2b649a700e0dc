"""The pages for newcomers, run as they stand: what each shows is typed at the site that it names."""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
from pathlib import Path

import pytest

from .test_site import SIZE, World, follows

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(?:console|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """Every command line of a page, block after block."""
    return [
        line.removeprefix("$ ")
        for block in BLOCK.findall((DOCS / page).read_text())
        for line in block.splitlines()
        if line
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("w"))
    try:
        world.start(world.a)
        world.start(world.b)
        world.write(1 << 20, b"read me".ljust(4096))
        world.ask("replica", "add", "disk", "b", world.b.url)
        follows(world)
        world.ask("wait", "disk", "--played")
        yield world
    finally:
        codes = world.stop()
    assert codes == [0, 0]


@pytest.fixture
def folder():
    """For what a page puts below ``/run``: with a short path, as a socket must have."""
    with tempfile.TemporaryDirectory(prefix="rk-") as name:
        (Path(name) / "run").mkdir()
        yield Path(name)


def typed(world, line, site, folder):
    """Carry one line out, with the folders of a real machine below ``folder``; what it printed."""
    line = line.replace("/run/replkit", str(folder / "run")).replace("/srv/backup", str(folder))
    program, *words = shlex.split(line)
    if program == "replkit":
        return world.run(*words, site=site)
    done = subprocess.run([program, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{line}: {done.stderr}"
    return done.stdout


@pytest.mark.needs_tool("nbdinfo", "nbdcopy")
@pytest.mark.requirement("C3", "X1", "P6")
def test_a_secondary_and_a_snapshot_are_read_as_the_page_says(world, folder):
    lines = commands("howto/read-a-secondary.md")
    at_secondary = lines[: lines.index("replkit export disk --stop") + 1]
    printed = "".join(typed(world, line, world.b, folder) for line in at_secondary)
    assert f"export-size: {SIZE}" in printed
    copy = (folder / "disk.img").read_bytes()
    assert len(copy) == SIZE
    assert copy[1 << 20 :].startswith(b"read me")
    at_primary = lines[len(at_secondary) :]
    assert len(at_primary) > 3
    printed = "".join(typed(world, line, world.a, folder) for line in at_primary)
    assert f"\n{SIZE}\n" in printed


@pytest.mark.requirement("U4", "X1")
def test_both_sites_are_commanded_as_the_tutorial_says(world, folder):
    lines = [line for line in commands("tutorial.md") if " --control " in line and "--watch" not in line]
    assert len(lines) > 5
    for line in lines:
        command, _, config = line.partition(" --control ")
        typed(world, command, {"a.toml": world.a, "b.toml": world.b}[config], folder)
    typed(world, "replkit export disk --stop", world.b, folder)
