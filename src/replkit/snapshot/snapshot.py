"""A snapshot as a read-only volume, in the process that writes the volume (FIG. 25, 27)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from replkit.blocks.extent import Extent
from replkit.contracts.buffers import Buffer
from replkit.contracts.savevolume import SaveVolume
from replkit.contracts.volume import BlockVolume, Capability
from replkit.errors import InvalidArgumentError, ReadOnlyError, RecordMissingError
from replkit.snapshot.area import AreaReader, Saved, resolve
from replkit.snapshot.queue import SnapshotQueue
from replkit.snapshot.records import SnapshotRecord


class Snapshot(BlockVolume):
    """Reads blocks as they were when the snapshot was taken; writers go on meanwhile.

    What is unused in the snapshot reads as zeros. The rest is looked up in the areas of the snapshot and of all
    newer ones, then read live; a live block that meanwhile got a before-image is taken from there, because a
    before-image is in the map before its block is overwritten (invariant 4).
    """

    read_only = True
    tells_in_use = Capability.NATIVE
    discards = Capability.NONE

    def __init__(self, record: SnapshotRecord, volume: BlockVolume, save: SaveVolume, queue: SnapshotQueue) -> None:
        self.record = record
        self.block_size = volume.block_size
        self.size_bytes = record.size_bytes
        self._volume = volume
        self._save = save
        self._queue = queue
        self._areas = AreaReader(save, volume.block_size)
        self.in_use_runs(0, 0)

    def in_use_runs(self, start: int, stop: int) -> list[Extent]:
        """Blocks of the range that were in use."""
        with self._queue.state:
            layer = self._queue.layer(self.record.id, self.record.name)
        try:
            return list(layer.in_use(self._save, self.block_size).runs(start, stop))
        except RecordMissingError:
            with self._queue.state:  # deleted or invalidated under us: say that instead
                self._queue.layer(self.record.id, self.record.name)
            raise

    def in_use(self) -> Iterator[Extent]:
        """Yield the blocks that were in use, ascending."""
        yield from self.in_use_runs(0, self.block_count)

    def in_use_between(self, start: int, stop: int) -> Iterator[Extent]:
        """Yield those of a part of the snapshot."""
        yield from self.in_use_runs(start, stop)

    def read_into(self, start: int, buffer: Buffer) -> None:
        """Read blocks as they were."""
        view = memoryview(buffer).cast("B")
        stop = start + view.nbytes // self.block_size
        try:
            self._read(start, stop, view)
        except (RecordMissingError, InvalidArgumentError):  # the volume may have shrunk: what went is saved now
            with self._queue.state:  # deleted or invalidated under us: say that instead
                self._queue.layer(self.record.id, self.record.name)
            self._read(start, stop, view)

    def _read(self, start: int, stop: int, view: memoryview) -> None:
        used = self.in_use_runs(start, stop)
        zero_gaps(start, stop, used, view, self.block_size)
        found, live = self._resolve(used)
        for extent in live:
            self._volume.read_into(extent.start, self._part(start, extent, view))
        late, _still_live = self._resolve(live)
        for saved in (*found, *late):
            self._areas.read(saved, self._part(start, saved.extent, view))

    def _resolve(self, extents: Sequence[Extent]) -> tuple[list[Saved], list[Extent]]:
        with self._queue.state:
            layer = self._queue.layer(self.record.id, self.record.name)
            return resolve(self._queue.areas_from(layer), extents)

    def _part(self, start: int, extent: Extent, view: memoryview) -> memoryview:
        return view[(extent.start - start) * self.block_size : (extent.stop - start) * self.block_size]

    def write(self, start: int, buffer: Buffer) -> None:
        """Refuse."""
        size_bytes = memoryview(buffer).nbytes
        raise ReadOnlyError(
            f"snapshot {self.record.name} is read-only: {size_bytes} bytes at block {start} not written"
        )

    def discard(self, start: int, count: int) -> None:
        """Refuse."""
        raise ReadOnlyError(f"snapshot {self.record.name} is read-only: {count} blocks from {start} stay")

    def flush(self) -> None:
        """A snapshot is durable since it was made."""


def zero_gaps(start: int, stop: int, used: Sequence[Extent], view: memoryview, block_size: int) -> None:
    """Make what of ``[start, stop)`` is not in ``used`` zeros: a block unused in a snapshot reads so (P1)."""
    at = start
    for extent in (*used, Extent(stop, 0)):
        if extent.start > at:
            low, high = (at - start) * block_size, (extent.start - start) * block_size
            view[low:high] = bytes(high - low)
        at = extent.stop
