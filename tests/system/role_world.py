"""Two or three real sites whose roles change, each a peer of every other, and a user that can be at any of them."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from replkit.cli.demo.sites import Daemon, Site, free_ports
from replkit.errors import ReplkitError
from replkit.site.nbd.client import NbdClient

from .test_site import World

PIECE = 1 << 20
_CONFIG = """\
site = "{name}"
control = "{folder}/control.sock"
listen = "{url}"
{peers}
[volumes.disk]
url = "file://{folder}/disk.img"
size = {size}
role = "{role}"
nbd = "unix:{folder}/disk.nbd"
save_volume = {{ url = "file://{folder}/save", capacity = "{capacity}" }}
[volumes.disk.policy]
interval_s = 0.3
"""


class RoleWorld(World):
    """Sites called by letters; all are started, and the first is the primary of the others."""

    def __init__(self, folder: Path, names: str = "ab", *, size: int = 4 << 20, capacity: str = "1GiB") -> None:
        urls = {name: f"tcp://127.0.0.1:{port}" for name, port in zip(names, free_ports(len(names)), strict=True)}
        self.sites = {name: _site(folder, name, urls, size, capacity) for name in names}
        self.a, self.b, self.c = self.sites["a"], self.sites["b"], self.sites.get("c")
        self.daemons = {}

    def begin(self) -> None:
        """Start every site, and let all follow the first."""
        first, *others = self.sites.values()
        for site in self.sites.values():
            self.start(site)
        self.put(first, 0, b"first")
        for site in others:
            self.ask("replica", "add", "disk", site.name, site.url)
        for site in others:
            self.follows(first, site)

    def put(self, site: Site, block: int, words: bytes) -> None:
        """One block, durable."""
        with NbdClient(site.nbd_address, "disk") as client:
            client.write(block * 4096, words.ljust(4096, b"."))
            client.flush()

    def refuses(self, site: Site) -> bool:
        """Whether a user cannot write there."""
        try:
            self.put(site, 0, b"never to be seen")
        except ReplkitError:
            return True
        return False

    def block(self, site: Site, block: int) -> bytes:
        """What a user reads there, without the padding."""
        return self.read(site.nbd_address, "disk", block * 4096, 4096).rstrip(b".\0")

    def content(self, site: Site) -> bytes:
        """The whole volume as a user reads it."""
        with NbdClient(site.nbd_address, "disk") as client:
            return b"".join(bytes(client.read(at, PIECE)) for at in range(0, client.size_bytes, PIECE))

    def is_in(self, site: Site, *states: str) -> None:
        """Wait for a state."""
        self.is_so(lambda: self.volume(site).get("state") in states, f"{site.name} is {' or '.join(states)}")

    def is_a(self, site: Site, role: str) -> None:
        """Wait for a role, and for the volume to be served in it."""
        self.is_so(
            lambda: self.volume(site).get("role") == role and not self.volume(site).get("problem"),
            f"{site.name} is a {role}",
        )

    def member(self, primary: Site, name: str) -> dict:
        """What a primary says of a member; empty while it has none of that name."""
        return next((each for each in self.volume(primary).get("members", []) if each["name"] == name), {})

    def follows(self, primary: Site, member: Site) -> None:
        """Wait until a member only follows."""
        self.is_so(lambda: self.member(primary, member.name).get("state") == "following", f"{member.name} follows")

    def are_equal(self, primary: Site, *members: Site) -> None:
        """Everything written is played at the members, and they hold what the primary holds."""
        for member in members:
            self.follows(primary, member)
        self.ask("wait", "disk", "--durable-on", len(members), "--played", "--timeout", 60, site=primary)
        mine = self.content(primary)
        for member in members:
            assert self.content(member) == mine, f"{member.name} differs from {primary.name}"

    def kill(self, site: Site) -> None:
        """Every process of a site ends between two instructions."""
        daemon: Daemon = self.daemons[site.name]
        os.killpg(daemon._process.pid, signal.SIGKILL)
        daemon.kill()

    def end(self, site: Site) -> None:
        """End a site cleanly."""
        assert self.daemons[site.name].stop() == 0

    def again(self, site: Site) -> None:
        """End a site cleanly, and start it again."""
        self.end(site)
        self.start(site)

    def cloned(self, site: Site, name: str) -> Site:
        """Another site with a copy of everything that an ended one has; only its name and its addresses are others."""
        (port,) = free_ports(1)
        home = site.folder.with_name(name)
        shutil.copytree(site.folder, home)
        url, config = f"tcp://127.0.0.1:{port}", site.config.with_name(f"{name}.toml")
        text = site.config.read_text().replace(str(site.folder), str(home)).replace(site.url, url)
        config.write_text(text.replace(f'site = "{site.name}"', f'site = "{name}"'))
        self.sites[name] = clone = Site(
            name=name, folder=home, config=config, control=home / "control.sock",
            nbd_address=f"unix:{home}/disk.nbd", url=url,
        )  # fmt: skip
        return clone

    def tracebacks(self) -> list[str]:
        """Logs that have one."""
        logs = [daemon.log.read_text() for daemon in self.daemons.values()]
        return [log for log in logs if "Traceback" in log]


@contextmanager
def begun(world: RoleWorld) -> Iterator[RoleWorld]:
    """A world from its beginning to its end, after which no log of it has a traceback."""
    try:
        world.begin()
        yield world
    finally:
        world.stop()
    assert world.tracebacks() == []


def _site(folder: Path, name: str, urls: dict[str, str], size: int, capacity: str) -> Site:
    home = folder / name
    home.mkdir()
    peers = "".join(f'[peers.{other}]\nurl = "{url}"\n' for other, url in urls.items() if other != name)
    config = folder / f"{name}.toml"
    role = "primary" if name == min(urls) else "secondary"
    config.write_text(
        _CONFIG.format(name=name, folder=home, url=urls[name], peers=peers, size=size, role=role, capacity=capacity)
    )
    return Site(
        name=name, folder=home, config=config, control=home / "control.sock", nbd_address=f"unix:{home}/disk.nbd",
        url=urls[name],
    )  # fmt: skip
