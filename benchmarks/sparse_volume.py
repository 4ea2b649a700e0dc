"""A new copy of a sparse volume, and a huge volume at rest: bytes sent, seconds, and the memory of every process.

    python benchmarks/sparse_volume.py [--dir DIR] [--used-gib 2] [--size-gib 64] [--huge-tib 16]

Both sites are real daemons on this machine, with files as volumes. The blocks in use hold random data, in pieces of
1 MiB spread over the whole volume, so that nothing is compressed or contiguous. Goals (docs): at most 1.02 bytes sent
per byte in use, and less than 60 MB in each process of a volume at rest, whatever its size. Needs twice ``--used-gib``
on disk.
"""

from __future__ import annotations

import argparse
import errno
import os
import tempfile
import time
from pathlib import Path

from sites import Memory, memory_of_site, running_sites, table

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
REST_S = 3.0
"""How long a site is left alone before its memory at rest is read."""
CAPACITY_BYTES = 2 << 30
POLICY = {"interval_s": 60}


def fill(image: Path, size_bytes: int, used_bytes: int) -> None:
    """Make a sparse file with pieces of random data spread evenly over it."""
    image.parent.mkdir()
    count = used_bytes // MIB
    stride = size_bytes // max(1, count) // MIB * MIB
    with image.open("xb") as file:
        file.truncate(size_bytes)
        for index in range(count):
            os.pwrite(file.fileno(), os.urandom(MIB), index * stride)
        os.fsync(file.fileno())


def measure_copy(folder: Path, size_bytes: int, used_bytes: int) -> list[str]:
    """The table of a new copy of a volume of which a part is in use."""
    fill(folder / "a" / "disk.img", size_bytes, used_bytes)
    with running_sites(folder, "ab", size_bytes, POLICY, capacity_bytes=CAPACITY_BYTES) as (a, b):
        taken_s = a.follow(b)
        sent_bytes = a.member("b")["sent_bytes"]
        memory = [*memory_of_site(a), *memory_of_site(b)]
    stored_bytes = b.image.stat().st_blocks * 512
    return [
        table(f"new copy of {size_bytes / GIB:.0f} GiB, of which {used_bytes / GIB:.2f} GiB are in use", "value"),
        f"| primary site ready after | {a.ready_s:.2f} s |",
        f"| new copy played at the secondary after | {taken_s:.1f} s ({used_bytes / MIB / taken_s:.0f} MiB/s) |",
        f"| bytes sent | {sent_bytes / GIB:.3f} GiB |",
        f"| sent / in use | {sent_bytes / max(1, used_bytes):.4f} (goal: at most 1.02) |",
        f"| stored at the secondary / in use | {stored_bytes / max(1, used_bytes):.4f} |",
        "",
        *memory_table(memory),
    ]


def measure_huge(folder: Path, size_bytes: int) -> list[str]:
    """The table of a volume that is almost empty and has a secondary; nothing is written to it."""
    fill(folder / "a" / "disk.img", size_bytes, 64 * MIB)
    with running_sites(folder, "ab", size_bytes, POLICY, capacity_bytes=CAPACITY_BYTES) as (a, b):
        taken_s = a.follow(b)
        sent_bytes = a.member("b")["sent_bytes"]
        time.sleep(REST_S)
        memory = [*memory_of_site(a), *memory_of_site(b)]
    return [
        table(f"new copy of {size_bytes / TIB:.0f} TiB, of which 64 MiB are in use", "value"),
        f"| primary site ready after | {a.ready_s:.2f} s |",
        f"| new copy played at the secondary after | {taken_s:.2f} s |",
        f"| bytes sent | {sent_bytes / MIB:.2f} MiB |",
        "",
        *memory_table(memory),
    ]


def memory_table(memory: list[Memory]) -> list[str]:
    """Lines of a table of processes."""
    lines = [table("site", "process", "resident (goal at rest: under 60 MB)", "at most")]
    return lines + [
        f"| {one.site} | {one.name} | {one.now_bytes / 1e6:.0f} MB | {one.peak_bytes / 1e6:.0f} MB |" for one in memory
    ]


def can_hold(folder: Path, size_bytes: int) -> bool:
    """Whether the file system takes a file of this size; ext4 ends one block short of 16 TiB."""
    probe = folder / "probe"
    try:
        with probe.open("xb") as file:
            file.truncate(size_bytes)
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, help="where the volumes lie (default: the folder for temporary files)")
    parser.add_argument("--size-gib", type=int, default=64)
    parser.add_argument("--used-gib", type=float, default=2)
    parser.add_argument("--huge-tib", type=int, default=16, help="0: leave this part out")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rk-", dir=given.dir) as name:
        print("\n".join(measure_copy(Path(name), given.size_gib * GIB, int(given.used_gib * GIB))))
    if given.huge_tib:
        size_bytes = given.huge_tib * TIB
        with tempfile.TemporaryDirectory(prefix="rk-", dir=given.dir) as name:
            fits = can_hold(Path(name), size_bytes)
        with tempfile.TemporaryDirectory(prefix="rk-", dir=given.dir if fits else "/dev/shm") as name:
            print()
            print("\n".join(measure_huge(Path(name), size_bytes)))


if __name__ == "__main__":
    main()
