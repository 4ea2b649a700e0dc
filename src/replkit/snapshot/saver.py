"""Saving old blocks before they are overwritten: for the newest snapshot, and for an open cut (FIG. 10, 26, 41)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from replkit.blocks.extent import Extent, clip, intersect, normalise, split, total, union
from replkit.contracts.savevolume import SaveVolume
from replkit.contracts.volume import BlockVolume
from replkit.errors import CorruptRecordError, RecordMissingError, ReplkitError, SaveVolumeFullError
from replkit.snapshot.area import MAX_RECORD_BLOCKS, MAX_RECORD_BYTES, AreaMap, encode_record, record_key
from replkit.snapshot.layer import Layer
from replkit.snapshot.queue import SnapshotQueue
from replkit.snapshot.rangelock import RangeLock


class OldBlockTaker(Protocol):
    """Who else needs blocks as they are before a write: an open cut."""

    def needs(self, start: int, count: int) -> bool:
        """Whether one of the blocks may be needed; cheap, without a lock."""
        ...

    def wanted(self, extents: Sequence[Extent]) -> list[Extent]:
        """Which of the blocks are needed; the range lock is held."""
        ...

    def has_room(self, blocks: int) -> bool:
        """Whether so many blocks more can be taken now."""
        ...

    def take(self, extent: Extent, data: memoryview) -> None:
        """Take old blocks over, by copy; they are needed no more."""
        ...

    def wait_for_room(self, blocks: int) -> None:
        """Wait outside the gate until so many blocks more can be taken."""
        ...


class Full(Exception):  # noqa: N818 - it is no error: the writer waits outside the gate and tries again
    """The save area or the taker has no room; nothing was overwritten."""

    def __init__(self, taker: OldBlockTaker | None, room_made: int, reason: str, blocks: int = 0) -> None:
        super().__init__(reason)
        self.blocks = blocks
        self.taker = taker
        self.room_made = room_made
        self.reason = reason


class OldBlocks:
    """Reads each old block once, for the newest snapshot and for the cut, before it is overwritten.

    The range lock is held across check, read, save and mark. A block whose mark is gone is safe to overwrite without
    it: the mark goes after the before-image is durable (invariant 4) and before the writer that saved it writes.
    """

    def __init__(self, volume: BlockVolume, save: SaveVolume, queue: SnapshotQueue, ranges: RangeLock) -> None:
        self._volume = volume
        self._save = save
        self._queue = queue
        self._ranges = ranges
        self._group_blocks: Final = min(MAX_RECORD_BLOCKS, MAX_RECORD_BYTES // volume.block_size)

    def keep(self, touched: Sequence[tuple[int, int]], taker: OldBlockTaker | None) -> None:
        """Return when no old block of ``touched`` is needed any more; called inside the gate. May raise ``Full``."""
        extents = normalise(Extent(start, count) for start, count in touched)
        with self._ranges.lock_extents(extents):
            layer = self._queue.newest
            copy = taker.wanted(extents) if taker is not None else []
            if taker is not None and copy and not taker.has_room(total(copy)):
                raise Full(taker, self._queue.room_made, "copied-ahead blocks of the open cut", total(copy))
            work = _Work(layer, self._unsaved(layer, extents), taker, copy, [])
            room_made = self._queue.room_made
            try:
                for group in _groups(union(work.save, copy) if copy else work.save, self._group_blocks):
                    self._keep_group(group, work)
                if work.records:
                    self._save.sync()
            except SaveVolumeFullError as error:
                self._save.delete([record_key(area.area, sequence) for area, sequence, _ in work.records])
                raise Full(None, room_made, error.message) from error
            if layer is not None:
                self._mark_saved(layer, work)

    def _unsaved(self, layer: Layer | None, extents: list[Extent]) -> list[Extent]:
        if layer is None:
            return []
        unsaved = layer.unsaved
        with self._queue.state:
            found: list[Extent] = []
            for extent in extents:  # single blocks are the usual case of scattered writes
                if extent.count > 1:
                    found += unsaved.runs(extent.start, extent.stop)
                elif unsaved.any_in(extent.start, 1):
                    found.append(extent)
            for area in layer.areas:
                if area.blocks:
                    found = [piece for start, count in found for piece in area.blocks.missing(start, count)]
        return found

    def _keep_group(self, group: list[Extent], work: _Work) -> None:
        size = self._volume.block_size
        data = memoryview(bytearray(total(group) * size))
        saved = intersect(group, work.save) if work.copy else group
        try:
            self._volume.read_extents(group, data)
        except (CorruptRecordError, RecordMissingError) as error:
            if saved and work.layer is not None:
                raise _needed_by(work.layer, error) from error
            raise
        if saved and work.layer is not None:
            with self._queue.state:
                area = work.layer.areas[-1]
                sequence = area.next_sequence
                area.next_sequence += 1
            is_all = saved is group or total(saved) == total(group)
            plain = data if is_all else memoryview(b"".join(_slices(group, saved, data, size)))
            self._save.put(record_key(area.area, sequence), encode_record(saved, plain, size))
            work.records.append((area, sequence, saved))
        if work.taker is not None:
            taken = [piece for extent in group for piece in clip(work.copy, extent.start, extent.stop)]
            for extent, part in zip(taken, _slices(group, taken, data, size), strict=True):
                work.taker.take(extent, part)

    def _mark_saved(self, layer: Layer, work: _Work) -> None:
        with self._queue.state:
            for area, sequence, extents in work.records:
                area.add(sequence, extents)
            for start, count in work.save:
                layer.unsaved.clear_run(start, count)


def _needed_by(layer: Layer, error: ReplkitError) -> CorruptRecordError:
    """A snapshot is never partly wrong (invariant 4), and none is given up without a command (invariant 10)."""
    name = layer.record.name
    return CorruptRecordError(
        f"{error.message}; snapshot {name} needs this block as it was, so it is not overwritten",
        hint=f"give that snapshot up, with the boundaries that stand on it: replkit snapshot delete VOLUME {name}",
    )


class _Work(NamedTuple):
    """What one batch keeps: ``save`` goes to a record of the newest snapshot, ``copy`` to the open cut."""

    layer: Layer | None
    save: list[Extent]
    taker: OldBlockTaker | None
    copy: list[Extent]
    records: list[tuple[AreaMap, int, list[Extent]]]


def _groups(extents: list[Extent], max_blocks: int) -> list[list[Extent]]:
    groups: list[list[Extent]] = []
    room = 0
    for extent in split(extents, max_blocks):
        if extent.count > room:
            groups.append([])
            room = max_blocks
        groups[-1].append(extent)
        room -= extent.count
    return groups


def _slices(group: list[Extent], wanted: list[Extent], data: memoryview, size: int) -> list[memoryview]:
    """The parts of ``data``, which holds the blocks of ``group``, that are the extents ``wanted``."""
    parts: list[memoryview] = []
    offset = 0
    for extent in group:
        for start, count in clip(wanted, extent.start, extent.stop):
            at = offset + (start - extent.start) * size
            parts.append(data[at : at + count * size])
        offset += extent.count * size
    return parts
