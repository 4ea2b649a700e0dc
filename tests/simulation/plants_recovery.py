"""Planted bugs of recovery: fencing, epochs, salvage, differences (invariants 6, 8, 9, 10)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.simulation.planting import Plant, nothing, put, wrap

from replkit.blocks.bitmap import PagedBitmap
from replkit.contracts.position import Epoch
from replkit.recovery import demotion
from replkit.recovery.boundary import Boundaries
from replkit.recovery.fence import Fence
from replkit.replication import difference, receive_difference, receiver, secondary
from replkit.replication import promotion as promoting
from replkit.replication.logged import LoggedVolume
from replkit.replication.root import ROOT, RootCell
from replkit.snapshot.snapped import SnappedVolume


def _takes_the_root_back(mutate: Any) -> Any:
    def broken(self: Any, change: Any) -> Any:
        self._version = self._save.load(ROOT).version
        return mutate(self, change)

    return broken


def _same_count(_next_epoch: Any) -> Any:
    return lambda replica, root: Epoch(root.epoch.count, replica.runtime.random_bytes(8).hex())


def _no_salvage(create: Any) -> Any:
    def broken(self: Any, name: str, *args: Any, **options: Any) -> Any:
        return None if name.startswith("salvage.") else create(self, name, *args, **options)

    return broken


def _salvage_late(leave: Any) -> Any:
    """The salvage is not held, so it goes when there is no room."""

    def broken(replica: Any, snapped: Any, *rest: Any) -> Any:
        resync = leave(replica, snapped, *rest)
        record = next((each for each in snapped.snapshots() if each.name == resync.salvage), None)
        if record is not None:
            snapped.delete_snapshot(record.name)
        return resync

    return broken


def _empty(_blocks: Any) -> Any:
    return lambda _save, _root, _after, _last, block_count: PagedBitmap(block_count)


def _only_sets(blocks_after: Any) -> Any:
    """Uncut changes are added to a copy that is thrown away."""

    class Deaf:
        def __init__(self, blocks: Any) -> None:
            self._blocks = blocks

        def update(self, _other: Any) -> None:
            return

        def __bool__(self) -> bool:
            return bool(self._blocks)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._blocks, name)

    def broken(*args: Any, **options: Any) -> Any:
        blocks = blocks_after(*args, **options)
        return None if blocks is None else Deaf(blocks)

    return broken


def _at_the_fork(end_difference: Any) -> Any:
    def broken(root: Any, progress: Any) -> Any:
        done = end_difference(root, progress)
        return msgspec.structs.replace(done, base=msgspec.structs.replace(done.base, until=0))

    return broken


def _decides_alone(step: Any) -> Any:
    def broken(self: Any) -> Any:
        pause = step(self)
        if self._primary.root.fenced is not None:
            self._primary.begin_epoch("planted")
        return pause

    return broken


def _unmarked(as_secondary: Any) -> Any:
    return lambda *args: msgspec.structs.replace(as_secondary(*args), resync=None)


def _lets_all_in(patch: pytest.MonkeyPatch) -> None:
    for module in (secondary, receiver):
        patch.setattr(module, "check_hello", nothing)


PLANTS = (
    Plant(
        "promoted-in-mid-resync",
        6,
        "an unfinished resync can be promoted",
        wrap(demotion, "_as_secondary", _unmarked),
        "an interrupted rewind that could start (pg_rewind)",
    ),
    Plant(
        "not-at-the-fork",
        6,
        "a difference that was not played counts as played",
        wrap(receive_difference, "end_difference", _at_the_fork),
        "found here",
    ),
    Plant(
        "fenced-and-writing",
        8,
        "a primary that met a higher epoch goes on",
        put(LoggedVolume, "refuse_writes", nothing),
        "writes on both sides of a partition",
    ),
    Plant(
        "owner-not-checked",
        8,
        "a process whose save volume was taken goes on publishing",
        wrap(RootCell, "mutate", _takes_the_root_back),
    ),
    Plant(
        "epoch-not-learned",
        8,
        "a member does not take the new epoch in",
        put(receiver, "follow_epoch", nothing),
        "a peer that never learned the new identity (DRBD)",
    ),
    Plant(
        "wrong-authority",
        8,
        "a member follows whoever connects",
        _lets_all_in,
        "the wrong copy as authority (Longhorn)",
    ),
    Plant("epoch-not-raised", 8, "a promotion keeps the count", wrap(promoting, "next_epoch", _same_count)),
    Plant(
        "no-salvage",
        9,
        "the losing side is overwritten without a salvage",
        wrap(SnappedVolume, "create_snapshot", _no_salvage),
    ),
    Plant("salvage-deleted", 9, "the salvage goes with the first difference", wrap(demotion, "_leave", _salvage_late)),
    Plant(
        "mine-without-uncut",
        9,
        "changes that were not cut stay on the losing side",
        wrap(demotion, "blocks_after", _only_sets),
    ),
    Plant(
        "theirs-forgotten",
        9,
        "a difference has only the blocks of one side",
        wrap(difference, "blocks_between", _empty),
    ),
    Plant(
        "past-of-another",
        5,
        "a boundary of the past stands on a snapshot of a history that was left",
        put(Boundaries, "_is_of_history", lambda *_: True),
        "found here",
    ),
    Plant(
        "decides-alone", 10, "a fenced primary begins an epoch without a command", wrap(Fence, "step", _decides_alone)
    ),
)  # fmt: skip
