"""The two daemons of ``crash_rounds.py``: started, killed, asked, and held against a second full copy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from replkit.backends.file.cells import FileCells
from replkit.errors import ReplkitError
from replkit.replication.cells import COPY, ROOT, Base, Root
from replkit.site.control import ControlClient

BLOCK = 4096
REGION_BYTES = 1 << 20
"""What a write leaves in doubt when the primary is killed: a region of its intent log (invariant 2)."""
VOLUME = "disk"
ANSWER_TIMEOUT_S = 90.0
"""Longer than any command here waits by itself: a sender that was refused for long tries again after 30 s."""


class BrokenPromiseError(AssertionError):
    """The system lost, mixed or invented something."""


class Site:
    """One daemon in a process group of its own."""

    def __init__(self, folder: Path, name: str, config: str) -> None:
        self.name, self.control, self.log = name, folder / f"{name}.ctl", folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._config = folder / f"{name}.toml"
        self._config.write_text(config)
        self._save = folder / f"{name}.save"
        self.socket = folder / f"{name}.nbd"
        self.nbd = f"unix:{self.socket}"

    def start(self) -> None:
        """Start it, and return when all its workers serve."""
        with self.log.open("ab") as log:
            command = [sys.executable, "-P", "-m", "replkit", "serve", "--config", str(self._config)]
            command.append("--until-stdin-ends")  # it ends with us, however we end
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        deadline_s = time.monotonic() + 60
        while not self._is_ready():
            if time.monotonic() > deadline_s or self._process.poll() is not None:
                raise BrokenPromiseError(f"site {self.name} did not come back:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            status = self.ask("status")
        except ReplkitError:
            return False
        return all(worker["ready"] for worker in status["workers"]) and not any(
            volume.get("problem") for volume in status["volumes"]
        )

    def ask(self, command: str, **arguments: Any) -> Any:
        """Ask its control socket."""
        with ControlClient(self.control, timeout_s=ANSWER_TIMEOUT_S) as client:
            return client.request(command, answer_timeout_s=ANSWER_TIMEOUT_S, **arguments)

    def kill(self) -> None:
        """End every process of it at once, as a power failure would."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        with self._process:  # closes its stdin too
            self._process.wait()

    def stop(self) -> None:
        """End it cleanly."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                with self._process:
                    self._process.wait(40)
            except subprocess.TimeoutExpired:
                self.kill()

    def root(self) -> Root:
        """What it has published, read beside it."""
        return msgspec.json.decode(self._load(ROOT)[0], type=Root)

    def _load(self, cell: str) -> tuple[bytes, int]:
        cells = FileCells(self._save / "cells.sqlite3")
        try:
            return cells.load(cell)
        finally:
            cells.close()

    def last_step(self) -> bytes:
        """The last step of a new copy that it took in; its version says nothing, as each start takes the cell."""
        return self._load(COPY)[0]


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Poll a daemon for something that it does by itself."""
    deadline_s = time.monotonic() + 60
    while not is_so():
        if time.monotonic() > deadline_s:
            raise BrokenPromiseError(f"waited in vain for {what}")
        time.sleep(0.02)


class Copied(NamedTuple):
    """The one full copy of a trial. Any other would change one of these."""

    asked: str
    base: Base | None
    last_step: bytes


def copied(a: Site, b: Site) -> Copied:
    """The copy that the primary keeps the member on, what the secondary stands on, and the last step that it took."""
    root = b.root()
    if root.inconsistent is not None:
        raise BrokenPromiseError(f"secondary: takes in copy {root.inconsistent.copy_id}: no copy was due")
    return Copied(a.root().members[0].copy_id, root.base, b.last_step())


def config(folder: Path, name: str, *, listen: int, peer: int, size_blocks: int, scheme: str, broken: bool) -> str:
    """Configuration of site a (primary) or b (secondary); ``peer`` is the port at which it reaches the other."""
    index = "ab".index(name)
    role = ("primary", "secondary")[index]
    names = ["replkit.testing.forgetful"] if scheme.startswith("forgetful") else []
    survive = "?survive=0.5" if names else ""
    names += ["removed_sync"] if broken else []
    more = 'destinations = [{ peer = "b" }]\npolicy = { interval_s = 0.2 }' if name == "a" else ""
    return f"""\
site = "{name}"
control = "{folder / name}.ctl"
listen = "tcp://127.0.0.1:{listen}"
plugins = {names}
[peers.{"ba"[index]}]
url = "tcp://127.0.0.1:{peer}"
[volumes.{VOLUME}]
url = "{scheme}://{folder / name}.img{survive}"
size = {size_blocks * BLOCK}
role = "{role}"
nbd = "unix:{folder / name}.nbd"
save_volume = {{ url = "{scheme}://{folder / name}.save{survive}", capacity = "256MiB" }}
{more}
"""
