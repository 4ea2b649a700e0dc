"""How far a secondary is behind under a steady load of 4 KiB writes, with a cut each second.

    python benchmarks/lag.py [--seconds 60] [--writes-per-s 1000] [--size-mib 1024] [--dir DIR]

Two daemons; fio writes random blocks of the primary over NBD at a fixed rate. Ten times a second the time since the
newest set that the secondary has received, durably, was cut, and since the newest that it has played: this is how old
the newest state is that would be left if the primary were lost now. Goal: below 2.5 s at the 99th percentile. Takes
``--seconds``, and 20 more.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from sites import RunningSite, fill, running_sites, table

POLICY = {"interval_s": 1}
LOOK_EACH_S = 0.1
WARM_UP_S = 3.0
LEVELS = ("received", "played")


def load(site: RunningSite, seconds: float, writes_per_s: int, folder: Path) -> subprocess.Popen[bytes]:
    """A process that writes the volume."""
    socket = site.nbd_address.removeprefix("unix:")
    command = [
        *("fio", "--name=w", "--ioengine=nbd", f"--uri=nbd+unix:///disk?socket={socket}", "--rw=randwrite", "--bs=4k"),
        *("--iodepth=16", f"--rate_iops={writes_per_s}", "--time_based", f"--runtime={seconds}", "--norandommap"),
        *(f"--aux-path={folder}", "--thread", "--output-format=terse", f"--output={folder / 'fio.txt'}"),
    ]
    return subprocess.Popen(command)


def look(site: RunningSite, cut_at: dict[int, float]) -> dict[str, float]:
    """The lags of the only member now; ``cut_at`` remembers when each set was cut."""
    volume = site.volume()
    now = time.time()
    cut_at.update((one["number"], one["created_s"]) for one in volume["history"])
    (member,) = volume["members"]
    return {level: now - cut_at[member[level]["number"]] for level in LEVELS if member[level]["number"] in cut_at}


def percentile(values: list[float], share: float) -> float:
    """The value that so large a share of all does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--writes-per-s", type=int, default=1000)
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--dir", type=Path, default=None, help="where (default: a temporary folder)")
    options = parser.parse_args()
    if shutil.which("fio") is None:
        raise SystemExit("needs fio")
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="rk-bench-") as name:
        folder = Path(name)
        (folder / "a").mkdir()
        fill(folder / "a" / "disk.img", options.size_mib << 20)
        with running_sites(folder, "ab", options.size_mib << 20, POLICY) as (a, b):
            a.follow(b)
            lags: list[dict[str, float]] = []
            cut_at: dict[int, float] = {}
            with load(a, options.seconds, options.writes_per_s, folder) as writer:
                time.sleep(WARM_UP_S)
                before, since_s = a.volume()["position"]["number"], time.monotonic()
                while writer.poll() is None:
                    lags.append(look(a, cut_at))
                    time.sleep(LOOK_EACH_S)
                took_s = time.monotonic() - since_s
            sets = a.volume()["position"]["number"] - before
            drained_s = a.wait_played()
    print(table(f"lag in s at {options.writes_per_s} writes/s", "median", "99th percentile", "most"))
    for level in LEVELS:
        values = [each[level] for each in lags if level in each]
        goal = " (goal 2.5)" if level == "received" else ""
        middle, late = statistics.median(values), percentile(values, 0.99)
        print(f"| {level} | {middle:.2f} | {late:.2f}{goal} | {max(values):.2f} |")
    print(f"\n{len(lags)} looks at {sets} sets in {took_s:.0f} s; the rest was played {drained_s:.2f} s after the end; "
          f"load of the machine {os.getloadavg()[0]:.1f}.")  # fmt: skip


if __name__ == "__main__":
    main()
