"""What an operator does when something is wrong: a copy made again, a scrub, a volume that cannot be reached."""

from __future__ import annotations

import json
import os
import time

import pytest
from click.testing import CliRunner

from replkit.cli.demo.sites import Daemon, wait_ready, write_sites
from replkit.cli.main import main
from replkit.contracts.registry import default_registry
from replkit.site.compare import compare_volumes
from replkit.site.control import ControlClient
from replkit.site.nbd.client import NbdClient

SIZE = 8 << 20


@pytest.fixture
def sites(tmp_path):
    """Sites a and b that follow, ``start`` and ``stop`` of each, and a user at a."""
    world = Sites(tmp_path)
    yield world
    for daemon in world.daemons.values():
        daemon.stop()


class Sites:
    def __init__(self, folder):
        self.a, self.b = write_sites(folder, SIZE)
        self.daemons = {}

    def start(self, *sites):
        for site in sites:
            daemon = self.daemons[site.name] = Daemon(site)
            with daemon.connect() as client:
                wait_ready(client, daemon)

    def begin(self):
        """Both run, and b follows with one mebibyte written."""
        self.start(self.a, self.b)
        with NbdClient(self.a.nbd_address, "disk") as client:
            client.write(0, b"x" * (1 << 20))
        self.run("replica", "add", "disk", "b", self.b.url)
        self.played()

    def played(self):
        self.run("wait", "disk", "--played", "--timeout", 60)

    def run(self, *words, site=None, code=0, answer=""):
        words = [*words, "--control", (site or self.a).config]
        result = CliRunner().invoke(main, [str(word) for word in words], input=answer, prog_name="replkit")
        assert result.exit_code == code, result.output
        return result.output

    def is_equal(self):
        registry = default_registry()
        left, right = (registry.open_volume(site.image.as_uri(), read_only=True) for site in (self.a, self.b))
        with left, right:
            found = compare_volumes(left, right)
        return found.is_equal


@pytest.mark.requirement("C1")
def test_a_damaged_secondary_is_copied_again_when_that_was_confirmed(sites):
    sites.begin()
    sites.daemons["b"].stop()
    with sites.b.image.open("r+b") as file:
        file.seek(1 << 19)
        file.write(b"damage" * 1000)
    sites.start(sites.b)
    assert not sites.is_equal()
    asked = sites.run("replica", "copy", "disk", "b", code=1, answer="n\n")
    assert "1.0 MiB in use will travel" in asked
    assert "cannot be read" in asked
    sites.played()
    assert not sites.is_equal(), "who says no is obeyed"
    done = json.loads(sites.run("replica", "copy", "disk", "b", "--yes", "--json"))
    assert (done["in_use_bytes"], done["was"], done["begun"]) == (1 << 20, "following", True)
    sites.played()
    assert sites.is_equal()
    assert "it has: b" in sites.run("replica", "copy", "disk", "c", "--yes", code=2)


def test_status_fails_when_a_volume_cannot_be_reached(sites):
    sites.a.config.write_text(sites.a.config.read_text().replace(f"size = {SIZE}", f"size = {SIZE * 2}"))
    sites.a.image.write_bytes(bytes(SIZE))
    daemon = sites.daemons["a"] = Daemon(sites.a)
    daemon.connect().close()
    shown = sites.run("status", code=1)
    assert "unreachable" in shown
    deadline_s, problem = time.monotonic() + 90, ""
    while f"has {SIZE} bytes" not in problem:  # its process is started again and again, and says so between
        assert time.monotonic() < deadline_s, problem
        problem = json.loads(sites.run("status", "--json", code=1))["volumes"][0]["problem"]


def test_a_scrub_names_what_is_damaged_while_the_volume_is_served(sites):
    sites.begin()
    sites.run("snapshot", "create", "disk", "monday")
    with NbdClient(sites.a.nbd_address, "disk") as client:
        client.write(0, b"y" * 65536)
        client.flush()
    clean = json.loads(sites.run("scrub", "disk", "--json"))
    assert (clean["damage_count"], clean["error"], clean["checked"]) == (0, "", clean["total"])
    assert clean["total"] > 5
    assert "none damaged" in sites.run("scrub", site=sites.b)
    records = [path for path in (sites.a.folder / "save").rglob("*") if path.is_file() and path.stat().st_size > 60000]
    assert records
    for path in records:
        with path.open("r+b") as file:
            file.seek(40000)
            file.write(b"damage")
    shown = sites.run("scrub", "disk", code=1)
    assert "are damaged" in shown
    assert json.loads(sites.run("scrub", "disk", "--json", code=1))["damage"]
    sites.run("cut", "disk")
    with ControlClient(sites.a.control) as client:
        assert not client.request("scrub-end", volume="disk")["error"], "it had ended by itself"
        assert "scrub.disk" not in [worker["name"] for worker in client.request("status")["workers"]]


@pytest.mark.requirement("D3", "D4")
def test_a_set_that_rotted_before_it_was_played_is_fetched_again_from_the_primary(sites):
    sites.begin()
    sites.run("policy", "disk", "play_interval_s=86400", "play_high_water_bytes=1000000000", site=sites.b)
    with NbdClient(sites.a.nbd_address, "disk") as client:
        client.write(0, os.urandom(65536))
        client.flush()
    sites.run("wait", "disk", "--durable-on", 1, "--timeout", 60)
    for path in (sites.b.folder / "save").rglob("*"):
        if path.is_file() and path.stat().st_size > 60000:
            with path.open("r+b") as file:
                file.seek(40000)
                file.write(b"damage")
    assert "are damaged" in sites.run("scrub", "disk", site=sites.b, code=1)
    assert "no secondary" in sites.run("scrub", "disk", "--repair", code=2)
    shown = sites.run("scrub", "disk", "--repair", site=sites.b, code=1)
    assert "records of delta sets fetched again from the primary: 1" in shown
    assert "none damaged" in sites.run("scrub", "disk", site=sites.b)
    sites.run("policy", "disk", "play_interval_s=0", site=sites.b)
    sites.played()
    assert sites.is_equal()


@pytest.mark.requirement("T10", "T11")
def test_a_command_reaches_the_plugins_of_the_secondaries_and_their_answers_come_back(sites, tmp_path, monkeypatch):
    (tmp_path / "answering.py").write_text(PLUGIN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("REPLKIT_PLUGINS", " answering, ")
    sites.begin()
    (answer,) = json.loads(sites.run("command", "disk", "greet", "--arg", "keep=7", "--json"))["members"]
    assert answer == {"member": "b", "ok": True, "result": {"result": "greet ['keep=7']"}}
    assert "bad luck" in sites.run("command", "disk", "break", "--member", "b", code=1)
    assert "unknown" in sites.run("command", "disk", "what", code=1)
    assert "playback begins" in sites.run("command", "disk", "start-playback", "--arg", "number=0")
    assert "number is None" in sites.run("command", "disk", "start-playback", code=2)
    assert "the volume has: b" in sites.run("command", "disk", "greet", "--member", "c", code=2)
    assert "cannot be sent" in sites.run("command", "disk", "x" * 1000, code=2)
    assert "not the primary" in sites.run("command", "disk", "greet", site=sites.b, code=2)
    sites.run("pause", "disk")
    assert "the session ended" in sites.run("command", "disk", "greet", "--timeout", "20", code=1)
    sites.run("resume", "disk")
    sites.played()


PLUGIN = """
from replkit.contracts.hooks import hookimpl

@hookimpl
def replkit_run_command(name, arguments):
    if name == "break":
        raise ValueError("bad luck")
    return f"{name} {list(arguments)}" if name == "greet" else None
"""
