"""What a further secondary costs: blocks are read and hashed once, by the cutter, however many secondaries there are.

    python benchmarks/fan_out.py [--secondaries 3] [--changed-mib 64] [--size-mib 512] [--rounds 3] [--dir DIR]

Daemons on one machine, one primary and up to so many secondaries, added one after the other. In each round random 4 KiB
blocks are written through NBD; from the cut until all have played it, the CPU seconds and the bytes read of the process
that serves and cuts (``primary``) and of the one that sends to all (``sender``) are counted. Goal: the primary's stay
the same, and the sender's grow by what reading a chunk and writing it to one more socket costs. Takes about a minute.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
from pathlib import Path

from nbd_servers import cpu_s
from replkit.site.nbd.client import NbdClient
from sites import BLOCK_SIZE, ON_COMMAND, RunningSite, fill, running_sites, table

PROCESSES = ("primary.disk", "sender.disk")
FIGURES = ("s", *(f"{name}, {what}" for name in PROCESSES for what in ("CPU s", "read / changed")))


def spent(site: RunningSite) -> list[float]:
    """CPU seconds and bytes read so far, of each process."""
    pids, found = site.pids(), []
    for name in PROCESSES:
        counts = dict(line.split(": ") for line in Path(f"/proc/{pids[name]}/io").read_text().splitlines())
        found += [cpu_s(pids[name]), float(counts["rchar"])]
    return found


def one_round(site: RunningSite, members: int, blocks: list[int]) -> list[float]:
    """Change, and let all play it: the figures of a line of the table."""
    with NbdClient(site.nbd_address, "disk") as client:
        client.write_many((block * BLOCK_SIZE, os.urandom(BLOCK_SIZE)) for block in blocks)
        client.flush()
    before = spent(site)
    took_s = site.wait_played(members)
    used = [after - earlier for after, earlier in zip(spent(site), before, strict=True)]
    changed = len(blocks) * BLOCK_SIZE
    return [took_s, used[0], used[1] / changed, used[2], used[3] / changed]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--secondaries", type=int, default=3)
    parser.add_argument("--changed-mib", type=int, default=64)
    parser.add_argument("--size-mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=None, help="where (default: a temporary folder)")
    options = parser.parse_args()
    chance, count = random.Random(1), (options.size_mib << 20) // BLOCK_SIZE
    changed = (options.changed_mib << 20) // BLOCK_SIZE
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="rk-bench-") as name:
        folder = Path(name)
        (folder / "a").mkdir()
        fill(folder / "a" / "disk.img", options.size_mib << 20)
        names = "abcdefghij"[: options.secondaries + 1]
        with running_sites(folder, names, options.size_mib << 20, ON_COMMAND) as (a, *others):
            print(table(f"secondaries, {options.changed_mib} MiB changed", *FIGURES))
            for members, other in enumerate(others, 1):
                a.follow(other)
                rounds = [
                    one_round(a, members, sorted(chance.sample(range(count), changed))) for _ in range(options.rounds)
                ]
                row = [statistics.median(values) for values in zip(*rounds, strict=True)]
                print(f"| {members} | {' | '.join(f'{value:.2f}' for value in row)} |", flush=True)


if __name__ == "__main__":
    main()
