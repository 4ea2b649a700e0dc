"""The delta pipeline from end to end, through two daemons: cut, save, send, save, play; against peers and the limits.

    python benchmarks/delta_pipeline.py [--size-gib 4] [--changed-percent 1] [--only random|runs] [--rounds 3]

A volume full of random bytes is replicated: the initial copy, against nbdcopy. Then, in each round, blocks of it are
written through NBD and flushed, at random places or in runs of 256; the clock runs from the command that cuts until the
secondary has acknowledged that it is played. rsync brings another copy of the primary's file up to date from the same
blocks, and so does an incremental backup by a dirty bitmap of QEMU, whose disk got them too. Everything ends durable.
The limits are the steps of the pipeline alone, over the same blocks. Takes about 6 minutes at 4 GiB, and 8 times its
size of room; peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from limits import limits_s
from peers import QemuBackup, nbdcopy_s, qemu_backup, rsync
from replkit.contracts.registry import default_registry
from replkit.site.compare import compare_volumes
from replkit.site.nbd.client import NbdClient
from sites import BLOCK_SIZE, ON_COMMAND, RunningSite, fill, memory_of_site, running_sites, table

RUN_BLOCKS = 256
KINDS = ("random", "runs")
QEMU, RSYNC = "qemu, incremental backup by a dirty bitmap", "rsync --inplace"
PEERS = (QEMU, RSYNC)


def chosen_blocks(block_count: int, percent: float, kind: str, chance: random.Random) -> list[int]:
    """Ascending block numbers, so many percent of all."""
    wanted = int(block_count * percent / 100)
    if kind == "random":
        return sorted(chance.sample(range(block_count), wanted))
    starts = chance.sample(range(block_count // RUN_BLOCKS), max(1, wanted // RUN_BLOCKS))
    return sorted(start * RUN_BLOCKS + offset for start in starts for offset in range(RUN_BLOCKS))


class Bench:
    """Two sites, and the disks of the peers that have the same content."""

    def __init__(self, a: RunningSite, b: RunningSite, rsync_copy: Path | None, qemu: QemuBackup | None) -> None:
        self.a, self.b, self._rsync_copy, self._qemu = a, b, rsync_copy, qemu
        self._spare = b.image.with_name("limit.img")

    def initial_copy(self, folder: Path) -> None:
        """Make the secondary, and print the table that compares it with nbdcopy."""
        took_s = self.a.follow(self.b)
        peer_s = nbdcopy_s(self.a.image, folder)
        gigabytes = self.a.image.stat().st_size / 1e9
        print(table("initial copy, durable", "s", "GB/s", "ratio to replkit"))
        print(f"| replkit, checksummed on both sides | {took_s:.2f} | {gigabytes / took_s:.2f} | 1 |")
        if peer_s is not None:
            ratio = f"{peer_s / took_s:.2f} (goal 1.5)"
            print(f"| nbdkit file + nbdcopy --flush | {peer_s:.2f} | {gigabytes / peer_s:.2f} | {ratio} |")
        print("\n" + table("process", "most memory (goal: 64 MiB)"))
        for one in [*memory_of_site(self.a), *memory_of_site(self.b)]:
            print(f"| {one.site}: {one.name} | {one.peak_bytes / (1 << 20):.0f} MiB |")
        shutil.copyfile(self.b.image, self._spare)

    def one_round(self, blocks: list[int]) -> tuple[dict[str, float], dict[str, int]]:
        """Change, replicate, and let the peers do the same; seconds by name, and bytes that the peers sent."""
        writes = [(block * BLOCK_SIZE, os.urandom(BLOCK_SIZE)) for block in blocks]
        _write(self.a.nbd_address, writes)
        found, sent = {"replkit": self.a.wait_played()}, {}
        if self._qemu is not None:
            _write(self._qemu.nbd_address, writes)
            copied = self._qemu.bring_up_to_date()
            found[QEMU], sent[QEMU] = copied.seconds, copied.sent_bytes
        if self._rsync_copy is not None:
            copied = rsync(self.a.image, self._rsync_copy)
            found[RSYNC], sent[RSYNC] = copied.seconds, copied.sent_bytes
        return found | limits_s(self.a.image, self._spare, self.a.site.folder, blocks, BLOCK_SIZE), sent

    def measure(self, kind: str, rounds: int, blocks_of_round: list[list[int]]) -> None:
        """The table of one kind of change; medians over the rounds."""
        before = self.a.sent_bytes("b")
        found = [self.one_round(blocks) for blocks in blocks_of_round]
        payload_bytes = len(blocks_of_round[0]) * BLOCK_SIZE
        sent = {name: statistics.median(each[name] for _, each in found) for name in found[0][1]}
        sent["replkit"] = (self.a.sent_bytes("b") - before) / rounds
        report(kind, [seconds for seconds, _ in found], payload_bytes, sent)

    def check(self) -> None:
        """Both sites hold the same."""
        registry = default_registry()
        with (
            registry.open_volume(self.a.image.as_uri(), read_only=True) as left,
            registry.open_volume(self.b.image.as_uri(), read_only=True) as right,
        ):
            assert compare_volumes(left, right).is_equal


def _write(nbd_address: str, writes: list[tuple[int, bytes]]) -> None:
    with NbdClient(nbd_address, "disk") as client:
        client.write_many(writes)
        client.flush()


def report(kind: str, rounds: list[dict[str, float]], payload_bytes: int, sent: dict[str, float]) -> None:
    """Print the table of one kind of change."""
    median = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
    pipeline_s = median.pop("replkit")
    random_goals = {QEMU: " (goal 4)", RSYNC: " (goal 20)"}
    goals = random_goals if kind == "random" else {QEMU: " (goal 1)"}
    print(
        "\n" + table(f"{payload_bytes / 1e6:.0f} MB changed, {kind}", "s", "ratio to replkit", "bytes sent / changed")
    )
    share = f"{sent['replkit'] / payload_bytes:.3f} (goal 1.02)"
    spread = f"{min(found['replkit'] for found in rounds):.3f} to {max(found['replkit'] for found in rounds):.3f}"
    print(f"| replkit: cut to played ({spread}) | {pipeline_s:.3f} | 1 | {share} |")
    for name, took_s in median.items():
        share = f"{sent[name] / payload_bytes:.2f}" if name in sent else ""
        print(f"| {name} | {took_s:.3f} | {took_s / pipeline_s:.2f}{goals.get(name, '')} | {share} |")
    slowest = max(took_s for name, took_s in median.items() if name not in PEERS)
    print(f"\nSpeed as a share of the slowest limit: {slowest / pipeline_s:.2f} (goal 0.6).", flush=True)


def main() -> None:
    """Run it in a folder that is removed afterwards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-gib", type=float, default=4)
    parser.add_argument("--changed-percent", type=float, default=1)
    parser.add_argument("--only", choices=KINDS, help="only one kind of change")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true", help="neither qemu nor rsync, to profile replkit")
    parser.add_argument("--dir", type=Path, default=None, help="where (default: a temporary folder)")
    options = parser.parse_args()
    size_bytes = int(options.size_gib * (1 << 30)) & -(16 << 20)
    chance = random.Random(1)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.dir, prefix="rk-bench-")))
        (folder / "a").mkdir()
        source = folder / "a" / "disk.img"
        fill(source, size_bytes)
        rsync_copy = qemu = None
        if not options.no_peers:
            copies = [shutil.copyfile(source, folder / name) for name in ("rsync.img", "qemu-a.img", "qemu-b.img")]
            rsync_copy = copies[0] if shutil.which("rsync") else None
            qemu = stack.enter_context(qemu_backup(copies[1], copies[2], folder))
        a, b = stack.enter_context(running_sites(folder, "ab", size_bytes, ON_COMMAND))
        bench = Bench(a, b, rsync_copy, qemu)
        bench.initial_copy(folder)
        for kind in (options.only,) if options.only else KINDS:
            count = size_bytes // BLOCK_SIZE
            rounds = [chosen_blocks(count, options.changed_percent, kind, chance) for _ in range(options.rounds)]
            bench.measure(kind, options.rounds, rounds)
        bench.check()


if __name__ == "__main__":
    main()
