"""Rebuilding the queue of snapshots from the save volume, and saying which of them are not whole any more (inv. 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from replkit.blocks.bitmap import PagedBitmap
from replkit.contracts.savevolume import SaveVolume
from replkit.errors import CorruptRecordError, RecordMissingError, ReplkitError
from replkit.snapshot.area import AreaMap
from replkit.snapshot.layer import Layer, StagedMap, map_key
from replkit.snapshot.records import (
    AREAS,
    BLOCK_MAPS,
    IN_USE,
    SnapshotRecord,
    area_of,
    area_order,
    newer_areas,
)

Records = tuple[SnapshotRecord, ...]


class OpenedQueue(NamedTuple):
    """``layers`` of the valid snapshots, oldest first; ``records`` of all, for the next store of the table."""

    layers: list[Layer]
    records: Records
    next_order: int


def open_queue(
    save: SaveVolume, table: Records, store: Callable[[Records], None], *, block_count: int, block_size: int, token: str
) -> OpenedQueue:
    """Rebuild the queue; ``store`` publishes the table where it changed, before anything that it named is deleted.

    A snapshot whose maps are damaged, and the older ones that fall through it, become invalid. ``token`` is random:
    the newest snapshot's next before-images go to an area of that name, which the table need not name
    (``newer_areas``); so no record is ever put under a name that a reader has seen with other blocks.
    """
    keys: dict[str, list[str]] = {}
    for key in save.list(AREAS):
        keys.setdefault(area_of(key), []).append(key)
    orders = [area_order(area) for record in table for area in (record.id, *record.areas)]
    next_order = max([*orders, *(area_order(area) for area in keys)], default=-1) + 1
    opening = _Opening(save, keys, block_count, block_size)
    adopted = _adopt_newer_areas(table, set(keys))
    for record in adopted:
        opening.add(_without_empty(record, keys))
    records = tuple(opening.records)
    if adopted != table or any(old.valid != new.valid for old, new in zip(table, records, strict=True)):
        store(records)
    _delete_strangers(save, records, keys)
    if opening.layers:
        records = _open_area(opening.layers[-1], f"{next_order:08x}-{token}", records)
    return OpenedQueue(opening.layers, records, next_order + 1)


class _Opening:
    """Layers one by one, oldest first."""

    def __init__(self, save: SaveVolume, keys: dict[str, list[str]], block_count: int, block_size: int) -> None:
        self.layers: list[Layer] = []
        self.records: list[SnapshotRecord] = []
        self._save, self._keys = save, keys
        self._block_count, self._block_size = block_count, block_size
        self._staged = {key.rpartition("/")[2] for key in save.list(BLOCK_MAPS)}

    def add(self, record: SnapshotRecord) -> None:
        """Open the next snapshot, or find that it, and who needs blocks of it, cannot be whole."""
        if not record.valid:
            self.records.append(record)
            return
        unsaved = self.layers[-1].unsaved.copy() if self.layers else PagedBitmap(self._block_count)
        try:
            layer = self._open(record, unsaved)
        except (CorruptRecordError, RecordMissingError) as error:
            if unsaved:  # of older snapshots, to be found in this one or in a newer one
                self.records = [_invalid(older, error) if older.valid else older for older in self.records]
                self.layers = []
            self.records.append(_invalid(record, error))
            return
        self.layers.append(layer)
        self.records.append(record)

    def _open(self, record: SnapshotRecord, unsaved: PagedBitmap) -> Layer:
        areas = [self._area(name) for name in record.areas]
        layer = Layer(record, areas, unsaved)
        blocks = layer.in_use(self._save, self._block_size).blocks()
        blocks.resize(self._block_count)
        unsaved.update(blocks)
        for area in areas:
            for (start, count), _place in area.blocks.runs():
                if start < self._block_count:
                    unsaved.clear_run(start, min(count, self._block_count - start))
        return layer

    def _area(self, name: str) -> AreaMap:
        if name in self._staged:
            return StagedMap(self._save, name, self._block_size)
        area = AreaMap(name)
        area.load(self._save, self._keys.get(name, []), self._block_size)
        return area


def _invalid(record: SnapshotRecord, error: ReplkitError) -> SnapshotRecord:
    return msgspec.structs.replace(record, valid=False, areas=(), why_invalid=error.message)


def _adopt_newer_areas(records: Records, present: set[str]) -> Records:
    newer = newer_areas(records, present)
    newest = next((record for record in reversed(records) if record.valid), None)
    if newest is None or not newer:
        return records
    adopted = msgspec.structs.replace(newest, areas=(*newest.areas, *newer))
    return tuple(adopted if record is newest else record for record in records)


def _without_empty(record: SnapshotRecord, keys: dict[str, list[str]]) -> SnapshotRecord:
    """An opening after which nothing was saved leaves an area without records."""
    return msgspec.structs.replace(record, areas=tuple(area for area in record.areas if area in keys))


def _delete_strangers(save: SaveVolume, records: Records, keys: dict[str, list[str]]) -> None:
    """Leftovers of what was deleted, invalidated or never published; the live in-use map names its own record."""
    known = {area for record in records for area in record.areas}
    for area in [area for area in keys if area not in known]:
        save.delete([*keys.pop(area), map_key(area)])
    named = {record.in_use_key for record in records if record.valid}
    save.delete([key for key in save.list(IN_USE) if key not in named and not key.startswith(f"{IN_USE}live-")])
    save.delete([key for key in save.list(BLOCK_MAPS) if key.rpartition("/")[2] not in known])


def _open_area(newest: Layer, name: str, records: Records) -> Records:
    """Give the newest snapshot an area for its next before-images; the table learns of it with its next store."""
    old = newest.record
    newest.areas.append(AreaMap(name))
    newest.record = msgspec.structs.replace(old, areas=(*old.areas, name))
    return tuple(newest.record if record is old else record for record in records)
