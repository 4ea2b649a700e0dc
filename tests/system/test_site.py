"""Two real daemons, commanded as a user does it: status, cut, policy, pause, snapshots, exports, wait, restart."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from replkit.cli.demo.sites import Daemon, wait_ready, write_sites
from replkit.cli.main import main
from replkit.errors import InvalidArgumentError
from replkit.site.control import ControlClient
from replkit.site.nbd.client import NbdClient

SIZE = 32 << 20


class World:
    """Sites a and b, and a user at a."""

    def __init__(self, folder):
        self.a, self.b = write_sites(folder, SIZE)
        self.daemons = {}

    def start(self, site):
        daemon = self.daemons[site.name] = Daemon(site)
        with daemon.connect() as client:
            return wait_ready(client, daemon)

    def stop(self):
        return [daemon.stop() for daemon in self.daemons.values()]

    def run(self, *words, site=None, code=0):
        words = [*words, "--control", (site or self.a).config]
        result = CliRunner().invoke(main, [str(word) for word in words], prog_name="replkit")
        assert result.exit_code == code, result.output
        return result.output

    def ask(self, *words, site=None, code=0):
        found = json.loads(self.run(*words, "--json", site=site, code=code))
        assert found["schema_version"] == 1
        return found

    def volume(self, site=None):
        return self.status(site)["volumes"][0]

    def status(self, site=None):
        """As the daemon answers, whether or not its volumes can be reached."""
        with ControlClient((site or self.a).control) as client:
            return client.request("status")

    def write(self, offset, data):
        with NbdClient(self.a.nbd_address, "disk") as client:
            client.write(offset, data)
            client.flush()

    def read(self, address, name, offset, count):
        with NbdClient(address, name) as client:
            return bytes(client.read(offset, count))

    def is_so(self, predicate, what):
        """Ask until it is so; each question waits for the daemon's answer."""
        deadline_s = time.monotonic() + 90
        while not predicate():
            assert time.monotonic() < deadline_s, what

    def pid(self, worker, site=None):
        return next(w["pid"] for w in self.status(site)["workers"] if w["name"] == worker)

    def crash(self, worker, site):
        """Kill one worker, and wait until the one that the daemon starts in its place answers."""
        before = self.pid(worker, site)
        os.kill(before, signal.SIGKILL)
        self.is_so(lambda: self.pid(worker, site) != before, "started again")
        self.is_so(lambda: all(w["ready"] for w in self.status(site)["workers"]), "ready")
        self.is_so(lambda: not self.volume(site).get("problem"), "it answers")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("w"))
    try:
        world.start(world.a)
        world.start(world.b)
        world.write(0, b"first".ljust(4096))
        world.ask("replica", "add", "disk", "b", world.b.url)
        follows(world)
        yield world
    finally:
        codes = world.stop()
    assert codes == [0, 0]
    logs = [daemon.log.read_text() for daemon in world.daemons.values()]
    assert [log for log in logs if "Traceback" in log] == []


def follows(world):
    world.is_so(lambda: world.volume()["members"][0]["state"] == "following", "b follows")
    return True


@pytest.fixture
def world(shared):
    return shared


@pytest.fixture
def own_world(tmp_path):
    world = World(tmp_path)
    yield world
    world.stop()


@pytest.mark.requirement("X1", "C1", "C3")
def test_what_is_written_at_a_is_read_in_the_view_of_b(world):
    world.write(1 << 20, b"hello".ljust(8192))
    waited = world.ask("wait", "disk", "--durable-on", 1, "--played", "--timeout", 60)
    assert waited["members"] == ["b"]
    assert world.read(world.b.nbd_address, "disk", 1 << 20, 8192) == b"hello".ljust(8192)
    with NbdClient(world.b.nbd_address, "disk") as client:
        assert client.read_only


