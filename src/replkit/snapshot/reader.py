"""A snapshot read from another process, while the writer's process goes on (T6: load shifting)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from replkit.blocks.extent import Extent
from replkit.contracts.buffers import Buffer
from replkit.contracts.savevolume import SaveVolume
from replkit.contracts.volume import BlockVolume, Capability
from replkit.errors import (
    CorruptRecordError,
    ReadOnlyError,
    RecordMissingError,
    SnapshotInvalidError,
    VolumeFailedError,
)
from replkit.snapshot.area import AreaMap, AreaReader, resolve, sequence_in
from replkit.snapshot.inuse import get_map
from replkit.snapshot.records import (
    AREAS,
    SnapshotRecord,
    SnapshotTable,
    area_of,
    area_order,
    find_record,
    invalid_error,
    newer_areas,
)
from replkit.snapshot.snapshot import zero_gaps

_ATTEMPTS = 5


class SnapshotReader(BlockVolume):
    """The same content as ``Snapshot``, from a save volume opened as reader and the volume opened read-only.

    A read takes the live blocks first and looks for before-images after: a before-image is durable, and so visible
    to readers, before its block is overwritten (invariant 4). A snapshot invalidated meanwhile fails the read, as it
    is marked invalid before anything goes unsaved.
    """

    read_only = True
    tells_in_use = Capability.NATIVE
    discards = Capability.NONE

    def __init__(self, name: str, volume: BlockVolume, save: SaveVolume, table: SnapshotTable) -> None:
        self.record = find_record(table.load(), name)
        if not self.record.valid:
            raise invalid_error(self.record)
        self.block_size = volume.block_size
        self.size_bytes = self.record.size_bytes
        self._volume = volume
        self._save = save
        self._table = table
        self._maps: dict[str, AreaMap] = {}
        self._seen: dict[str, set[str]] = {}
        self._areas = AreaReader(save, volume.block_size)
        try:
            self._used = get_map(save, self.record.in_use_key, self.block_count)
        except RecordMissingError:
            if find_record(table.load(), name) == self.record:  # else deleted meanwhile, and told so by now
                raise
            raise SnapshotInvalidError(f"snapshot {name} was deleted or changed while it was opened") from None

    def in_use(self) -> Iterator[Extent]:
        """Yield the blocks that were in use, ascending."""
        yield from self._used.runs()

    def in_use_between(self, start: int, stop: int) -> Iterator[Extent]:
        """Yield those of a part of the snapshot."""
        yield from self._used.runs(start, stop)

    def read_into(self, start: int, buffer: Buffer) -> None:
        """Read blocks as they were."""
        self.read_extents((Extent(start, memoryview(buffer).nbytes // self.block_size),), buffer)

    def read_extents(self, extents: Iterable[Extent], buffer: Buffer) -> None:
        """Read blocks as they were; one look for before-images does for all extents."""
        parts: list[tuple[int, list[Extent], memoryview]] = []
        view, offset = memoryview(buffer).cast("B"), 0
        for extent in extents:
            after = offset + extent.count * self.block_size
            part, offset = view[offset:after], after
            used = list(self._used.runs(extent.start, extent.stop))
            zero_gaps(extent.start, extent.stop, used, part, self.block_size)
            parts.append((extent.start, used, part))
        for attempt in range(_ATTEMPTS):
            for start, used, part in parts:
                for extent in used:
                    if extent.start < self._volume.block_count:
                        self._volume.read_into(extent.start, self._part(start, self._clip(extent), part))
            try:
                areas = self._look()
                for start, used, part in parts:
                    found, live = resolve(areas, used)
                    self._check_reach(live)
                    for saved in found:
                        self._areas.read(saved, self._part(start, saved.extent, part))
            except (RecordMissingError, CorruptRecordError):
                # A snapshot beside this one was deleted and its records were moved or reused: look again.
                self._maps, self._seen = {}, {}
                if attempt == _ATTEMPTS - 1:
                    raise
                continue
            return

    def _clip(self, extent: Extent) -> Extent:
        return Extent(extent.start, min(extent.count, self._volume.block_count - extent.start))

    def _check_reach(self, live: Sequence[Extent]) -> None:
        """What no area keeps is in the volume; one opened before it grew ends too soon."""
        if any(extent.stop > self._volume.block_count for extent in live):
            raise VolumeFailedError(
                f"snapshot {self.record.name} needs blocks beyond the {self._volume.size_bytes} bytes that its volume "
                f"had when it was opened here",
                hint="open the volume again: it has grown",
            )

    def _look(self) -> list[AreaMap]:
        """The areas in which a block of this snapshot may be, as they are now, in the order of a lookup."""
        keys: dict[str, list[str]] = {}
        for key in self._save.list(AREAS):
            keys.setdefault(area_of(key), []).append(key)
        records = self._table.load()
        for area in sorted(keys, key=area_order):
            self._refresh(area, keys[area])
        return [self._maps[area] for area in self._order(records, set(keys)) if area in keys]

    def _order(self, records: tuple[SnapshotRecord, ...], present: set[str]) -> list[str]:
        """Areas of this snapshot and of all newer ones, in the order in which they are looked up."""
        current = find_record(records, self.record.name)
        if current.id != self.record.id:
            raise SnapshotInvalidError(f"snapshot {self.record.name} was deleted, and another one made by that name")
        if not current.valid:
            raise invalid_error(current)
        at = records.index(current)
        areas = [area for record in records[at:] if record.valid for area in record.areas]
        return [*areas, *newer_areas(records, present)]

    def _refresh(self, area: str, keys: list[str]) -> None:
        seen = self._seen.setdefault(area, set())
        new = [key for key in keys if key not in seen]
        if new:
            area_map = self._maps.setdefault(area, AreaMap(area))
            area_map.load(self._save, sorted(new, key=sequence_in), self.block_size)
            seen.update(new)

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
