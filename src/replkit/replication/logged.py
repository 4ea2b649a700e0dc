"""The layer that logs changes: the top of a primary's volume stack (FIG. 10; D1, D5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Self

from replkit.blocks.extent import Extent, clip
from replkit.contracts.buffers import Buffer
from replkit.contracts.position import Position
from replkit.contracts.runtime import Runtime
from replkit.contracts.savevolume import SaveVolume
from replkit.contracts.volume import BlockVolume, Capability, Write
from replkit.errors import LocalProtocolError, ReplkitError
from replkit.replication.changelog import ChangeLog
from replkit.replication.opencut import COPIED_AHEAD_BYTES, OpenCut
from replkit.snapshot.intents import IntentLog
from replkit.snapshot.records import SnapshotTable
from replkit.snapshot.resizing import resize_stack
from replkit.snapshot.saver import Full
from replkit.snapshot.snapped import SnappedVolume

__all__ = ["LoggedVolume", "OpenCut"]


class LoggedVolume(BlockVolume):
    """A snapped volume whose writes are logged, so that delta sets can be cut.

    A batch passes the gate once: it marks its blocks, lets ``SnappedVolume`` make their intents durable and keep old
    blocks that a snapshot or the open cut needs, and writes. A cut holds the gate alone, so it is between two writes.
    """

    tells_in_use = Capability.NATIVE

    def __init__(
        self,
        snapped: SnappedVolume,
        changelog: ChangeLog,
        intents: IntentLog,
        runtime: Runtime,
        *,
        ahead_limit_bytes: int = COPIED_AHEAD_BYTES,
    ) -> None:
        self.block_size = snapped.block_size
        self.size_bytes = snapped.size_bytes
        self.read_only = snapped.read_only
        self.discards = snapped.discards
        self.resizes = snapped.resizes
        self.snapped = snapped
        self.changelog = changelog
        self._intents = intents
        self._runtime = runtime
        self._ahead_limit_bytes = ahead_limit_bytes
        self._gate = snapped.gate
        self._cut: OpenCut | None = None
        self._refusal: ReplkitError | None = None
        changelog.begin_writing()

    @classmethod
    def open(
        cls,
        volume: BlockVolume,
        save: SaveVolume,
        table: SnapshotTable,
        runtime: Runtime,
        *,
        in_use_shift: int = 0,
        waits_for_room: bool = True,
        ahead_limit_bytes: int = COPIED_AHEAD_BYTES,
    ) -> Self:
        """Build the whole stack over a volume; after a crash its dirty blocks are known before the first write."""
        intents = IntentLog(save, runtime, block_count=volume.block_count, block_size=volume.block_size)
        changelog = ChangeLog(save, intents, block_count=volume.block_count)
        snapped = SnappedVolume(
            volume, save, table, intents, runtime, in_use_shift=in_use_shift, waits_for_room=waits_for_room
        )
        return cls(snapped, changelog, intents, runtime, ahead_limit_bytes=ahead_limit_bytes)

    # --- reading and writing ------------------------------------------------------------------------------------

    def read_into(self, start: int, buffer: Buffer) -> None:
        """Read live blocks."""
        self.snapped.volume.read_into(start, buffer)

    def in_use(self) -> Iterator[Extent]:
        """Yield the blocks that may hold data."""
        yield from self.snapped.in_use()

    def in_use_between(self, start: int, stop: int) -> Iterator[Extent]:
        """Yield those of a part of the volume."""
        yield from self.snapped.in_use_between(start, stop)

    def write(self, start: int, buffer: Buffer) -> None:
        """Write blocks; see ``write_extents``."""
        self.write_extents(((start, buffer),))

    def write_extents(self, writes: Sequence[Write]) -> None:
        """Log and write a batch."""
        size = self.block_size
        extents = [(start, memoryview(buffer).nbytes // size) for start, buffer in writes]
        while True:
            try:
                self._gate.enter()
                try:
                    self._check_role()
                    self.changelog.mark(extents)
                    self.snapped.write_inside(writes, extents, self._cut)
                finally:
                    self._gate.leave()
                return
            except Full as full:
                self.snapped.wait_for_room(full)

    def discard(self, start: int, count: int) -> None:
        """Log and discard blocks; each part holds the gate alone, so that kind and data change together."""
        for extent in self.snapped.discard_steps(start, count):
            while True:
                try:
                    with self._gate.exclusive(as_writer=True):
                        self._check_role()
                        self.discard_now(extent)
                    break
                except Full as full:
                    self.snapped.wait_for_room(full)

    def flush(self) -> None:
        """Return when all writes completed before are durable (invariant 1)."""
        self.snapped.flush()

    def mark_changed(self, extents: Iterable[tuple[int, int]]) -> None:
        """Put blocks into the change log that nobody writes now: those of sets that were given up.

        Also while writes are suspended: whoever calls may be the one that would let them go on.
        """
        wanted = [Extent(start, count) for start, count in extents]
        with self._gate.exclusive():
            marked = clip(wanted, 0, self.block_count)  # the volume may have shrunk since
            self._intents.ensure(marked)
            self.changelog.mark(marked)

    # --- cuts ---------------------------------------------------------------------------------------------------

    def begin_cut(
        self, snapshot_name: str | None = None, *, stamp: Position | None = None, snapshot_held: bool = False
    ) -> OpenCut:
        """Cut between two writes; with ``snapshot_name``, make a snapshot of exactly that moment, durable on return.

        Until ``snapped.restamp`` the snapshot is at no boundary: ``stamp`` is the position before this cut. The volume
        is not flushed for the cut; whoever commits its set flushes before (invariant 3).
        """
        if snapshot_name is None:
            with self._gate.exclusive():
                return self._swap()
        opened: OpenCut | None = None
        try:
            with (
                self.snapped.making_snapshot(snapshot_name, stamp, held=snapshot_held, at_boundary=False) as pending,
                self._gate.exclusive(),
            ):
                opened = self._swap()
                self.snapped.take_snapshot(pending)
        except BaseException:
            if opened is not None:
                opened.abandon()
            raise
        return opened

    def _swap(self) -> OpenCut:
        if self._cut is not None:
            raise LocalProtocolError("a cut is open already: finish or abandon it first")
        self._cut = OpenCut(
            self.changelog.swap(),
            self.snapped.volume,
            self.snapped.ranges,
            self._runtime,
            self._end_cut,
            ahead_limit_bytes=self._ahead_limit_bytes,
        )
        return self._cut

    def _end_cut(self, cut: OpenCut, is_committed: bool) -> None:
        with self._gate.exclusive():
            self._cut = None
            if is_committed:
                self.changelog.old = None
            else:
                self.changelog.give_back(cut.old)

    def suspend_writes(self) -> None:
        """Keep writers waiting at the gate until ``resume_writes``; reads, cuts and snapshots go on."""
        self._gate.suspend()

    def resume_writes(self) -> None:
        """Let the writers go on."""
        self._gate.resume()

    def refuse_writes(self, error: ReplkitError | None) -> None:
        """From the return on every write and discard raises ``error``, and none is under way; ``None`` lets them in.

        For a role that is over (R9): cuts and snapshots go on.
        """
        with self._gate.exclusive():
            self._refusal = error

    @property
    def refusal(self) -> ReplkitError | None:
        """Why writes are refused, ``None`` while they are not."""
        return self._refusal

    def _check_role(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    def run_alone(self, work: Callable[[], None]) -> None:
        """Call ``work``, which may be repeated, while no other task writes: it may change blocks (unaligned writes)."""
        self.snapped.run_alone(work)

    # --- maintenance --------------------------------------------------------------------------------------------

    @property
    def dirty_blocks(self) -> int:
        """Blocks changed since the last cut."""
        return self.changelog.current.count()

    def stats(self) -> dict[str, object]:
        """Numbers for status."""
        cut = self._cut
        return {
            "dirty_blocks": self.dirty_blocks,
            "cut_blocks": cut.block_count if cut is not None else 0,
            "copied_ahead_bytes": cut.copied_ahead_bytes if cut is not None else 0,
            "intent_regions": self._intents.bits.count(),
            "region_bytes": self.block_size << self._intents.shift,
            "writes_suspended": self._gate.is_suspended,
            "waits_for": self.snapped.waits_for,
            "was_clean": self.changelog.was_clean,
            "snapshots": len(self.snapped.snapshots()),
        }

    def clear_idle_intents(self) -> int:
        """Clear intents of regions of which neither map has a block; the number cleared (invariant 3)."""
        return self.snapped.clear_intents(self.changelog.is_busy)

    def checkpoint(self) -> None:
        """Flush, make the in-use map durable, and clear intents that nothing needs."""
        self.snapped.checkpoint()
        self.clear_idle_intents()

    def resize(self, size_bytes: int) -> None:
        """Change the size between two cuts; blocks that are new begin unused, what goes is discarded first (X5).

        The next set carries the size, and what is new as discarded: so a member that missed a shrink between, or
        plays both at once, holds nothing old there. ``LocalProtocolError`` while a cut is open.
        """
        resize_stack(self, self.snapped, size_bytes)

    def check_resize(self) -> None:
        """``LocalProtocolError`` while a cut is open, as its maps have the old size; the refusal where writes end."""
        self._check_role()
        if self._cut is not None:
            raise LocalProtocolError("a cut is open: finish or abandon it before the volume is resized")

    def discard_now(self, extent: Extent) -> None:
        """Log and discard with the gate held alone. May raise ``Full``."""
        self.changelog.mark((extent,))
        self.snapped.discard_inside(extent, self._cut)
        self.changelog.mark_discarded(*extent)

    def write_now(self, start: int, buffer: Buffer) -> None:
        """Log and write with the gate held alone. May raise ``Full``."""
        extents = [(start, memoryview(buffer).nbytes // self.block_size)]
        self.changelog.mark(extents)
        self.snapped.write_inside([(start, buffer)], extents, self._cut)

    def follow_resize(self, old_block_count: int) -> None:
        """The layers below have another size: forget marks beyond the end, mark what is new as discarded."""
        self.size_bytes = self.snapped.size_bytes
        self.changelog.resize(self.block_count)
        if self.block_count > old_block_count:
            grown = Extent(old_block_count, self.block_count - old_block_count)
            self.changelog.mark((grown,))
            self.changelog.mark_discarded(*grown)

    def close_clean(self) -> None:
        """Give an open cut up, make everything durable, and close; the next opening knows every map exactly."""
        if self._cut is not None:
            self._cut.abandon()
        self.clear_idle_intents()
        self.snapped.checkpoint(clean=True)
        self.changelog.save_clean()
        self.snapped.close()

    def close(self) -> None:
        """Close without making the maps durable: the next opening recovers as after a crash."""
        if self._cut is not None:
            self._cut.abandon()
        self.snapped.close()