@pytest.mark.requirement("R8")
def test_status_tells_both_sides_the_same(world):
    world.write(0, os.urandom(4096))
    position = world.ask("wait", "disk", "--played")["position"]
    here, there = world.volume(), world.volume(world.b)
    assert (here["role"], there["role"]) == ("primary", "secondary")
    assert here["position"]["number"] == position["number"]
    assert here["position"]["identity"] == there["position"]["identity"]
    member = here["members"][0]
    assert member["received"]["number"] == member["played"]["number"] == there["played"]["number"] == position["number"]
    assert (member["lag_s"], member["outstanding_sets"], there["outstanding_sets"]) == (0.0, 0, 0)
    assert member["sent_bytes"] > 0
    assert here["history"][-1]["blocks"] == 1
    assert {"created_s", "duration_s", "blocks", "stored_bytes"} <= here["history"][-1].keys()
    assert there["passes"][-1]["sets"] >= 1
    output = world.run("status")
    assert world.ask("status")["site"] == "a"
    assert "following" in output
    assert "primary" in output


@pytest.mark.requirement("D2")
def test_a_policy_changes_while_running_at_either_end(world):
    assert world.ask("policy", "disk", "interval_s=3600", "congestion=pull-ahead")["policy"]["interval_s"] == 3600
    assert any("interval_s is 3600" in line for line in world.volume()["drift"])
    number = world.ask("cut", "disk")["position"]["number"]
    world.write(0, os.urandom(4096))
    assert world.volume()["position"]["number"] == number
    world.ask("policy", "disk", "high_water_bytes=4096")  # the change that is there already now is enough
    world.is_so(lambda: world.volume()["position"]["number"] == number + 1, "the high water mark cuts")
    assert world.ask("policy", "disk", "play_interval_s=1", site=world.b)["policy"]["play_interval_s"] == 1
    assert world.ask("policy", "disk", site=world.b)["policy"]["play_interval_s"] == 1
    world.ask("policy", "disk", "play_interval_s=0", site=world.b)
    refused = world.run("policy", "disk", "nothing=1", "congestion=push", "interval_s=nan", code=2)
    assert "no field nothing" in refused
    assert "must be one of: block, pull-ahead" in refused
    assert "nan, must be a number" in refused
    changed = world.ask("config", "apply")["changed"]["disk"]
    assert any("interval_s is now 1" in line for line in changed)
    world.ask("policy", "disk", "congestion=block")
    assert [line for line in world.volume()["drift"] if "member" not in line] == []


