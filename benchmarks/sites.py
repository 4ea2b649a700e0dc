"""Sites of a benchmark: real daemons on this machine, each a peer of every other, asked by their control sockets."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replkit.cli.demo.sites import VOLUME, Daemon, Site, free_ports, wait_ready
from replkit.errors import ControlError
from replkit.site.control import ControlClient

BLOCK_SIZE = 4096
LONGEST_S = 900.0
"""After so long the benchmark is given up."""
ACCOUNT_EVERY_S = 6.0
"""After so long at rest a sender has written down what it sent."""
LOOK_EVERY_S = 0.01
Policy = Mapping[str, float]
_CONFIG = """\
site = "{name}"
control = "{folder}/control.sock"
listen = "{url}"
{peers}
[volumes.disk]
url = "file://{folder}/disk.img"
size = {size_bytes}
role = "{role}"
nbd = "unix:{folder}/disk.nbd"
save_volume = {{ url = "file://{folder}/save", capacity = {capacity_bytes} }}
[volumes.disk.policy]
{policy}
"""
ON_COMMAND = {"interval_s": 86400, "high_water_bytes": 1 << 40}
"""Policy of a volume that is cut on command only."""


class RunningSite:
    """A site and its daemon."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.ready_s = 0.0
        """How long the last start took."""
        self.name, self.image, self.nbd_address = site.name, site.image, site.nbd_address
        self.start()

    def start(self) -> None:
        """Start the daemon, and return when all its workers are ready."""
        began_s = time.monotonic()
        self._daemon = Daemon(self.site)
        self.control: ControlClient = self._daemon.connect()
        wait_ready(self.control, self._daemon)
        self.ready_s = time.monotonic() - began_s

    def stop(self) -> None:
        """End it in order."""
        self.control.close()
        self._daemon.stop()

    def kill(self) -> None:
        """Every process of the site ends between two instructions."""
        self.control.close()
        os.killpg(self._daemon._process.pid, signal.SIGKILL)
        self._daemon.kill()

    def ask(self, command: str, **arguments: Any) -> Any:
        """The result of a command for the volume."""
        return self.control.request(command, answer_timeout_s=LONGEST_S, volume=VOLUME, **arguments)

    def volume(self) -> dict[str, Any]:
        """Status of the volume; empty while it moves from one process to another."""
        try:
            found: dict[str, Any] = self.control.request("status")["volumes"][0]
        except ControlError:
            return {}
        return found

    def member(self, name: str) -> dict[str, Any]:
        """What this primary says of a member; empty while it has none of that name."""
        return next((one for one in self.volume().get("members", []) if one["name"] == name), {})

    def follow(self, *others: RunningSite) -> float:
        """Make new copies of the volume at other sites; seconds until all are played."""
        began_s = time.perf_counter()
        for other in others:
            self.ask("replica-add", name=other.name, url=other.site.url, destination_volume=VOLUME)
        self.wait_played(len(self.volume()["members"]))  # none has played anything before its copy is durable
        return time.perf_counter() - began_s

    def wait_played(self, members: int = 1) -> float:
        """Seconds until all that is written now is played at so many members."""
        began_s = time.perf_counter()
        self.ask("wait", timeout_s=LONGEST_S, durable_on=members, level="played")
        return time.perf_counter() - began_s

    def sent_bytes(self, name: str) -> int:
        """Bytes that were sent to a member so far; to be asked at rest."""
        time.sleep(ACCOUNT_EVERY_S)
        return int(self.member(name).get("sent_bytes", 0))

    def pids(self) -> dict[str, int]:
        """Process ids of the supervisor and the workers."""
        status = self.control.request("status")
        return {"supervisor": status["pid"]} | {one["name"]: one["pid"] for one in status["workers"]}


@contextmanager
def running_sites(
    folder: Path, names: str, size_bytes: int, policy: Policy, *, capacity_bytes: int = 0
) -> Iterator[list[RunningSite]]:
    """Start sites called by letters; the first has the primary, and image files that exist are taken as they are.

    ``capacity_bytes`` is that of each save volume, by default twice the size of the volume.
    """
    fields = {
        "size_bytes": size_bytes,
        "capacity_bytes": capacity_bytes or max(2 << 30, 2 * size_bytes),
        "policy": "\n".join(f"{field} = {value}" for field, value in policy.items()),
    }
    ports = free_ports(len(names))
    urls = {name: f"tcp://127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}
    found: list[RunningSite] = []
    try:
        for name in names:
            found.append(RunningSite(_write_site(folder, name, urls, fields)))
        yield found
    finally:
        for site in reversed(found):
            site.stop()


def _write_site(folder: Path, name: str, urls: Mapping[str, str], fields: Mapping[str, object]) -> Site:
    home = folder / name
    home.mkdir(exist_ok=True)
    config = folder / f"{name}.toml"
    config.write_text(
        _CONFIG.format(
            name=name,
            folder=home,
            url=urls[name],
            peers="".join(f'[peers.{other}]\nurl = "{url}"\n' for other, url in urls.items() if other != name),
            role="primary" if name == min(urls) else "secondary",
            **fields,
        )
    )
    return Site(
        name=name,
        folder=home,
        config=config,
        control=home / "control.sock",
        nbd_address=f"unix:{home}/disk.nbd",
        url=urls[name],
    )


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Resident memory of one process."""

    site: str
    name: str
    now_bytes: int
    peak_bytes: int


def memory_of_site(site: RunningSite) -> list[Memory]:
    """Supervisor and workers: what the kernel counts for them now, and at most since their start."""
    found = []
    for name, pid in site.pids().items():
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        now, peak = (int(fields[field].split()[0]) << 10 for field in ("VmRSS", "VmHWM"))
        found.append(Memory(site=site.name, name=name, now_bytes=now, peak_bytes=peak))
    return found


def fill(path: Path, size_bytes: int) -> None:
    """A file without holes, each of its blocks different."""
    step = 16 << 20
    with path.open("wb") as file:
        for at in range(0, size_bytes, step):
            file.write(os.urandom(min(step, size_bytes - at)))
        os.fsync(file.fileno())


def table(*columns: str) -> str:
    """Head of a table in Markdown."""
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"
