"""NBD servers to be measured, and fio as their client: requests a second, or a second of the CPU that they share."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SIZE_BYTES = 256 << 20
SAVE_BYTES = 2 << 30
LONGEST_S = 120.0
QEMU_NBD = ("qemu-nbd", "-t", "-e", "8", "--cache=writeback", "--pid-file={pid}", "-k", "{socket}")
OWN = (sys.executable, __file__, "{disk}", "{socket}", "{pid}")
SERVERS = {
    "replkit": (*OWN, "plain"),
    "logged": (*OWN, "logged"),
    "snapped": (*OWN, "snapped"),
    "nbdkit": ("nbdkit", "-f", "-P", "{pid}", "-U", "{socket}", "file", "{disk}"),
    "qemu-nbd": (*QEMU_NBD, "-f", "raw", "{disk}"),
    "qemu-bitmap": (*QEMU_NBD, "-f", "qcow2", "{disk}.qcow2"),
    "qemu-overlay": (*QEMU_NBD, "-f", "qcow2", "{disk}.qcow2"),
}
"""``logged`` is the stack of a primary, ``snapped`` the same with a held snapshot."""
_OVERLAY = ("create", "-q", "-f", "qcow2", "-F", "raw", "-b", "{disk}", "-o", "extended_l2=on,cluster_size=128k")
PREPARED = {
    "qemu-bitmap": (
        ("convert", "-f", "raw", "-O", "qcow2", "{disk}", "{disk}.qcow2"),
        ("bitmap", "--add", "{disk}.qcow2", "changed"),
    ),
    "qemu-overlay": ((*_OVERLAY, "{disk}.qcow2"),),
}
"""What ``qemu-img`` has to make before, by server."""
Work = tuple[str, str, int]
"""Pattern and block size as fio calls them, and the queue depth."""


@dataclass(frozen=True)
class Served:
    """A server that runs: where, and the process that does the work."""

    uri: str
    pid: int


def is_available(name: str) -> bool:
    """Whether the programs that a server needs are installed."""
    return shutil.which(SERVERS[name][0]) is not None and (name not in PREPARED or shutil.which("qemu-img") is not None)


def fill_disk(folder: Path) -> None:
    """The disk of a folder: every block written, each another one."""
    with (folder / "disk").open("wb") as disk:
        for _ in range(SIZE_BYTES >> 20):
            disk.write(os.urandom(1 << 20))


@contextmanager
def running(name: str, folder: Path, cpu: list[str]) -> Iterator[Served]:
    """Run a server over the disk of a folder, alone on a CPU if ``cpu`` is a command that sees to it."""
    disk, socket, pid = folder / "disk", folder / f"{name}.sock", folder / f"{name}.pid"
    for words in PREPARED.get(name, ()):
        subprocess.run(["qemu-img", *(word.format(disk=disk) for word in words)], check=True, timeout=LONGEST_S)
    command = [word.format(disk=disk, socket=socket, pid=pid) for word in SERVERS[name]]
    with subprocess.Popen([*cpu, *command]) as process:
        try:
            while not pid.exists() or not pid.stat().st_size:
                if process.poll() is not None:
                    raise SystemExit(f"{name} ended with {process.returncode}")
                threading.Event().wait(0.01)
            yield Served(f"nbd+unix:///?socket={socket}", process.pid)
        finally:
            process.terminate()
            process.wait()
            for left in (socket, pid, Path(f"{disk}.qcow2")):
                left.unlink(missing_ok=True)
            shutil.rmtree(f"{pid}.save", ignore_errors=True)


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fio(
    server: Served, work: Work, cpu: list[str], folder: Path, *, seconds: float | None = None
) -> tuple[float, float]:
    """Requests a second, and requests a second of the CPU that server and fio use, of one work.

    For ``seconds``, with blocks chosen at random again and again; without, until each block was requested once.
    """
    pattern, block, depth = work
    bound = ["--time_based", f"--runtime={seconds}", "--norandommap"] if seconds else [f"--runtime={LONGEST_S}"]
    command = [
        *(*cpu, "fio", "--name=w", "--ioengine=nbd", f"--uri={server.uri}", f"--rw={pattern}", f"--bs={block}"),
        *(f"--iodepth={depth}", f"--size={SIZE_BYTES}", "--randrepeat=1", *bound),
        *("--output-format=json", f"--aux-path={folder}", "--thread"),
    ]
    before_s = cpu_s(server.pid)
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=2 * LONGEST_S)
    (job,) = json.loads(done.stdout[done.stdout.index("{") :])["jobs"]
    figures = job["write" if "write" in pattern else "read"]
    fio_s = figures["runtime"] / 1000 * (job["usr_cpu"] + job["sys_cpu"]) / 100
    return float(figures["iops"]), float(figures["total_ios"] / (cpu_s(server.pid) - before_s + fio_s))


def serve(disk: str, socket: str, pid: str, layer: str) -> None:
    """Serve ``disk`` until killed: the process that is measured."""
    from replkit.backends.file import FileVolume
    from replkit.contracts.registry import Registry, VolumeOptions
    from replkit.contracts.volume import BlockVolume
    from replkit.replication.logged import LoggedVolume
    from replkit.site.nbd import Export, NbdServer
    from replkit.snapshot.records import CellSnapshotTable
    from replkit.testing.runtime import ThreadRuntime

    volume: BlockVolume = FileVolume.open(f"file://{disk}", VolumeOptions())
    if layer != "plain":
        save = Registry().open_save_volume(f"file://{pid}.save", capacity_bytes=SAVE_BYTES, create=True)
        logged = volume = LoggedVolume.open(volume, save, CellSnapshotTable(save), ThreadRuntime())
        if layer == "snapped":
            logged.snapped.create_snapshot("restart.2", None, held=True)
    NbdServer({"": Export(volume=volume)}, f"unix:{socket}").start()
    Path(pid).write_text(f"{os.getpid()}\n")
    threading.Event().wait()


if __name__ == "__main__":
    serve(*sys.argv[1:])
