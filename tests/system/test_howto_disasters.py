"""The page about disasters, run as it stands: its commands, in its order, after what each section says has happened."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from replkit.cli.main import main
from replkit.site.nbd.client import NbdClient

from .test_disaster import follows_at, kill_group
from .test_site import World, follows

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "disasters.md"
SECTIONS = dict(re.findall(r"^## (.+)\n((?:(?!^## ).*\n)+)", PAGE.read_text(), re.MULTILINE))
LINE = re.compile(r"^(lisbon|porto)\$ replkit (.+)$", re.MULTILINE)


class Disaster(World):
    """Site a is Lisbon, site b is Porto."""

    def begin(self) -> None:
        self.start(self.a)
        self.start(self.b)
        self.write(0, b"first".ljust(4096))
        self.ask("replica", "add", "disk", "porto", self.b.url)
        follows(self)
        self.ask("wait", "disk", "--durable-on", 1, "--played")

    def write_at(self, site: object, offset: int, text: bytes) -> None:
        with NbdClient(site.nbd_address, "disk") as client:  # type: ignore[attr-defined]
            client.write(offset, text.ljust(4096))
            client.flush()

    def read_at(self, site: object, offset: int) -> bytes:
        with NbdClient(site.nbd_address, "disk") as client:  # type: ignore[attr-defined]
            return bytes(client.read(offset, 4096)).rstrip(b" \0")

    def part(self) -> None:
        """Lisbon is away while Porto is made the primary; both have been written since they parted."""
        self.write(8192, b"only in lisbon")
        self.daemons["a"].stop()
        self.run("failover", "disk", "--yes", site=self.b)
        self.write_at(self.b, 4096, b"written in porto")
        self.start(self.a)
        self.is_so(lambda: self.volume(self.a).get("state") == "fenced", "lisbon learns of it")

    def run_page(self, section: str) -> str:
        """Every command of a section, by its site; what they printed."""
        printed = ""
        lines = LINE.findall(SECTIONS[section])
        assert lines
        for site, command in lines:
            where = self.a if site == "lisbon" else self.b
            words = [*command.split(), "--control", str(where.config)]
            result = CliRunner().invoke(main, words, prog_name="replkit")
            assert result.exit_code == 0, f"{site}$ {command}: {result.output}"
            printed += result.output
        return printed


def lost(world: Disaster) -> None:
    world.write(4096, b"second")
    world.ask("wait", "disk", "--durable-on", 1)
    kill_group(world.daemons["a"])
    assert "not known: the primary cannot be reached" in world.run_page("A site is lost")
    assert world.read_at(world.b, 4096) == b"second"
    world.write_at(world.b, 12288, b"goes on")


def back(world: Disaster) -> None:
    world.part()
    printed = world.run_page("The site is back")
    assert "salvages of disk" in printed
    assert world.volume(world.a)["role"] == "primary"
    assert world.read_at(world.a, 4096) == b"written in porto"
    assert world.read_at(world.a, 8192) == b""


def cut_off(world: Disaster) -> None:
    world.daemons["b"].stop()
    for number in range(5):
        world.write(number * 4096, b"alone %d" % number)
        world.ask("cut", "disk")
    world.start(world.b)
    world.run_page("The link was cut for a day")
    assert world.read_at(world.b, 16384) == b"alone 4"


def both(world: Disaster) -> None:
    world.part()
    assert "salvages of disk" in world.run_page("Both sides were written")
    follows_at(world, world.b, "a")
    assert world.read_at(world.a, 4096) == b"written in porto"


def mistake(world: Disaster) -> None:
    world.part()
    assert "salvages of disk" in world.run_page("The failover was a mistake")
    assert world.read_at(world.b, 8192) == b"only in lisbon"
    assert world.read_at(world.b, 4096) == b""
    world.write(20480, b"lisbon writes on")


def no_save_volume(world: Disaster) -> None:
    world.daemons["b"].stop()
    shutil.rmtree(world.b.folder / "save")
    world.write(4096, b"meanwhile")
    world.start(world.b)
    world.run_page("The save volume of the secondary is lost")
    assert world.read_at(world.b, 4096) == b"meanwhile"


STORIES: dict[str, Callable[[Disaster], None]] = {
    "A site is lost": lost,
    "The site is back": back,
    "The link was cut for a day": cut_off,
    "Both sides were written": both,
    "The failover was a mistake": mistake,
    "The save volume of the secondary is lost": no_save_volume,
}


def test_each_section_has_a_story() -> None:
    assert STORIES.keys() == SECTIONS.keys()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.requirement("R1", "R4", "R7", "R9")
@pytest.mark.parametrize("section", STORIES)
def test_the_page_runs_as_it_stands(section: str, tmp_path: Path) -> None:
    world = Disaster(tmp_path)
    try:
        world.begin()
        STORIES[section](world)
    finally:
        world.stop()
