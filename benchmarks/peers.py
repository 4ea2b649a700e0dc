"""What replkit is compared with: rsync, nbdcopy, an incremental backup by a dirty bitmap of QEMU. All end durable."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limits import timed_s
from replkit.cli.demo.sites import free_ports

PEER_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Copied:
    """What a peer took to bring its copy up to date."""

    seconds: float
    sent_bytes: int


def rsync(source: Path, destination: Path) -> Copied:
    """Bring a file up to date by rsync; its delta algorithm is on, as between two machines."""
    command = ["rsync", "--inplace", "--no-whole-file", "--fsync", "--ignore-times", "--stats", source, destination]
    began_s = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PEER_TIMEOUT_S)
    seconds = time.perf_counter() - began_s
    counts = re.findall(r"^Total bytes (?:sent|received): ([\d,]+)", done.stdout, re.MULTILINE)
    return Copied(seconds, sum(int(count.replace(",", "")) for count in counts))


def nbdcopy_s(source: Path, folder: Path) -> float | None:
    """Seconds of nbdcopy from nbdkit's file plugin into a new file; ``None`` where one of them is absent."""
    if not (shutil.which("nbdcopy") and shutil.which("nbdkit")):
        return None
    copy = folder / "nbdcopy.img"
    with copy.open("wb") as file:
        file.truncate(source.stat().st_size)
    command = ["nbdkit", "-U", "-", "file", str(source), "--run", f"nbdcopy --flush $uri {copy}"]
    try:
        return timed_s(lambda: subprocess.run(command, check=True, timeout=PEER_TIMEOUT_S))
    finally:
        copy.unlink()


class QemuBackup:
    """A disk that ``qemu-storage-daemon`` serves with a dirty bitmap, and the ``qemu-nbd`` that has its copy."""

    def __init__(self, nbd_address: str, monitor: _Monitor, port: int, copy: Path) -> None:
        self.nbd_address = nbd_address
        """Where the disk is written; the name of the export is ``disk``."""
        self._monitor, self._port, self._copy = monitor, port, copy
        self._count = 0

    def bring_up_to_date(self) -> Copied:
        """Copy what the bitmap names over TCP, and end durable, as an incremental backup job does."""
        began_s = time.perf_counter()
        self._count += 1
        job, target = f"job{self._count}", f"target{self._count}"
        server = {"type": "inet", "host": "127.0.0.1", "port": str(self._port)}
        self._monitor.run("blockdev-add", {"driver": "nbd", "node-name": target, "server": server, "export": "copy"})
        backup = {"job-id": job, "device": "disk", "target": target, "sync": "incremental", "bitmap": "changed"}
        self._monitor.run("blockdev-backup", backup)
        done = self._monitor.wait_for("BLOCK_JOB_COMPLETED")
        if "error" in done:
            raise SystemExit(f"the incremental backup of qemu failed: {done['error']}")
        self._monitor.run("blockdev-del", {"node-name": target})
        descriptor = os.open(self._copy, os.O_RDWR)
        os.fdatasync(descriptor)
        os.close(descriptor)
        return Copied(time.perf_counter() - began_s, int(done["offset"]))


@contextmanager
def qemu_backup(disk: Path, copy: Path, folder: Path) -> Iterator[QemuBackup | None]:
    """Serve ``disk`` with a bitmap, and ``copy``, which equals it; ``None`` where the programs are absent.

    ``qemu-storage-daemon`` is in Debian's ``qemu-system-common``.
    """
    if not (shutil.which("qemu-storage-daemon") and shutil.which("qemu-nbd")):
        yield None
        return
    served, control, port = folder / "qemu.nbd", folder / "qemu.qmp", free_ports(1)[0]
    with ExitStack() as stack:
        receiver = ["qemu-nbd", "-t", "-e", "2", "-f", "raw", "--cache=writeback", "-x", "copy", "-b", "127.0.0.1"]
        stack.enter_context(_running([*receiver, "-p", str(port), str(copy)]))
        sender = [
            "qemu-storage-daemon",
            *("--blockdev", f"driver=file,node-name=file,filename={disk}"),
            *("--blockdev", "driver=raw,node-name=disk,file=file"),
            *("--nbd-server", f"addr.type=unix,addr.path={served}"),
            *("--export", "type=nbd,id=disk,node-name=disk,writable=on,name=disk"),
            *("--chardev", f"socket,id=monitor,path={control},server=on,wait=off", "--monitor", "chardev=monitor"),
        ]
        stack.enter_context(_running(sender))
        monitor = stack.enter_context(_Monitor(control))
        monitor.run("block-dirty-bitmap-add", {"node": "disk", "name": "changed"})
        yield QemuBackup(f"unix:{served}", monitor, port, copy)


@contextmanager
def _running(command: list[str]) -> Iterator[None]:
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.terminate()


class _Monitor:
    """The control socket of a QEMU program (QMP): commands, and the events that came between."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PEER_TIMEOUT_S)
        deadline_s = time.monotonic() + 10
        while True:
            try:
                self._socket.connect(str(path))
                break
            except OSError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.02)
        self._lines = self._socket.makefile("rb")
        self._events: list[dict[str, Any]] = []
        self._next()
        self.run("qmp_capabilities", {})

    def run(self, command: str, arguments: dict[str, Any]) -> Any:
        """The result of a command; ends the benchmark where it fails."""
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while "event" in (answer := self._next()):
            self._events.append(answer)
        if "error" in answer:
            raise SystemExit(f"qemu: {command}: {answer['error']}")
        return answer["return"]

    def wait_for(self, event: str) -> dict[str, Any]:
        """The data of the next event of that name."""
        while True:
            for place, found in enumerate(self._events):
                if found["event"] == event:
                    data: dict[str, Any] = self._events.pop(place).get("data", {})
                    return data
            self._events.append(self._next())

    def _next(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise SystemExit("qemu-storage-daemon went away")
        found: dict[str, Any] = json.loads(line)
        return found

    def __enter__(self) -> _Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()
