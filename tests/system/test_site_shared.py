"""A secondary on the machine of its primary that shares its save volume, in one daemon (S2)."""

from __future__ import annotations

import json
import os
import signal
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
def machine(tmp_path):
    found = Machine(tmp_path)
    yield found
    found.daemon.stop()


class Machine:
    """One site with ``disk``, and ``near`` which shares its save volume."""

    def __init__(self, folder):
        self.site, _ = write_sites(folder, SIZE)
        text = self.site.config.read_text()
        text = "\n".join(line for line in text.splitlines() if not line.startswith("listen"))
        self.near_nbd = self.site.nbd_address.replace("disk.nbd", "near.nbd")
        self.image = self.site.image.with_name("near.img")
        self.site.config.write_text(
            text
            + f"""
[volumes.near]
url = "{self.image.as_uri()}"
size = {SIZE}
role = "secondary"
shared_with = "disk"
nbd = "{self.near_nbd}"
"""
        )
        self.start()

    def start(self):
        self.daemon = Daemon(self.site)
        with self.daemon.connect() as client:
            wait_ready(client, self.daemon)

    def run(self, *words, code=0):
        words = [*words, "--control", self.site.config]
        result = CliRunner().invoke(main, [str(word) for word in words], prog_name="replkit")
        assert result.exit_code == code, result.output
        return result.output

    def volumes(self):
        with ControlClient(self.site.control) as client:
            return {volume["name"]: volume for volume in client.request("status")["volumes"]}

    def write(self, offset, data):
        with NbdClient(self.site.nbd_address, "disk") as client:
            client.write(offset, data)

    def read(self, offset, count, address=None, name="near"):
        with NbdClient(address or self.near_nbd, name) as client:
            assert client.read_only
            return bytes(client.read(offset, count))

    def played(self):
        return json.loads(self.run("wait", "disk", "--played", "--timeout", 60, "--json"))

    def is_so(self, predicate):
        deadline_s = time.monotonic() + 90
        while not predicate():
            assert time.monotonic() < deadline_s


@pytest.mark.requirement("S2", "X1", "C3")
def test_a_secondary_shares_the_save_volume_of_its_primary(machine):
    machine.write(0, b"first".ljust(4096))
    assert machine.played()["members"] == ["near"]
    assert machine.read(0, 5) == b"first"
    near = machine.volumes()["near"]
    assert (near["role"], near["state"], near["shared_with"], near["drift"]) == ("secondary", "up-to-date", "disk", [])
    assert near["played"] == near["received"]
    assert near["played"]["number"] == machine.volumes()["disk"]["position"]["number"]
    assert "near" in machine.run("status")
    for words in (("cut", "near"), ("policy", "near", "interval_s=1"), ("snapshot", "create", "near", "x")):
        assert "name disk in its place" in machine.run(*words, code=2)
    assert "takes no commands" in machine.run("command", "disk", "greet", code=1)
    served = json.loads(machine.run("export", "near", "--follow", "--json"))
    machine.write(0, b"other".ljust(4096))
    machine.played()
    assert machine.read(0, 5, served["address"], served["export"]) == b"other"
    machine.run("export", "near", "--stop")
    assert "none damaged" in machine.run("scrub", "near")


@pytest.mark.requirement("S2", "R6", "C4")
def test_it_goes_on_after_a_crash_a_restart_and_a_removal(machine):
    machine.write(0, os.urandom(1 << 20))
    machine.played()
    with ControlClient(machine.site.control) as client:
        pid = next(w["pid"] for w in client.request("status")["workers"] if w["name"] == "replica")
    os.kill(pid, signal.SIGKILL)
    machine.write(1 << 20, b"after a crash".ljust(4096))
    machine.played()
    machine.is_so(lambda: not machine.volumes()["near"].get("problem"))
    assert machine.read(1 << 20, 13) == b"after a crash"
    assert machine.daemon.stop() == 0
    machine.start()
    machine.run("replica", "remove", "disk", "near")
    assert "config apply adds it" in machine.volumes()["near"]["drift"][0]
    assert machine.volumes()["near"]["errors"] == []
    machine.write(2 << 20, b"while away".ljust(4096))
    assert "member near was added" in machine.run("config", "apply")
    machine.played()
    assert machine.daemon.stop() == 0
    registry = default_registry()
    left, right = (registry.open_volume(p.as_uri(), read_only=True) for p in (machine.site.image, machine.image))
    with left, right:
        assert compare_volumes(left, right).is_equal
    assert "Traceback" not in machine.daemon.log.read_text()
