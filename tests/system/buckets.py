"""A site with a bucket behind it: real daemons, a real S3 server on loopback."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from replkit.cli.demo.sites import Daemon, Site, free_ports
from replkit.testing.s3_servers import KEY, SECRET

from .test_site import World

SIZE = 16 << 20
BLOCK = 4096


def set_credentials() -> None:
    """Where boto3 looks for them, here and in the daemons."""
    os.environ.update(AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET, AWS_EC2_METADATA_DISABLED="true")


class BucketWorld(World):
    """Sites that the test describes, one after the other; ``a`` and ``b`` are the first two."""

    def __init__(self, folder: Path, bucket: tuple[str, str]) -> None:
        self.folder = folder
        self.endpoint, self.bucket = bucket
        self.daemons: dict[str, Daemon] = {}
        set_credentials()

    def url(self, path: str) -> str:
        return f"s3://{self.bucket}/{self.folder.name.replace('_', '-')}/{path}?endpoint={self.endpoint}"

    def site(self, name: str, text: str, **places: Any) -> Site:
        """Write a site; ``{port}`` and ``{home}`` in its text are its own."""
        home = self.folder / name
        home.mkdir(exist_ok=True)
        port = free_ports(1)[0]
        control = home / "c.sock"
        config = self.folder / f"{name}.toml"
        head = f'site = "{name}"\ncontrol = "{control}"\nlisten = "tcp://127.0.0.1:{port}"\n'
        config.write_text(head + text.replace("{port}", str(port)).replace("{home}", str(home)))
        site = Site(
            name=name, folder=home, config=config, control=control, nbd_address=f"unix:{home}/d.nbd",
            url=f"tcp://127.0.0.1:{port}",
        )  # fmt: skip
        setattr(self, name, site)
        return site

    def adopted(self, name: str, config: Path) -> Site:
        """The site that ``replkit adopt`` wrote, with a control socket of its own."""
        home = config.parent
        text = config.read_text()
        config.write_text(f'control = "{home}/c.sock"\n{text}')
        url = next(line for line in text.splitlines() if line.startswith("listen")).partition('"')[2].rstrip('"')
        return Site(
            name=name, folder=home, config=config, control=home / "c.sock", nbd_address=f"unix:{home}/disk.nbd",
            url=url,
        )  # fmt: skip

    def start(self, site: Site) -> dict[str, Any]:
        """As any site; the first look at a store takes its time."""
        self.daemons[site.name] = self.begin(site)
        deadline_s = time.monotonic() + 150
        while True:
            status = self.status(site)
            troubles = [one for one in status["volumes"] if one.get("problem")]
            if not troubles and all(worker["ready"] for worker in status["workers"]):
                return status
            assert time.monotonic() < deadline_s, status
            time.sleep(0.2)

    def is_so(self, predicate: Callable[[], object], what: str) -> None:
        """Ask until it is so."""
        deadline_s = time.monotonic() + 120
        while not predicate():
            assert time.monotonic() < deadline_s, what
            time.sleep(0.1)

    def begin(self, site: Site) -> Daemon:
        """Start a daemon, and return when it answers."""
        daemon = Daemon(site)
        daemon.connect().close()
        return daemon

    def named(self, name: str, site: Site | None = None) -> dict[str, Any]:
        return next(volume for volume in self.status(site)["volumes"] if volume["name"] == name)

    def command(self, *words: Any, code: int = 0) -> str:
        """A command that needs no daemon; what it says."""
        from click.testing import CliRunner

        from replkit.cli.main import main

        result = CliRunner().invoke(main, [str(word) for word in words], prog_name="replkit")
        assert result.exit_code == code, result.output
        return result.output

    def kill(self, site: Site) -> None:
        """Every process of a site ends between two instructions."""
        daemon = self.daemons.pop(site.name)
        os.killpg(daemon._process.pid, signal.SIGKILL)
        daemon.kill()


PLAIN = """
[peers.bucket]
url = "tcp://127.0.0.1:{{port}}"

[volumes.disk]
url = "file://{{home}}/disk.img"
size = {size}
role = "primary"
nbd = "unix:{{home}}/d.nbd"
save_volume = {{ url = "file://{{home}}/save", capacity = "256MiB" }}
destinations = [{{ peer = "bucket", volume = "disk-bucket" }}]
[volumes.disk.policy]
interval_s = 1

[volumes.disk-bucket]
url = "{volume}"
size = {size}
role = "secondary"
nbd = "unix:{{home}}/b.nbd"
save_volume = {{ url = "{save}", capacity = "256MiB" }}
"""


class Image:
    """What was written, for comparing."""

    def __init__(self, size: int = SIZE) -> None:
        self.data = bytearray(size)
        self._lock = threading.Lock()

    def write(self, world: BucketWorld, address: str, offset: int, data: bytes, name: str = "disk") -> None:
        from replkit.site.nbd.client import NbdClient

        with NbdClient(address, name) as client:
            client.write(offset, data)
            client.flush()
        with self._lock:
            self.data[offset : offset + len(data)] = data


def read_all(address: str, name: str, size: int = SIZE) -> bytes:
    """All of an export."""
    from replkit.site.nbd.client import NbdClient

    with NbdClient(address, name) as client:
        return b"".join(bytes(client.read(at, min(4 << 20, size - at))) for at in range(0, size, 4 << 20))


SUGAR = """
[volumes.disk]
url = "file://{{home}}/disk.img"
size = {size}
role = "primary"
nbd = "unix:{{home}}/d.nbd"
save_volume = {{ url = "file://{{home}}/save", capacity = {capacity} }}
destinations = [
  {{ bucket = "{bucket}", endpoint = "{endpoint}", nbd = "unix:{{home}}/b.nbd", policy = {{ keep_all_s = 86400 }} }},
]
[volumes.disk.policy]
interval_s = 1
"""


def sugar(world: BucketWorld, size: int = SIZE, *, capacity: int = 256 << 20, options: str = "") -> str:
    """A site whose one destination is the bucket; ``options`` are more of its URL, as ``limit=1MiB/s``."""
    bucket = world.url("dr").partition("?")[0] + (f"?{options}" if options else "")
    return SUGAR.format(size=size, capacity=capacity, bucket=bucket, endpoint=world.endpoint)
