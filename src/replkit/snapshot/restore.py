"""Restoring a snapshot: the live volume is written back to what the snapshot shows, in steps (P3, P6)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import groupby
from typing import Final

import msgspec

from replkit.blocks.extent import Extent, clip, split, subtract
from replkit.contracts.volume import BlockVolume, Capability, Write
from replkit.errors import InvalidArgumentError, NotFoundError
from replkit.snapshot.differential import undo_differential
from replkit.snapshot.snapped import SnappedVolume
from replkit.snapshot.snapshot import Snapshot

STEP_BYTES: Final = 16 << 20
_DISCARD_BYTES_NATIVE: Final = 1 << 30


class RestoreProgress(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller keeps in a cell: every block before ``next_block`` is as in the snapshot, durably.

    ``was_held`` tells whether the snapshot was held before the restore held it.
    """

    snapshot: str
    snapshot_id: str
    was_held: bool
    next_block: int = 0
    done: bool = False


class Restore:
    """Writes back what differs from a snapshot, through ``target``, the top of the volume's stack.

    Blocks unused in the snapshot are discarded first, so that the in-use map becomes that of the snapshot (P3); then
    the rest is written in block order, what is equal already is left alone. Users are to be stopped: what they write
    behind ``next_block`` stays. Each step may be repeated after a crash, with the last progress that was kept or an
    older one: discards are found anew from the in-use map, writes are the same again.
    """

    def __init__(
        self, snapped: SnappedVolume, target: BlockVolume, progress: RestoreProgress, *, step_bytes: int = STEP_BYTES
    ) -> None:
        record = snapped.snapshot(progress.snapshot)
        if record.id != progress.snapshot_id:
            raise NotFoundError(
                f"the snapshot {record.name} that is being restored was deleted, and another one made by that name",
                hint="restore another snapshot",
            )
        if record.size_bytes != snapped.size_bytes:
            raise InvalidArgumentError(
                f"snapshot {record.name} has {record.size_bytes} bytes, the volume {snapped.size_bytes}",
                hint=f"resize the volume to {record.size_bytes} bytes, then restore",
            )
        self.progress = progress
        self._snapped, self._target = snapped, target
        self._source: Snapshot = snapped.open_snapshot(record.name)
        self._then = list(self._source.in_use())
        self._data = undo_differential(snapped, record.name).data
        self._step_blocks = max(1, step_bytes // snapped.block_size)
        self._is_discarded = False
        native = _DISCARD_BYTES_NATIVE // snapped.block_size
        self._discard_blocks = native if snapped.discards is Capability.NATIVE else self._step_blocks

    @classmethod
    def begin(cls, snapped: SnappedVolume, name: str) -> RestoreProgress:
        """Hold the snapshot, so that the restore itself cannot make it invalid; keep the result before a step."""
        record = snapped.snapshot(name)
        snapped.open_snapshot(name)  # an error now, while nothing was touched, if it is invalid
        progress = RestoreProgress(snapshot=name, snapshot_id=record.id, was_held=record.held)
        if not record.held:
            snapped.hold_snapshot(name, held=True)
        return progress

    @property
    def blocks_left(self) -> int:
        """Blocks that may still have to be written or discarded, for a plan and for status."""
        data = clip(self._data, self.progress.next_block, self._snapped.block_count)
        return sum(count for _, count in (*data, *self._extra()))

    def step(self) -> RestoreProgress:
        """Discard or write a bounded number of blocks, flush, and tell how far it is; ``done`` ends it."""
        if self.progress.done:
            return self.progress
        extra = [] if self._is_discarded else self._extra()
        self._is_discarded = not extra
        if extra:
            self._discard(extra)
            self._target.flush()
            return self.progress
        stop = self._write()
        if stop is not None:
            self._target.flush()
            self.progress = msgspec.structs.replace(self.progress, next_block=stop)
            return self.progress
        self._snapped.checkpoint()
        self.progress = msgspec.structs.replace(self.progress, next_block=self._snapped.block_count, done=True)
        return self.progress

    def release(self) -> None:
        """When ``done`` was kept: give the hold back, unless the snapshot was held before."""
        if not self.progress.was_held:
            self._snapped.hold_snapshot(self.progress.snapshot, held=False)

    def _extra(self) -> list[Extent]:
        """What is in use now and was not then; from the map itself, so that a crash cannot make it wrong."""
        return subtract(self._snapped.in_use_map().runs(), self._then)

    def _discard(self, extra: list[Extent]) -> None:
        room = self._discard_blocks
        for start, count in split(extra, self._discard_blocks):
            if count > room:
                return
            self._target.discard(start, count)
            room -= count

    def _write(self) -> int | None:
        """Write back some blocks from ``next_block`` on; where they end, ``None`` when there are none."""
        writes: list[Write] = []
        room, stop = self._step_blocks, None
        at = bisect_right(self._data, self.progress.next_block, key=lambda extent: extent.stop)
        for start, count in self._data[at : at + self._step_blocks]:
            first = max(start, self.progress.next_block)
            taken = min(room, start + count - first)
            if not taken:
                break
            writes.extend(self._changed(first, taken))
            room -= taken
            stop = first + taken
        if writes:
            self._target.write_extents(writes)
        return stop

    def _changed(self, start: int, count: int) -> Iterator[Write]:
        """Runs of blocks that are not as they were, with what they held; one that is unused now is not as it was."""
        size = self._snapped.block_size
        old, new = bytearray(count * size), bytearray(count * size)
        self._source.read_into(start, old)
        self._target.read_into(start, new)
        unused = subtract([Extent(start, count)], list(self._snapped.in_use_between(start, start + count)))
        differs = [old[at : at + size] != new[at : at + size] for at in range(0, count * size, size)]
        for first, blocks in unused:
            differs[first - start : first - start + blocks] = [True] * blocks
        view, at = memoryview(old), 0
        for is_changed, run in groupby(differs):
            stop = at + sum(1 for _ in run)
            if is_changed:
                yield start + at, view[at * size : stop * size]
            at = stop
