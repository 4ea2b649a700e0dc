"""The NBD server against its peers: fio over a Unix socket, everything on tmpfs, ratios within one run.

    python benchmarks/nbd_write_path.py [--seconds 3] [--rounds 3] [--unpinned] [--servers plain,nbdkit] [work ...]

Servers: a volume by itself (``replkit``), with the change log on (``logged``), as the primary of two daemons that
cut each second (``replicating``); nbdkit's file plugin, qemu-nbd on the raw disk, and on qcow2 with a dirty bitmap
(``qemu-bitmap``). Server and fio share one CPU, and what counts is how many requests a second of it carries, both
programs taken together, the cutter included: that holds also while others use the machine. The other processes of the
daemons have the other CPUs. ``--unpinned`` counts requests a second instead, with everything on all CPUs. Rounds go
through all servers in turn; medians are compared. Takes about 9 minutes; ``--seconds 1 --rounds 1`` two.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nbd_servers import SIZE_BYTES, Served, Work, fill_disk, fio, is_available, running
from sites import RunningSite, running_sites, table

WORKS: dict[str, Work] = {
    "write 4 KiB, depth 1": ("randwrite", "4k", 1),
    "write 4 KiB, depth 16": ("randwrite", "4k", 16),
    "read 4 KiB, depth 1": ("randread", "4k", 1),
    "read 4 KiB, depth 16": ("randread", "4k", 16),
    "write 1 MiB": ("write", "1m", 4),
    "read 1 MiB": ("read", "1m", 4),
}
SERVERS = ("replkit", "logged", "replicating", "nbdkit", "qemu-nbd", "qemu-bitmap")
RATIOS = (
    ("replkit", "nbdkit", 1.2),
    ("replkit", "qemu-nbd", 1.8),
    ("logged", "replkit", 0.9),
    ("replicating", "replkit", 0.9),
    ("replicating", "qemu-bitmap", 1.8),
)
"""Pairs that are compared, and the goals at 4 KiB."""
CUT_EACH_S = {"interval_s": 1}


def pin(pid: int, cpus: set[int]) -> None:
    """Let all threads of a process run on these CPUs only; those that they start inherit it."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cpus)


def pin_sites(sites: list[RunningSite], cpu: int) -> int:
    """Give the process that serves the primary a CPU, and all others of the daemons the rest; its process id."""
    serving = 0
    for site in sites:
        for name, pid in site.pids().items():
            is_serving = name.startswith("primary.")
            serving = pid if is_serving else serving
            pin(pid, {cpu} if is_serving else set(range(os.cpu_count() or 1)) - {cpu} or {cpu})
    return serving


@contextmanager
def replicating(folder: Path, cpu: list[str]) -> Iterator[Served]:
    """A primary with a secondary that follows it, in a steady state: the copy is made, and sets go on and on."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="s") as made:
        sites_folder = Path(made)
        (sites_folder / "a").mkdir()
        os.link(folder / "disk", sites_folder / "a" / "disk.img")
        with running_sites(sites_folder, "ab", SIZE_BYTES, CUT_EACH_S) as (a, b):
            a.follow(b)
            pid = a.pids()["primary.disk"]
            if cpu:
                pid = pin_sites([a, b], int(cpu[-1]))
            yield Served(f"nbd+unix:///disk?socket={a.nbd_address.removeprefix('unix:')}", pid)


def measure(name: str, work: Work, seconds: float, cpu: list[str], folder: Path) -> float:
    """Requests a second, or a second of the shared CPU."""
    serving = replicating(folder, cpu) if name == "replicating" else running(name, folder, cpu)
    with serving as server:
        return fio(server, work, cpu, folder, seconds=seconds)[bool(cpu)]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", default=list(WORKS), metavar="work", help=", ".join(WORKS))
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--unpinned", action="store_true")
    parser.add_argument("--servers", default=",".join(SERVERS))
    parser.add_argument("--folder", default="/dev/shm", help="where the disk is: tmpfs")
    options = parser.parse_args()
    cpu = [] if options.unpinned else ["taskset", "-c", "1"]
    names = [name for name in options.servers.split(",") if name == "replicating" or is_available(name)]
    pairs = [pair for pair in RATIOS if pair[0] in names and pair[1] in names]
    unit = "k/s" if options.unpinned else "k/s of CPU"
    heads = (f"{one} / {other} ({goal})" for one, other, goal in pairs)
    print(table("work", *(f"{name}, {unit}" for name in names), *heads))
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="rk-bench-") as made:
        folder = Path(made)
        fill_disk(folder)
        for work in options.works:
            found: dict[str, list[float]] = {name: [] for name in names}
            for _ in range(options.rounds):
                for name in names:
                    found[name].append(measure(name, WORKS[work], options.seconds, cpu, folder))
            rate = {name: statistics.median(values) for name, values in found.items()}
            row = [f"{rate[name] / 1000:.2f}" for name in names]
            row += [f"{rate[one] / rate[other]:.2f}" for one, other, _ in pairs]
            print(f"| {work} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
