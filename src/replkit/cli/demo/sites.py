"""The two sites of the demo: configurations, daemons, and the folder that holds them."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replkit.errors import AlreadyExistsError, ControlError, InvalidArgumentError
from replkit.site.control import ControlClient
from replkit.site.names import MAX_SOCKET_PATH_BYTES

MARKER = ".replkit-demo"
VOLUME = "disk"
START_TIMEOUT_S = 90.0
_RUN_PREFIX = "replkit-demo-"
"""Folders for the sockets of a demo whose own folder has too long a path."""
_PORTS = (20_000, 32_768)
_CONFIG = """\
# Site {site} of the demo. Check it with: replkit config check {path}
site = "{site}"
control = "{control}"
listen = "tcp://127.0.0.1:{port}"

[peers.{peer}]
url = "tcp://127.0.0.1:{peer_port}"

[volumes.disk]
url = "{image}"
size = {size_bytes}
role = "{role}"
nbd = "unix:{nbd}"
save_volume = {{ url = "{save}", capacity = {capacity_bytes} }}
{more}"""
_PRIMARY_POLICY = """
[volumes.disk.policy]
interval_s = 1
high_water_bytes = "64MiB"
"""


@dataclass(frozen=True, kw_only=True)
class Site:
    """One site of the demo, by its places."""

    name: str
    folder: Path
    config: Path
    control: Path
    nbd_address: str
    url: str

    @property
    def image(self) -> Path:
        """The file that holds the site's volume."""
        return self.folder / "disk.img"


def prepare_folder(folder: Path) -> None:
    """Empty a folder of an earlier demo, or make it; a folder that is not ours is left alone."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).exists():
            raise AlreadyExistsError(f"{folder} is not empty and no folder of a demo", hint="name another with --dir")
        sockets = _control_sockets(folder)
        _refuse_running(folder, sockets)
        for socket_path in sockets:
            if socket_path.parents[1].name.startswith(_RUN_PREFIX):
                shutil.rmtree(socket_path.parents[1], ignore_errors=True)
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text("replkit demo: this folder is emptied by the next run\n")


def _control_sockets(folder: Path) -> list[Path]:
    """Those of an earlier demo in ``folder``; they are elsewhere where its path is too long for a socket."""
    found = []
    for config in folder.glob("?.toml"):
        with suppress(OSError, ValueError, KeyError):  # broken off, or written by somebody else
            found.append(Path(tomllib.loads(config.read_text())["control"]))
    return found


def _refuse_running(folder: Path, sockets: list[Path]) -> None:
    for socket_path in sockets:
        try:
            with ControlClient(socket_path, timeout_s=2) as client:
                pid = client.request("ping", answer_timeout_s=2)["pid"]
        except ControlError:
            continue
        raise AlreadyExistsError(f"a daemon of an earlier demo runs in {folder} (process {pid})", hint="stop it first")


def write_sites(folder: Path, size_bytes: int) -> tuple[Site, Site]:
    """Folders and configurations of site a (primary) and b (secondary)."""
    ports = free_ports(2)
    run = folder
    if len(str(folder / "a" / "control.sock").encode()) > MAX_SOCKET_PATH_BYTES:
        run = Path(tempfile.mkdtemp(prefix=_RUN_PREFIX))  # paths of sockets are short, those of folders need not be
    sites = []
    for index, (name, role) in enumerate((("a", "primary"), ("b", "secondary"))):
        home, sockets = folder / name, run / name
        home.mkdir(exist_ok=True)
        sockets.mkdir(exist_ok=True)
        site = Site(
            name=name,
            folder=home,
            config=folder / f"{name}.toml",
            control=sockets / "control.sock",
            nbd_address=f"unix:{sockets / 'disk.nbd'}",
            url=f"tcp://127.0.0.1:{ports[index]}",
        )
        site.config.write_text(
            _CONFIG.format(
                site=name,
                path=site.config,
                control=site.control,
                port=ports[index],
                peer="ba"[index],
                peer_port=ports[1 - index],
                image=site.image.as_uri(),
                size_bytes=size_bytes,
                role=role,
                nbd=sockets / "disk.nbd",
                save=(home / "save").as_uri(),
                capacity_bytes=max(2 << 30, 2 * size_bytes),
                more=_PRIMARY_POLICY if role == "primary" else "",
            )
        )
        sites.append(site)
    return sites[0], sites[1]


def free_ports(count: int) -> list[int]:
    """Ports that are free now, outside the range from which Linux gives connections theirs: they stay free."""
    found: list[int] = []
    while len(found) < count:
        port = secrets.choice(range(*_PORTS))
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            found += [port] if port not in found else []
    return found


class Daemon:
    """``replkit serve`` of one site; ends with us, however we end, because it watches its standard input."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.log = site.folder / "daemon.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "replkit", "serve", "--config", str(site.config), "--until-stdin-ends"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which then ends the daemons in order
            )

    def connect(self) -> ControlClient:
        """A control connection, once the daemon answers."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                return ControlClient(self.site.control)
            except ControlError as error:
                if self._process.poll() is not None:
                    raise InvalidArgumentError(f"site {self.site.name} did not start: {self.last_words()}") from error
                if time.monotonic() > deadline_s:
                    raise
            time.sleep(0.05)

    def last_words(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-1000:].strip() or "its log is empty"

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self.stop()

    def stop(self) -> int:
        """End it cleanly; its exit code."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            if self._process.stdin is not None:
                self._process.stdin.close()


def wait_ready(client: ControlClient, daemon: Daemon) -> dict[str, Any]:
    """The status of a site, once all its workers are ready."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        status: dict[str, Any] = client.request("status")
        problems = [worker["last_error"] for worker in status["workers"] if not worker["ready"]]
        problems += [volume["problem"] for volume in status["volumes"] if volume.get("problem")]
        if not problems:
            return status
        if time.monotonic() > deadline_s:
            raise ControlError(f"site {daemon.site.name} is not ready: {'; '.join(problems)}: {daemon.last_words()}")
        time.sleep(0.1)