@pytest.mark.requirement("X1", "T6")
def test_an_applied_configuration_readdresses_a_member_and_says_what_waits_for_a_restart(world, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    relay = importlib.import_module("crash_relays").CountingRelay(int(world.b.url.rpartition(":")[2]))
    url, before = f"tcp://127.0.0.1:{relay.port}", world.a.config.read_text()
    named = before.replace('role = "primary"', 'role = "primary"\ndestinations = [{ peer = "b" }]')
    world.a.config.write_text(named.replace(world.b.url, url).replace("a/disk.nbd", "a/other.nbd"))
    try:
        applied = world.ask("config", "apply")
        assert f"member b is reached at {url} now" in applied["changed"]["disk"]
        assert applied["needs_restart"] == ["peers", "volumes.disk.nbd"]
        world.write(0, os.urandom(8192))
        world.ask("wait", "disk", "--played", "--timeout", "30")
        assert 8192 < relay.bytes < 1 << 20, "by the new address, and no new copy"
        volume = world.volume()
        assert volume["nbd"] == world.a.nbd_address, "the address at which it is served, not the one of the file"
        assert volume["drift"] == []
        world.crash("primary.disk", world.a)
        volume = world.volume()
        assert volume["drift"] == [], "a worker that starts again knows what was applied"
        assert volume["nbd"] == world.a.nbd_address
    finally:
        world.a.config.write_text(named)
        world.ask("config", "apply")
        world.a.config.write_text(before)
        world.ask("config", "apply")
        relay.close()
    follows(world)


@pytest.mark.requirement("C4")
def test_a_pause_keeps_the_secondary_at_its_boundary_and_a_resume_goes_on(world):
    before = world.ask("wait", "disk", "--played")["position"]["number"]
    assert world.ask("pause", "disk")["paused"]
    world.write(4096, b"while paused".ljust(4096))
    world.ask("cut", "disk")
    assert "is received on 0 of 1" in world.run("wait", "disk", "--timeout", "0.3", code=1)
    assert world.volume(world.b)["played"]["number"] == before
    assert world.read(world.b.nbd_address, "disk", 4096, 12) != b"while paused"
    world.run("wait", "disk", "--timeout", "0", code=2)
    with ControlClient(world.a.control) as client, pytest.raises(InvalidArgumentError, match="cannot wait"):
        client.request("wait", volume="disk", timeout_s=-1)
    world.ask("resume", "disk")
    world.ask("wait", "disk", "--played", "--timeout", "30")
    assert "disk: replication to b is paused" in world.run("pause", "disk", "--member", "b")
    assert "disk: replication to b is running" in world.run("resume", "disk", "--member", "b")
    assert "it has: b" in world.run("pause", "disk", "--member", "c", code=2)
    assert world.read(world.b.nbd_address, "disk", 4096, 12) == b"while paused"


@pytest.mark.requirement("X1", "P6")
def test_snapshots_are_made_listed_read_and_deleted_at_both_ends(world):
    world.write(0, b"old".ljust(4096))
    world.ask("wait", "disk", "--played")
    for site in (world.a, world.b):
        made = world.ask("snapshot", "create", "disk", "monday", site=site)
        assert made["at_boundary"]
        assert "monday" in world.run("snapshot", "list", "disk", site=site)
        assert world.ask("snapshot", "show", "disk", "monday", site=site)["valid"]
        served = world.ask("export", "disk", "--snapshot", "monday", site=site)
        world.write(0, b"new".ljust(4096))
        world.ask("wait", "disk", "--played")
        assert world.read(served["address"], served["export"], 0, 3) == b"old"
        stop = "replkit export disk --snapshot monday --stop"
        assert stop in world.run("snapshot", "delete", "disk", "monday", site=site, code=2)
        assert stop in world.run("export", "disk", "--snapshot", "monday", site=site, code=2)
        world.ask("export", "disk", "--snapshot", "monday", "--stop", site=site)
        world.ask("snapshot", "delete", "disk", "monday", site=site)
        assert "no snapshot is called" in world.run("snapshot", "show", "disk", "monday", site=site, code=2)
        world.write(0, b"old".ljust(4096))
        world.ask("wait", "disk", "--played")


@pytest.mark.requirement("X1", "C3")
def test_a_held_view_stays_at_its_boundary(world):
    world.write(0, b"then".ljust(4096))
    world.ask("wait", "disk", "--played")
    assert "choose one" in world.run("export", "disk", "--hold", "--follow", site=world.b, code=2)
    served = world.ask("export", "disk", "--hold", site=world.b)
    world.write(0, b"now!".ljust(4096))
    world.ask("wait", "disk", "--played")
    assert world.read(served["address"], served["export"], 0, 4) == b"then"
    assert world.read(world.b.nbd_address, "disk", 0, 4) == b"now!"
    world.ask("export", "disk", "--stop", site=world.b)


@pytest.mark.requirement("X1", "C3")
def test_an_exported_view_stays_at_one_boundary_while_a_client_is_connected(world):
    world.write(0, b"then".ljust(4096))
    world.ask("wait", "disk", "--played")
    served = world.ask("export", "disk", site=world.b)
    place = served["address"], served["export"]
    with NbdClient(*place) as first:
        assert first.read(0, 4) == b"then"
        world.write(0, b"now!".ljust(4096))
        world.ask("wait", "disk", "--played")
        assert first.read(0, 4) == b"then"
        with NbdClient(*place) as second:
            assert second.read(0, 4) == b"then"
    world.is_so(lambda: world.read(*place, 0, 4) == b"now!", "the next client meets the newest boundary")
    world.ask("export", "disk", "--stop", site=world.b)


def test_wrong_commands_are_refused_with_a_reason(world):
    assert "a secondary here" in world.run("cut", "disk", site=world.b, code=2)
    assert "no volume 'none'" in world.run("cut", "none", code=2)
    assert "2 are to be waited for" in world.run("wait", "disk", "--durable-on", "2", code=2)
    assert "cannot name a snapshot" in world.run("snapshot", "create", "disk", "../x", code=2)
    assert "is a primary" in world.run("export", "disk", code=2)
    with ControlClient(world.a.control) as client, pytest.raises(Exception, match="no command"):
        client.request("rm -rf")


@pytest.mark.requirement("T6")
def test_a_killed_worker_is_started_again_and_everything_goes_on(world):
    for worker, site in (("sender.disk", world.a), ("replica", world.b), ("primary.disk", world.a)):
        world.crash(worker, site)
        content = os.urandom(4096)
        world.write(8192, content)
        world.ask("wait", "disk", "--played", "--timeout", "20")
        assert world.read(world.b.nbd_address, "disk", 8192, 4096) == content
    assert world.volume()["members"][0]["state"] == "following"


@pytest.mark.requirement("C4", "S1")
def test_both_sites_restart_where_they_were_and_a_configuration_cannot_promote(own_world):
    world = own_world
    world.start(world.a)
    world.start(world.b)
    world.write(0, b"kept".ljust(4096))
    world.ask("replica", "add", "disk", "b", world.b.url)
    follows(world)
    before = world.ask("wait", "disk", "--played")["position"]
    assert world.stop() == [0, 0]
    world.b.config.write_text(world.b.config.read_text().replace('role = "secondary"', 'role = "primary"'))
    status = world.start(world.b)["volumes"][0]
    assert status["role"] == "secondary"
    assert any("role is secondary" in line for line in status["drift"])
    assert status["position"]["number"] == before["number"]
    assert world.start(world.a)["volumes"][0]["position"]["number"] == before["number"]
    assert world.volume()["was_clean"]
    world.write(4096, b"more".ljust(4096))
    world.ask("wait", "disk", "--played", "--timeout", "60")
    assert world.read(world.b.nbd_address, "disk", 0, 8192)[::4096] == b"km"
    assert "is no secondary of disk" in world.run("replica", "remove", "disk", "b")
    assert world.volume()["members"] == []
    assert world.stop() == [0, 0]


@pytest.mark.requirement("S1", "S5", "C4")
def test_a_killed_daemon_takes_its_workers_with_it_and_goes_on_when_it_is_started_again(own_world):
    world = own_world
    world.start(world.a)
    world.start(world.b)
    world.ask("replica", "add", "disk", "b", world.b.url)
    follows(world)
    world.ask("wait", "disk", "--played")
    world.ask("policy", "disk", "interval_s=3600")
    for site in (world.a, world.b):
        world.write(0, b"not cut yet".ljust(4096))
        sent_bytes = world.volume()["members"][0]["sent_bytes"]
        pids = [worker["pid"] for worker in world.status(site)["workers"]]
        world.daemons[site.name].kill()
        world.is_so(lambda pids=pids: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the workers ended")
        world.start(site)
        world.ask("wait", "disk", "--played", "--timeout", "60")
        assert world.read(world.b.nbd_address, "disk", 0, 11) == b"not cut yet"
        assert world.volume()["members"][0]["sent_bytes"] - sent_bytes < SIZE // 4, "no full copy was needed"


def test_watching_prints_a_line_of_json_each_time_until_it_is_interrupted(world):
    command = [sys.executable, "-m", "replkit", "status", "--json", "--watch", "--control", str(world.a.config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert lines[0]["now_s"] < lines[1]["now_s"]
