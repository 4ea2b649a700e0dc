"""Disasters of a real application on a real file system: a ledger in SQLite on ext4, on the volume of a real daemon.

The long one: site a is killed under load; the ledger goes on at site b; site a comes back, is brought up to date by
what differs, and takes its role back (R1, R4, R7). A cut freezes one moment of the volume: an entry whose commit had
returned by then is in it, one that was begun after it is not. So the time of the newest set kept, which a plan names,
tells every entry that is lost.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from replkit.cli.demo.sites import Daemon
from replkit.site.nbd.client import NbdClient

from .mounted import mounted, why_not
from .test_site import World, follows

BLOCK = 4096
ENVELOPE_BYTES = 64 << 10
"""What a resync moves beside blocks: headers and lists of its set."""
CLOCK_S = 0.05
"""Between the moment of a cut and the reading of the clock for it."""
LEDGER = Path(__file__).with_name("ledger.py")


class Ledger:
    """The application while it writes."""

    def __init__(self, root: Path, first: int) -> None:
        self.entries: list[tuple[int, float, float]] = []
        self._before = first - 1
        self._grown = threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, str(LEDGER), "write", str(root / "ledger.db"), str(first)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            number, before, after = line.split()
            with self._grown:
                self.entries.append((int(number), float(before), float(after)))
                self._grown.notify_all()

    @property
    def last(self) -> int:
        with self._grown:
            return self.entries[-1][0] if self.entries else 0

    def wait_for(self, more: int) -> int:
        """Wait for so many entries more; the number of the last."""
        with self._grown:
            wanted = (self.entries[-1][0] if self.entries else self._before) + more
            assert self._grown.wait_for(lambda: self.entries and self.entries[-1][0] >= wanted, 60)
        return self.last

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(30)
        self._reader.join(30)
        assert self._process.stdout is not None
        self._process.stdout.close()


def count(root: Path) -> int:
    done = subprocess.run(
        [sys.executable, str(LEDGER), "check", str(root / "ledger.db")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def kill_group(daemon: Daemon) -> None:
    """Every process of a site ends between two instructions."""
    os.killpg(daemon._process.pid, signal.SIGKILL)
    daemon.kill()


def whole(address: str, size: int) -> bytes:
    with NbdClient(address, "disk") as client:
        return b"".join(bytes(client.read(offset, 1 << 20)) for offset in range(0, size, 1 << 20))


def differing(left: bytes, right: bytes) -> int:
    """Blocks that are not the same."""
    return sum(left[at : at + BLOCK] != right[at : at + BLOCK] for at in range(0, len(left), BLOCK))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.requirement("R1", "R4", "R6", "R7", "R8", "R9", "X1")
@pytest.mark.skipif(bool(why_not()), reason=why_not() or "mounts work")
def test_a_site_is_lost_under_load_the_ledger_goes_on_elsewhere_and_comes_home(tmp_path: Path) -> None:
    world = World(tmp_path)
    try:
        world.start(world.a)
        world.start(world.b)
        world.ask("policy", "disk", "interval_s=0.3")
        world.ask("replica", "add", "disk", "b", world.b.url)
        follows(world)
        with mounted(world.a.nbd_address, "disk", tmp_path / "at-a", make=True) as root:
            ledger = Ledger(root, 1)
            ledger.wait_for(50)
            safe = ledger.last
            world.ask("wait", "disk", "--durable-on", 1, "--timeout", 60)
            ledger.wait_for(20)
            kill_group(world.daemons["a"])
            ledger.stop()
        plan = world.ask("plan", "failover", "disk", site=world.b)
        done = world.ask("failover", "disk", "--plan", plan["id"], site=world.b)
        assert done["role"] == "primary"
        with mounted(world.b.nbd_address, "disk", tmp_path / "at-b") as root:
            kept = count(root)
            assert safe <= kept
            for number, before, after in ledger.entries:  # lost are exactly those that the plan named
                if after < plan["newest_kept_s"] - CLOCK_S:
                    assert number <= kept, "an entry that was durable at the newest set kept is lost"
                if before > plan["newest_kept_s"] + CLOCK_S:
                    assert number > kept, "an entry from after the newest set kept is there"
            ledger = Ledger(root, kept + 1)
            ledger.wait_for(60)
            ledger.stop()
            entries = count(root)
        assert entries >= kept + 60

        world.start(world.a)
        world.is_so(lambda: world.volume(world.a).get("state") in {"fenced", "diverged"}, "a learns that it is over")
        size = world.volume(world.b)["size_bytes"]
        blocks = differing(whole(world.a.nbd_address, size), whole(world.b.nbd_address, size))
        plan = world.ask("plan", "resync", "disk")
        assert blocks <= plan["send_blocks"]
        assert plan["fork"] is not None
        world.ask("resync", "disk", "--plan", plan["id"])
        follows_at(world, world.b, "a")
        world.ask("wait", "disk", "--durable-on", 1, "--played", "--timeout", 60, site=world.b)
        moved = next(m for m in world.volume(world.b)["members"] if m["name"] == "a")["sent_bytes"]
        print(f"{blocks} blocks differ, {blocks * BLOCK} bytes; moved {moved}; failover {done['duration_s']:.2f} s")
        assert moved <= 1.05 * blocks * BLOCK + ENVELOPE_BYTES
        assert len(world.ask("salvage", "list", "disk")["salvages"]) == 1

        world.ask("failback", "disk", site=world.b)
        world.is_so(lambda: world.volume(world.a)["role"] == "primary", "a is the primary again")
        with mounted(world.a.nbd_address, "disk", tmp_path / "home") as root:
            assert count(root) == entries
            ledger = Ledger(root, entries + 1)
            ledger.wait_for(10)
            ledger.stop()
        world.ask("wait", "disk", "--durable-on", 1, "--played", "--timeout", 60)
        assert whole(world.a.nbd_address, size) == whole(world.b.nbd_address, size)
    finally:
        world.stop()


def follows_at(world: World, site: object, member: str) -> None:
    def is_following() -> bool:
        members = {each["name"]: each for each in world.volume(site)["members"]}
        return member in members and members[member]["state"] == "following"

    world.is_so(is_following, f"{member} follows")


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.requirement("S5", "X1")
@pytest.mark.skipif(bool(why_not()), reason=why_not() or "mounts work")
def test_every_entry_that_was_committed_is_there_after_the_site_was_killed_under_load(tmp_path: Path) -> None:
    world = World(tmp_path)
    said = 0
    try:
        for life in range(3):
            world.start(world.a)
            with mounted(world.a.nbd_address, "disk", tmp_path / "at-a", make=not life) as root:
                entries = count(root) if life else 0
                assert said <= entries <= said + 1  # one may be durable that was not said any more
                ledger = Ledger(root, entries + 1)
                ledger.wait_for(30)
                kill_group(world.daemons["a"])
                ledger.stop()
                said = ledger.last
        world.start(world.a)
        with mounted(world.a.nbd_address, "disk", tmp_path / "at-a") as root:
            assert said <= count(root) <= said + 1
    finally:
        world.stop()
