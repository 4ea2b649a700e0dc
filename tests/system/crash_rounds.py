"""Kill daemons with SIGKILL under NBD load, and hold what comes back against what the client was told.

    python tests/system/crash_rounds.py --rounds 50
    python tests/system/crash_rounds.py --rounds 50 --forgetful
    python tests/system/crash_rounds.py --rounds 50 --load fio --size-mib 128

Each round writes for a moment, then kills the whole process group of the primary's or the secondary's daemon, starts
it again, and checks:

- no block at the primary is older than its last flushed write, and none was never written (invariants 1 and 2);
- the secondary's view is one state that the primary was in, never a mixture (invariant 5);
- no second full copy was made: the copy that the member stands on is the first one, no step of another was recorded,
  and what crossed the link is what was written and what a kill of the primary left in doubt (C4, S5);
- in the end both sides become equal.

With ``--forgetful --remove flush`` (or ``save-sync``) the daemons skip that sync, and the command must fail.
With ``--forgetful`` volumes and save volumes lose at the kill whatever was not synced. With ``--load fio`` the load is
fio's, with many writes in flight, and fio verifies what it was told was written (not with ``--forgetful``, which loses
what fio did not flush).
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from crash_fio import Fio
from crash_relays import CountingRelay
from crash_sites import BLOCK, REGION_BYTES, VOLUME, BrokenPromiseError, Copied, Site, config, copied, wait_until
from crash_writer import Writer

from replkit.cli.demo.sites import free_ports
from replkit.errors import ControlError, ReplkitError
from replkit.site.nbd.client import NbdClient

SENT_RATIO = 2
"""So many times what was written may cross the link in a round: a chunk that was under way is sent again."""
SLACK_BYTES = 1 << 20


class Trial:
    """Two sites, the lives of the primary so far, and the rounds."""

    def __init__(self, folder: Path, *, size_blocks: int, scheme: str, seed: int, broken: bool, load: str) -> None:
        ports = free_ports(2)
        self.link = CountingRelay(ports[1])
        peers = {"a": self.link.port, "b": ports[0]}
        self.a, self.b = (
            Site(folder, name, config(
                folder, name, listen=ports["ab".index(name)], peer=peers[name], size_blocks=size_blocks,
                scheme=scheme, broken=broken,
            )) for name in "ab"
        )  # fmt: skip
        self._folder, self._load = folder, load
        self._random = random.Random(seed)
        self._size = size_blocks * BLOCK
        self._verifies = load == "fio" and scheme == "file"
        self._copied: Copied | None = None
        self.lives: list[Writer | Fio] = []
        self.kills = {"a": 0, "b": 0}
        self.sent_bytes = self.copy_bytes = 0
        self.most_sent = self._backlog = 0
        self.most_of_due = 0.0

    def begin(self) -> None:
        """Start both with a volume full of data, and wait for the one full copy."""
        self.b.start()
        self.a.start()
        if self._load == "fio":  # else a full copy would not stand out
            with NbdClient(self.a.nbd, VOLUME) as client:
                client.write(0, self._random.randbytes(self._size))
                client.flush()
            wait_until(
                lambda: not self.a.ask("status")["volumes"][0]["intent_regions"], "the prefill to be in no doubt"
            )
        self.begin_life()
        self.a.ask("wait", volume=VOLUME, durable_on=1, level="played", timeout_s=60)
        self._copied = copied(self.a, self.b)
        self.copy_bytes = self.sent_bytes = self.link.bytes

    def read(self, address: str, export: str) -> bytearray:
        """All of an export."""
        with NbdClient(address, export) as client:
            return client.read(0, self._size)

    def begin_life(self) -> None:
        """A new load on the primary as it stands."""
        image = self.read(self.a.nbd, VOLUME)
        before = self.lives[-1] if self.lives else None
        if before is not None:
            before.check_primary(image)
        if isinstance(before, Fio) and self._verifies:
            before.verify()
        seed = self._random.randrange(1 << 30)
        if self._load == "fio":
            self.lives.append(Fio(self.a, self._folder, image, seed))
        else:
            writer = Writer(self.a.nbd, image, before if isinstance(before, Writer) else None, seed)
            self.lives.append(writer)
            writer.start()

    def round(self, victim: Site) -> None:
        """Write for a moment, kill, start again, check."""
        time.sleep(self._random.uniform(0.05, 1.2))
        victim.kill()
        self.kills[victim.name] += 1
        if victim is self.a:
            self.lives[-1].end(stop=False)
        victim.start()
        if victim is self.a:
            self.begin_life()
        self.check_secondary()
        self.check_link()

    def check_secondary(self) -> None:
        """Read the view while it is pinned at a boundary."""
        try:
            served = self.b.ask("export-add", volume=VOLUME)
        except ControlError:
            if self.b.ask("status")["volumes"][0].get("inconsistent"):
                raise BrokenPromiseError("secondary: a second full copy is being made") from None
            raise
        try:
            image = self.read(served["address"], served["export"])
        finally:
            self.b.ask("export-remove", volume=VOLUME)
        if not any(life.was_in(image) for life in reversed(self.lives)):
            raise BrokenPromiseError("secondary: the view is no state that the primary was in")

    def check_link(self) -> None:
        """No second full copy."""
        now = copied(self.a, self.b)
        if now != self._copied:
            raise BrokenPromiseError(f"a second full copy was made: {self._copied} became {now}")
        sent, self.sent_bytes = self.link.bytes - self.sent_bytes, self.link.bytes
        lives = self.lives[-2:]
        written = BLOCK * sum(life.count for life in lives)
        in_doubt = REGION_BYTES * len({block * BLOCK // REGION_BYTES for life in lives for block in life.blocks})
        new = SENT_RATIO * written + min(in_doubt, self._size) + SLACK_BYTES
        due = self._backlog + new
        if sent > due:
            raise BrokenPromiseError(
                f"{sent} bytes were sent in a round, where {written} were written, {in_doubt} were in doubt, "
                f"and at most {self._backlog} were left"
            )
        self._backlog = min(due - sent, new)  # what a round leaves may cross the link in the next
        self.most_sent = max(self.most_sent, sent)
        self.most_of_due = max(self.most_of_due, sent / due)

    def converge(self) -> None:
        """Stop writing; then both sides must become equal."""
        self.lives[-1].end(stop=True)
        self.a.ask("wait", volume=VOLUME, durable_on=1, level="played", timeout_s=60)
        ours = self.read(self.a.nbd, VOLUME)
        self.lives[-1].check_primary(ours)
        if ours != self.read(self.b.nbd, VOLUME):
            raise BrokenPromiseError("the sides are not equal in the end")
        self.check_link()

    def figures(self) -> dict[str, Any]:
        """What was done, and what crossed the link."""
        return {
            "kills": self.kills,
            "writes": sum(life.count for life in self.lives),
            "flushed": sum(life.flushed for life in self.lives),
            "copy_mib": round(self.copy_bytes / (1 << 20), 1),
            "sent_mib": round(self.link.bytes / (1 << 20), 1),
            "most_sent_mib_a_round": round(self.most_sent / (1 << 20), 1),
            "most_of_what_was_due": round(self.most_of_due, 2),
        }

    def stop(self) -> None:
        """End the daemons, and a load that is still there."""
        if self.lives:
            self.lives[-1].stop()
        self.a.stop()
        self.b.stop()
        self.link.close()


def run(*, rounds: int, forgetful: bool, size_blocks: int, seed: int, load: str, remove: str = "") -> dict[str, Any]:
    """``rounds`` kills of each side; figures of the trial."""
    if remove:
        os.environ.update(REPLKIT_TEST_REMOVE=remove, PYTHONPATH=str(Path(__file__).parent))
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rk-") as name:
        scheme = "forgetful+file" if forgetful else "file"
        trial = Trial(Path(name), size_blocks=size_blocks, scheme=scheme, seed=seed, broken=bool(remove), load=load)
        try:
            trial.begin()
            for index in range(2 * rounds):
                trial.round((trial.a, trial.b)[index % 2])
                if sys.stderr.isatty():
                    print(f"\rkills {index + 1}/{2 * rounds}", end="", file=sys.stderr, flush=True)
            trial.converge()
        except (BrokenPromiseError, ReplkitError) as error:
            for site in (trial.a, trial.b):
                print(f"--- log of {site.name}\n{site.log.read_text()[-4000:]}", file=sys.stderr)
            raise BrokenPromiseError(f"after {trial.kills} kills: {error}") from error
        finally:
            trial.stop()
    return {**trial.figures(), "duration_s": round(time.monotonic() - began_s)}


def main() -> None:
    """The named command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50, help="kills of each daemon (default 50)")
    parser.add_argument("--load", default="writer", choices=("writer", "fio"), help="what writes (default writer)")
    parser.add_argument("--forgetful", action="store_true", help="lose at each kill what was not synced")
    parser.add_argument("--remove", default="", choices=("flush", "save-sync"), help="skip a sync; must then fail")
    parser.add_argument("--size-mib", type=int, default=16, help="size of the volume (default 16)")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    figures = run(
        rounds=given.rounds,
        forgetful=given.forgetful,
        size_blocks=given.size_mib * 256,
        seed=given.seed,
        load=given.load,
        remove=given.remove,
    )
    print(f"\nnothing lost, nothing mixed: {figures}")


if __name__ == "__main__":
    main()
