"""Planted bugs below replication: flushes, intents, change log, before-images (invariants 1 to 4)."""

from __future__ import annotations

from typing import Any

from tests.simulation.planting import Plant, nothing, put, without, wrap

from replkit.blocks.bitmap import PagedBitmap
from replkit.replication import playback
from replkit.replication.changelog import ChangeLog
from replkit.replication.cut import Cut
from replkit.replication.cutter import Cutter
from replkit.replication.logged import LoggedVolume
from replkit.replication.opencut import OpenCut
from replkit.replication.primary import PrimaryReplica
from replkit.snapshot.intents import IntentLog
from replkit.snapshot.restore import Restore
from replkit.snapshot.saver import OldBlocks
from replkit.snapshot.snapped import SnappedVolume
from replkit.testing.sim.devices import FaultDisk, FaultSave


def _forget_changes_after(method: Any) -> Any:
    def broken(self: Any, *args: Any, **options: Any) -> Any:
        result = method(self, *args, **options)
        self.volume.changelog.current = PagedBitmap(self.volume.block_count)
        return result

    return broken


def _resize_without_a_cut(_method: Any) -> Any:
    def broken(self: Any, size_bytes: int) -> Any:
        with self._lock:
            self._volume.resize(size_bytes)
            self._volume.changelog.current = PagedBitmap(self._volume.block_count)
            return self._cut(None, (), always=True)

    return broken


def _first_only(method: Any) -> Any:
    return lambda self, extents, taker: method(self, extents[:1], taker)


def _restore_past_the_log(init: Any) -> Any:
    def broken(self: Any, snapped: Any, target: Any, progress: Any, **options: Any) -> None:
        init(self, snapped, snapped, progress, **options)

    return broken


def _deaf(write_chunk: Any) -> Any:
    class NoDiscard:
        def __init__(self, volume: Any) -> None:
            self._volume = volume

        def __getattr__(self, name: str) -> Any:
            return nothing if name == "discard" else getattr(self._volume, name)

    return lambda volume, chunk, written=None: write_chunk(NoDiscard(volume), chunk, written)


def _retried(flush: Any) -> Any:
    def broken(self: Any) -> None:
        try:
            flush(self)
        finally:
            self.failed = False

    return broken


def _no_log(method: Any) -> Any:
    def broken(self: Any, extent: Any) -> None:
        self.snapped.discard_inside(extent, self._cut)

    return broken


def _lost_words(method: Any) -> Any:
    """Every third mark is lost, as when two threads set bits of one word."""
    calls = [0]

    def broken(self: Any, extents: Any) -> None:
        calls[0] += 1
        if calls[0] % 3:
            method(self, extents)

    return broken


PLANTS = (
    Plant("flush-says-done", 1, "a flush of the stack does nothing", put(SnappedVolume, "flush", nothing)),
    Plant(
        "flush-is-retried",
        1,
        'a flush is tried again after it failed, and then "succeeds"',
        wrap(FaultDisk, "flush", _retried),
        "fsync retried (PostgreSQL)",
    ),
    Plant(
        "abandoned-cut",
        2,
        "the blocks of an abandoned cut are forgotten",
        put(ChangeLog, "give_back", lambda self, old: setattr(self, "old", None)),
    ),
    Plant("discard-not-logged", 2, "a discard is no change", wrap(LoggedVolume, "discard_now", _no_log)),
    Plant(
        "lost-marks", 2, "two writers set bits of one word, and a mark is lost", wrap(ChangeLog, "mark", _lost_words)
    ),
    Plant("intents-in-memory", 2, "intents are not durable before the write", put(IntentLog, "_swap", nothing)),
    Plant(
        "tracking-lost-by-growth",
        2,
        "change tracking is lost by a resize",
        wrap(Cutter, "resize", _resize_without_a_cut),
        "tracking lost over a growth boundary (VMware)",
    ),
    Plant(
        "tracking-lost-by-merge",
        2,
        "change tracking is lost when a snapshot is deleted",
        wrap(PrimaryReplica, "delete_snapshot", _forget_changes_after),
        "tracking lost during snapshot merge (VMware)",
    ),
    Plant(
        "restore-not-saved",
        2,
        "what a restore writes back is not replicated",
        wrap(Restore, "__init__", _restore_past_the_log),
        "after restore nothing saved (Litestream)",
    ),
    Plant(
        "cut-sees-later-writes",
        2,
        "writers go on while the delta is taken",
        put(OpenCut, "needs", lambda *_: False),
        "delta taken before the writer was locked out (Ceph)",
    ),
    Plant(
        "commit-without-flush",
        3,
        "a set is committed whose blocks are not flushed",
        without(Cut, "commit", LoggedVolume, "flush"),
    ),
    Plant(
        "intents-cleared-early",
        3,
        "intents go though a block of the region is changed",
        put(ChangeLog, "is_busy", lambda *_: False),
    ),
    Plant(
        "before-image-in-memory",
        4,
        "a block is overwritten before its before-image is durable",
        without(OldBlocks, "keep", FaultSave, "sync"),
    ),
    Plant(
        "before-image-of-the-first",
        4,
        "of a batch only the first extent has a before-image",
        wrap(SnappedVolume, "_keep_old_blocks", _first_only),
    ),
    Plant(
        "snapshot-without-flush",
        4,
        "a snapshot is published before what it shows is flushed",
        without(SnappedVolume, "_publish", FaultDisk, "flush"),
    ),
    Plant("no-before-image", 4, "a write keeps no before-image", put(OldBlocks, "_unsaved", lambda *_: [])),
    Plant(
        "holes-missing",
        5,
        "playback leaves discards out",
        wrap(playback, "write_chunk", _deaf),
        "holes missing from incrementals (ZFS)",
    ),
)  # fmt: skip
