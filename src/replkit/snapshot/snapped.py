"""The layer that saves before-images: a volume with a queue of snapshots and an in-use map (FIG. 25, 26, 41)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import msgspec

from replkit.blocks.extent import Extent
from replkit.contracts.buffers import Buffer
from replkit.contracts.position import Position
from replkit.contracts.runtime import Runtime
from replkit.contracts.savevolume import SaveVolume
from replkit.contracts.volume import BlockVolume, Capability, Write
from replkit.errors import SaveVolumeFullError, VolumeFailedError
from replkit.snapshot.gate import Gate
from replkit.snapshot.intents import IntentLog
from replkit.snapshot.inuse import InUseCheckpoints, InUseMap
from replkit.snapshot.layer import Layer
from replkit.snapshot.queue import Pending, SnapshotQueue
from replkit.snapshot.rangelock import RangeLock
from replkit.snapshot.records import SnapshotRecord, SnapshotTable, find_record
from replkit.snapshot.resizing import resize_stack
from replkit.snapshot.saver import Full, OldBlocks, OldBlockTaker
from replkit.snapshot.snapshot import Snapshot

Busy = Callable[[Extent], bool]
"""Whether blocks of a region still need its intent."""


def _never_busy(_region: Extent) -> bool:
    return False


_DISCARD_BYTES_NATIVE = 1 << 30
_DISCARD_BYTES_EMULATED = 16 << 20


class SnappedVolume(BlockVolume):
    """A volume of which snapshots can be made; opening it rebuilds everything from the save volume.

    Args:
        volume: where the blocks are (the source's clone volume); closed with this one.
        save: save volume, open as producer; not closed.
        table: where snapshots are published.
        intents: intent log of the volume; every write is covered by it.
        runtime: clock, locks, randomness.
        in_use_shift: ``1 << in_use_shift`` blocks share a bit of the in-use map (P3); used when it is first made.
        waits_for_room: whether a write for which a held snapshot needs more room than there is waits, or fails with
            ``SaveVolumeFullError``. Snapshots that are not held are invalidated first, oldest first (invariant 11).
    """

    tells_in_use = Capability.NATIVE

    def __init__(
        self,
        volume: BlockVolume,
        save: SaveVolume,
        table: SnapshotTable,
        intents: IntentLog,
        runtime: Runtime,
        *,
        in_use_shift: int = 0,
        waits_for_room: bool = True,
    ) -> None:
        self.block_size = volume.block_size
        self.size_bytes = volume.size_bytes
        self.read_only = volume.read_only
        self.discards = volume.discards
        self.resizes = volume.resizes
        self.volume = volume
        self.gate = Gate(runtime)
        self.ranges = RangeLock(runtime)
        self.intents = intents
        self._save = save
        self._waits_for_room = waits_for_room
        self._is_closed = False
        self._checkpoint_turn = runtime.lock()
        self.waits_for = ""
        """What a writer waits for now, for status; empty when none does."""
        self._checkpoints = InUseCheckpoints(save, shift=in_use_shift)
        self._in_use = self._checkpoints.open(self.block_count, volume.in_use(), intents.dirty_extents())
        self.queue = SnapshotQueue(
            save, table, self.gate, runtime, block_count=self.block_count, block_size=self.block_size
        )
        self._old = OldBlocks(volume, save, self.queue, self.ranges)
        self._checkpoints.begin_writing()

    # --- reading ------------------------------------------------------------------------------------------------

    def read_into(self, start: int, buffer: Buffer) -> None:
        """Read live blocks."""
        self.volume.read_into(start, buffer)

    def in_use(self) -> Iterator[Extent]:
        """Yield the blocks that may hold data."""
        yield from self._in_use.runs()

    def in_use_between(self, start: int, stop: int) -> Iterator[Extent]:
        """Yield those of a part of the volume, without a look at the rest."""
        yield from self._in_use.runs(start, stop)

    def in_use_map(self) -> InUseMap:
        """A copy of the in-use map, as it is between two writes."""
        with self.gate.exclusive():
            return self._in_use.copy()

    def in_use_of(self, layer: Layer) -> InUseMap:
        """The in-use map of a snapshot."""
        return layer.in_use(self._save, self.block_size)

    # --- writing ------------------------------------------------------------------------------------------------

    def write(self, start: int, buffer: Buffer) -> None:
        """Write blocks; see ``write_extents``."""
        self.write_extents(((start, buffer),))

    def write_extents(self, writes: Sequence[Write]) -> None:
        """Write a batch; the old blocks that the newest snapshot needs are durable in its save area before."""
        while True:
            try:
                with self.gate.shared():
                    self.write_inside(writes, [(s, memoryview(b).nbytes // self.block_size) for s, b in writes])
                return
            except Full as full:
                self.wait_for_room(full)

    def write_inside(
        self, writes: Sequence[Write], extents: Sequence[tuple[int, int]], taker: OldBlockTaker | None = None
    ) -> None:
        """Write a batch whose caller is inside the gate; ``extents`` are its blocks. May raise ``Full``."""
        intents, shift = self.intents.bits, self.intents.shift
        in_use, in_use_shift = self._in_use, self._in_use.shift
        for start, count in extents:  # the steady state of a block ends in these lines: no lock, no call too many
            if count == 1 and not in_use_shift:
                in_use.bits.add(start)
            else:
                in_use.set(start, count)
            if not intents[start >> shift] or (count > 1 and not self.intents.covers(start, count)):
                self.intents.ensure(extents)
        if taker is not None or self.queue.newest is not None:
            self._keep_old_blocks(extents, taker)
        self.volume.write_extents(writes)

    def _keep_old_blocks(self, extents: Sequence[tuple[int, int]], taker: OldBlockTaker | None) -> None:
        """Have what a snapshot or a cut needs saved before it is overwritten (invariant 4)."""
        newest = self.queue.newest
        unsaved = newest.unsaved if newest is not None else None
        touched = [
            (start, count)
            for start, count in extents
            if (unsaved is not None and unsaved.any_in(start, count))
            or (taker is not None and taker.needs(start, count))
        ]
        if touched:
            self._old.keep(touched, taker)

    def discard(self, start: int, count: int) -> None:
        """Make blocks unused; they read as zeros. A discard is a write: intent and before-image come first."""
        for extent in self.discard_steps(start, count):
            while True:
                try:
                    with self.gate.exclusive(as_writer=True):
                        self.discard_inside(extent)
                    break
                except Full as full:
                    self.wait_for_room(full)

    def discard_steps(self, start: int, count: int) -> Iterator[Extent]:
        """Parts of a discard between which other writers get their turn."""
        step_bytes = _DISCARD_BYTES_NATIVE if self.discards is Capability.NATIVE else _DISCARD_BYTES_EMULATED
        step = step_bytes // self.block_size
        for first in range(start, start + count, step):
            yield Extent(first, min(step, start + count - first))

    def discard_inside(self, extent: Extent, taker: OldBlockTaker | None = None) -> None:
        """Discard blocks; the gate is held alone, so no write of the same blocks runs. May raise ``Full``."""
        self.intents.ensure((extent,))
        self._keep_old_blocks((extent,), taker)
        self.volume.discard(extent.start, extent.count)
        self._in_use.clear(extent.start, extent.count)

    def flush(self) -> None:
        """Return when all writes completed before are durable (invariant 1)."""
        self.volume.flush()

    def wait_for_room(self, full: Full) -> None:
        """Outside the gate: make room for old blocks, or wait until somebody does (invariant 11)."""
        if self.gate.is_held_by_caller:
            raise full
        if full.taker is not None:
            full.taker.wait_for_room(full.blocks)
            return
        if self.queue.invalidate_oldest(full.room_made):
            return
        held = ", ".join(record.name for record in self.queue.records() if record.held and record.valid)
        room = f"before-images of held snapshots ({held}): {full.reason}"
        if not self._waits_for_room:
            raise SaveVolumeFullError(f"no room for {room}", hint="delete or release a snapshot")
        self.waits_for = f"room for {room}"
        try:
            with self.queue.room:
                while self.queue.room_made == full.room_made and not self._is_closed:
                    self.queue.room.wait()
        finally:
            self.waits_for = ""
        if self._is_closed:
            raise VolumeFailedError("the volume was closed while a write waited for room for before-images")

    # --- snapshots ----------------------------------------------------------------------------------------------

    def create_snapshot(self, name: str, stamp: Position | None = None, *, held: bool = False) -> SnapshotRecord:
        """Make a snapshot of the volume as it is between two writes; durable and whole on return."""
        with self.making_snapshot(name, stamp, held=held, at_boundary=stamp is not None) as pending:  # noqa: SIM117 - the gate is held shorter
            with self.gate.exclusive():
                pending.take(self._in_use, self.size_bytes)
        return pending.record

    def making_snapshot(
        self, name: str, stamp: Position | None, *, held: bool, at_boundary: bool
    ) -> AbstractContextManager[Pending]:
        """Context in which a caller that holds the gate alone calls ``take_snapshot``; published at its end."""
        return self.queue.making(
            name,
            stamp,
            at_boundary=at_boundary,
            held=held,
            in_use=self._in_use,
            publish=self._publish,
        )

    def take_snapshot(self, pending: Pending) -> None:
        """The moment of a snapshot; the gate is held alone."""
        pending.take(self._in_use, self.size_bytes)

    def _publish(self, _taken: InUseMap) -> None:
        """What the snapshot shows must not be lost in a crash, as it is read live until it is overwritten."""
        with self._checkpoint_turn:
            with self.gate.exclusive():  # not the snapshot's map: intents of later writes may be cleared by now
                in_use = self._in_use.copy()
            self.volume.flush()
            self._checkpoints.store(in_use)

    def delete_snapshot(self, name: str) -> None:
        """Delete a snapshot, whichever it is (P6)."""
        self.queue.delete(name)

    def snapshots(self) -> tuple[SnapshotRecord, ...]:
        """All snapshots, oldest first; invalid ones have ``valid`` false."""
        return self.queue.records()

    def snapshot(self, name: str) -> SnapshotRecord:
        """The record of one snapshot."""
        return find_record(self.queue.records(), name)

    def open_snapshot(self, name: str) -> Snapshot:
        """The snapshot as a read-only volume; deleting it ends its reads with an error."""
        return Snapshot(self.snapshot(name), self.volume, self._save, self.queue)

    def restamp(self, name: str, stamp: Position | None, at_boundary: bool) -> SnapshotRecord:
        """Publish what the snapshot contains, when the set that was cut with it is committed or abandoned."""
        return self.queue.change(
            name, lambda record: msgspec.structs.replace(record, stamp=stamp, at_boundary=at_boundary)
        )

    def hold_snapshot(self, name: str, *, held: bool) -> SnapshotRecord:
        """Hold a snapshot, or release it: one that is not held gives way when before-images run out of room."""
        return self.queue.change(name, lambda record: msgspec.structs.replace(record, held=held))

    # --- maintenance --------------------------------------------------------------------------------------------

    def checkpoint(self, *, clean: bool = False) -> None:
        """Flush, and make the in-use map durable. ``clean`` promises that no write follows."""
        with self._checkpoint_turn:
            with self.gate.exclusive():
                in_use = self._in_use.copy()
            self.volume.flush()
            self._checkpoints.store(in_use, clean=clean)

    def clear_intents(self, busy: Busy | None = None) -> int:
        """Clear intents of regions that are not ``busy``; the number cleared.

        Invariant 3: the volume is flushed and the in-use map durable before an intent goes; withdrawn intents are
        ensured again by the next writer there.
        """
        busy = busy or _never_busy
        with self._checkpoint_turn:  # candidates are regions of this size of the volume
            candidates = self.intents.idle_candidates(busy)
            if not candidates:
                return 0
            with self.gate.exclusive():
                taken = self.intents.take_idle(candidates, busy)
                in_use = self._in_use.copy()
            try:
                self.volume.flush()
                self._checkpoints.store(in_use)
            except BaseException:
                self.intents.put_back(taken)
                raise
            self.intents.drop(taken)
        return len(taken)

    def run_alone(self, work: Callable[[], None]) -> None:
        """Call ``work`` while no other task writes; it may read, change and write blocks (unaligned writes).

        ``work`` must be repeatable: where old blocks have no room it ends with ``Full``, and is called again when
        there is room; whoever waits for it, or makes it, must not hold the gate.
        """
        while True:
            try:
                with self.gate.exclusive(as_writer=True):
                    work()
                return
            except Full as full:
                self.wait_for_room(full)

    # --- resizing (X5; snapshot/resizing.py has the order of things) ----------------------------------------------

    def resize(self, size_bytes: int) -> None:
        """Change the size; snapshots keep theirs."""
        resize_stack(self, self, size_bytes)

    @contextmanager
    def resizing(self) -> Iterator[None]:
        """Context in which the size may change: nobody writes, takes intents away, or makes a map durable."""
        with self._checkpoint_turn, self.gate.exclusive():
            yield

    def discard_now(self, extent: Extent) -> None:
        """Discard with the gate held alone."""
        self.discard_inside(extent)

    def write_now(self, start: int, buffer: Buffer) -> None:
        """Write with the gate held alone."""
        self.write_inside([(start, buffer)], [(start, memoryview(buffer).nbytes // self.block_size)])

    def check_resize(self) -> None:
        """Nothing speaks against it."""

    def follow_resize(self, old_block_count: int) -> None:
        """Done by ``resize_inside``."""

    def resize_inside(self, size_bytes: int) -> None:
        """Resize the volume and its maps inside ``resizing``, when the end that goes, if any, is discarded."""
        old_block_count, block_count = self.block_count, -(-size_bytes // self.block_size)
        grown = Extent(old_block_count, max(0, block_count - old_block_count))
        if grown.count:
            self.intents.resize(block_count, (grown,))
        try:
            self.volume.resize(size_bytes)
        except Exception:
            self.intents.resize(old_block_count)
            raise
        self.size_bytes = size_bytes
        self._in_use.resize(block_count)
        with self.queue.state:
            for layer in self.queue.layers:
                layer.unsaved.resize(block_count)
        if block_count < old_block_count:
            self.intents.resize(block_count)

    def close_clean(self) -> None:
        """Flush, make the in-use map durable, clear all intents, and close the volume. No write may follow."""
        self.checkpoint(clean=True)
        self.close()

    def close(self) -> None:
        """Close the volume under this one without a flush; what waits is woken with an error."""
        self._is_closed = True
        self.queue.tell_room()
        self.volume.close()
