"""Failover, resync and verification between two daemons: seconds, and bytes moved against bytes that differ.

    python benchmarks/recovery.py [--size-gib 4] [--differing-percent 1] [--rounds 3] [--stopped] [--dir DIR]

Site a has the primary, full of random bytes, and site b a new copy of it (*full copy*). In each round half of what will
differ is written at a, never gets away, and a is killed (``--stopped``: it is stopped in order, so it knows block by
block what it wrote, and no hashes are compared). *Failover*: from the command at b until a write there, over NBD, is
flushed. The other half is written at b, and a comes back. *Resync*: from the command at a until it follows b,
its own blocks taken back and kept as a salvage. rsync brings a file that equals a's volume up to date from b's. Then
the role goes back, without a copy. In the end a and b are verified, and the same files read, in the page cache and out
of it. Takes about 4 minutes at 4 GiB, and 6 times its size of room.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from limits import timed_s
from peers import Copied, rsync
from replkit.errors import ReplkitError
from replkit.site.nbd.client import NbdClient
from sites import BLOCK_SIZE, LONGEST_S, LOOK_EVERY_S, ON_COMMAND, RunningSite, fill, running_sites, table

READ_BYTES = 4 << 20
Found = dict[str, float]


def wait_for(condition: Callable[[], Any], what: str) -> None:
    """Look again and again; ends the benchmark where it does not come true."""
    deadline_s = time.monotonic() + LONGEST_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise SystemExit(f"waited in vain: {what}")
        time.sleep(LOOK_EVERY_S)


def write_blocks(site: RunningSite, blocks: list[int], copy: Path | None = None) -> None:
    """Write random blocks at a site, and to a file that is to have the same content."""
    writes = [(block * BLOCK_SIZE, os.urandom(BLOCK_SIZE)) for block in blocks]
    with NbdClient(site.nbd_address, "disk") as client:
        client.write_many(writes)
        client.flush()
    if copy is not None:
        with copy.open("r+b") as file:
            for offset, data in writes:
                os.pwrite(file.fileno(), data, offset)
            os.fdatasync(file.fileno())


def fail_over(site: RunningSite) -> Found:
    """Make a secondary the primary, and write it: seconds to the answer, and to the end of the first flush."""
    began_s = time.perf_counter()
    site.ask("failover")
    answered_s = time.perf_counter() - began_s
    while True:
        try:
            write_blocks(site, [0])
        except ReplkitError:
            time.sleep(LOOK_EVERY_S)
            continue
        return {"failover answered": answered_s, "first write flushed": time.perf_counter() - began_s}


def resync(old: RunningSite, new: RunningSite) -> Copied:
    """Bring an old primary up to date from the new one; the bytes are those of all rounds so far, as status counts."""
    wait_for(lambda: old.volume().get("state") == "fenced", f"{old.name} meets the new epoch")
    began_s = time.perf_counter()
    old.ask("resync")
    wait_for(lambda: _is_following(old.volume()), f"{old.name} follows {new.name}")
    seconds = time.perf_counter() - began_s
    return Copied(seconds, new.sent_bytes(old.name))


def _is_following(volume: dict[str, Any]) -> bool:
    return volume.get("role") == "secondary" and volume.get("state") == "up-to-date"


def give_back(new: RunningSite, old: RunningSite) -> float:
    """Seconds until the old primary has its role again, and users can write it; what it kept for them is deleted."""
    began_s = time.perf_counter()
    new.ask("handover", member=old.name, timeout_s=LONGEST_S)
    wait_for(lambda: old.volume().get("role") == "primary", f"{old.name} is the primary")
    while True:
        try:
            NbdClient(old.nbd_address, "disk").close()
            break
        except ReplkitError:
            time.sleep(LOOK_EVERY_S)
    took_s = time.perf_counter() - began_s
    wait_for(lambda: _is_following(new.volume()), f"{new.name} follows {old.name}")
    for salvage in old.ask("salvage-list")["salvages"]:
        old.ask("salvage-delete", id=salvage["id"])
    return took_s


def one_round(
    a: RunningSite, b: RunningSite, blocks: list[int], copy: Path, *, stopped: bool
) -> tuple[Found, dict[str, int]]:
    """One disaster and the return from it: seconds and bytes by name."""
    half = len(blocks) // 2
    write_blocks(a, sorted(blocks[:half]), copy)
    if stopped:
        a.stop()
    else:
        a.kill()
    found = fail_over(b)
    write_blocks(b, sorted(blocks[half:]))
    a.start()
    again = resync(a, b)
    peer = rsync(b.image, copy) if shutil.which("rsync") else None
    found |= {"resync": again.seconds, "failback": give_back(b, a)}
    sent = {"resync": again.sent_bytes}
    if peer is not None:
        found["rsync"], sent["rsync"] = peer.seconds, peer.sent_bytes
    return found, sent


def verify_s(site: RunningSite) -> float:
    """Seconds until a verification of the only member is done."""
    began_s = time.perf_counter()
    site.ask("verify-begin")
    wait_for(lambda: site.ask("verify-progress")["done"], "the verification")
    took_s = time.perf_counter() - began_s
    (member,) = site.ask("verify-progress")["members"]
    if member["error"] or member["differing_blocks"]:
        raise SystemExit(f"the sites are not equal: {member}")
    return took_s


def read_file(path: Path) -> None:
    """Read a file from its beginning to its end."""
    buffer = bytearray(READ_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def forget_cached(*paths: Path) -> None:
    """Let the next reads of these files, which are flushed, go to the disk."""
    for path in paths:
        with path.open("r+b") as file:
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_both(left: Path, right: Path) -> None:
    """Read two files at the same time."""
    other = threading.Thread(target=read_file, args=(right,))
    other.start()
    read_file(left)
    other.join()


def verification(a: RunningSite, b: RunningSite) -> None:
    """Print the table of ``verify`` against plain reads."""
    images, rows = (a.image, b.image), []
    for place in ("page cache", "disk"):
        works = {
            f"verify, both sides, {place}": lambda: verify_s(a),
            f"read both files, {place}": lambda: read_both(*images),
            f"read one file, {place}": lambda: read_file(images[0]),
        }
        for image in images:
            read_file(image)
        for name, work in works.items():
            if place == "disk":
                forget_cached(*images)
            rows.append((name, timed_s(work)))
    gigabytes = a.image.stat().st_size / 1e9
    print("\n" + table("verification", "s", "GB/s of each side"))
    for name, took_s in rows:
        print(f"| {name} | {took_s:.2f} | {gigabytes / took_s:.2f} |")


def report(rounds: list[tuple[Found, dict[str, int]]], full_copy_s: float, full_bytes: int, differing: int) -> None:
    """Print the tables; medians over the rounds."""
    median = {name: statistics.median(found[name] for found, _ in rounds) for name in rounds[0][0]}
    sent = {name: statistics.median(each[name] for _, each in rounds) for name in rounds[0][1]}
    sent["resync"] = rounds[-1][1]["resync"] / len(rounds)
    print(table("failover and failback", "s", "least", "most"))
    for name in ("failover answered", "first write flushed", "failback"):
        values = [found[name] for found, _ in rounds]
        print(f"| {name} | {median[name]:.2f} | {min(values):.2f} | {max(values):.2f} |")
    print("\n" + table(f"{differing / 1e6:.0f} MB differ", "s", "ratio to resync", "bytes sent / differing"))
    rows = [
        ("replkit resync", median["resync"], "1", f"{sent['resync'] / differing:.3f} (goal 1.05)"),
        ("replkit full copy", full_copy_s, f"{full_copy_s / median['resync']:.1f}", f"{full_bytes / differing:.1f}"),
    ]
    if "rsync" in median:
        ratio = f"{median['rsync'] / median['resync']:.1f} (goal 20)"
        rows.append(("rsync --inplace", median["rsync"], ratio, f"{sent['rsync'] / differing:.2f}"))
    for name, took_s, ratio, share in rows:
        print(f"| {name} | {took_s:.2f} | {ratio} | {share} |")


def main() -> None:
    """Run it in a folder that is removed afterwards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-gib", type=float, default=4)
    parser.add_argument("--differing-percent", type=float, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stopped", action="store_true", help="the old primary is stopped in order, not killed")
    parser.add_argument("--dir", type=Path, default=None, help="where (default: a temporary folder)")
    options = parser.parse_args()
    size_bytes = int(options.size_gib * (1 << 30)) & -(16 << 20)
    chance, count = random.Random(1), size_bytes // BLOCK_SIZE
    differing = int(count * options.differing_percent / 100)
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="rk-bench-") as name:
        folder = Path(name)
        (folder / "a").mkdir()
        fill(folder / "a" / "disk.img", size_bytes)
        copy = shutil.copyfile(folder / "a" / "disk.img", folder / "rsync.img")
        with running_sites(folder, "ab", size_bytes, ON_COMMAND) as (a, b):
            full_copy_s = a.follow(b)
            full_bytes = a.sent_bytes("b")
            # block 0 is the first write of each failover, and differs too
            rounds = [
                one_round(a, b, chance.sample(range(1, count), differing - 1), copy, stopped=options.stopped)
                for _ in range(options.rounds)
            ]
            report(rounds, full_copy_s, full_bytes, differing * BLOCK_SIZE)
            verification(a, b)


if __name__ == "__main__":
    main()
