"""What a restart point costs the writes after it: each old block is saved, durably, before it is overwritten.

    python benchmarks/snapshot_cost.py [--rounds 3] [--folder /dev/shm] [--unpinned]

fio writes each block of a disk of 256 MiB once, 4 KiB at a time and at random, over NBD: *first* writes; then all once
more: *overwritten* blocks. Servers: the stack of a primary without a snapshot and with a held one, and qemu-nbd on the
raw disk and on a qcow2 overlay with extended L2 entries, which redirects writes and syncs nothing. Server and fio share
one CPU, and what counts is requests a second of it (``--unpinned``: requests a second). On tmpfs, for which the goals
are set, a sync costs nothing; name a ``--folder`` on a disk to see what it costs there. Takes about 3 minutes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from nbd_servers import fill_disk, fio, is_available, running
from sites import table

SERVERS = ("logged", "snapped", "qemu-nbd", "qemu-overlay")
DEPTHS = (1, 16)
PASSES = ("first", "overwritten")
GOALS = {("first", 16): " (goal 0.5)", ("overwritten", 1): " (goal 0.9)", ("overwritten", 16): " (goal 0.9)"}


def measure(name: str, depth: int, folder: Path, cpu: list[str]) -> list[float]:
    """Requests a second of the first and of the second pass over all blocks."""
    with running(name, folder, cpu) as server:
        passes = [fio(server, ("randwrite", "4k", depth), cpu, folder) for _ in PASSES]
    return [rates[bool(cpu)] for rates in passes]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--unpinned", action="store_true")
    parser.add_argument("--folder", default="/dev/shm", help="where the disk is (default: tmpfs)")
    options = parser.parse_args()
    cpu = [] if options.unpinned else ["taskset", "-c", "1"]
    names = [name for name in SERVERS if is_available(name)]
    print(table("4 KiB random writes", *(f"{name}, k/s" for name in names), "snapped / logged", "snapped / overlay"))
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="rk-bench-") as made:
        folder = Path(made)
        fill_disk(folder)
        for depth in DEPTHS:
            found: dict[str, list[list[float]]] = {name: [] for name in names}
            for _ in range(options.rounds):
                for name in names:
                    found[name].append(measure(name, depth, folder, cpu))
            for place, which in enumerate(PASSES):
                rates = {name: statistics.median(each[place] for each in rounds) for name, rounds in found.items()}
                against = f"{rates['snapped'] / rates['logged']:.2f}{GOALS.get((which, depth), '')}"
                overlay = rates.get("qemu-overlay")
                peer = f"{rates['snapped'] / overlay:.2f}" if overlay else ""
                row = " | ".join(f"{rate / 1000:.1f}" for rate in rates.values())
                print(f"| {which}, depth {depth} | {row} | {against} | {peer} |", flush=True)


if __name__ == "__main__":
    main()
