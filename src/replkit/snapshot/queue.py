"""The queue of snapshots of a volume: made, published, deleted, invalidated, rebuilt (FIG. 25, 42; P1, P4, P6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from replkit.blocks.bitmap import PagedBitmap
from replkit.blocks.extent import Extent, intersect
from replkit.contracts.position import Position
from replkit.contracts.runtime import Runtime
from replkit.contracts.savevolume import SaveVolume
from replkit.errors import AlreadyExistsError, NotFoundError, ReplkitError, SaveVolumeFullError
from replkit.snapshot.area import AreaMap, sequence_in, sequence_of
from replkit.snapshot.gate import Gate
from replkit.snapshot.inuse import InUseMap, put_map
from replkit.snapshot.layer import Layer, map_key
from replkit.snapshot.opening import open_queue
from replkit.snapshot.records import (
    AREAS,
    IN_USE,
    NO_ROOM,
    SnapshotRecord,
    SnapshotTable,
    find_record,
    invalid_error,
)


class Pending:
    """A snapshot that is being made: ``take`` is its moment, called inside the gate held alone."""

    def __init__(self, queue: SnapshotQueue, record: SnapshotRecord, extra: PagedBitmap | None) -> None:
        self._queue = queue
        self._extra = extra
        self.record = record
        self.in_use: InUseMap | None = None

    def take(self, in_use: InUseMap, size_bytes: int) -> None:
        """From here on old blocks are saved for this snapshot."""
        self.record = msgspec.structs.replace(self.record, size_bytes=size_bytes)
        self.in_use = in_use.copy()
        unsaved = self.in_use.blocks()
        if self._extra is not None:
            self._extra.resize(unsaved.block_count)  # what a resize cut off since was saved
            unsaved.update(self._extra)
        layer = Layer(self.record, [AreaMap(self.record.id)], unsaved, self.in_use)
        with self._queue.state:
            self._queue.layers.append(layer)
            self._queue.set_newest()


class SnapshotQueue:
    """Valid snapshots, oldest first, and the records of all. ``newest`` is what writers look at, inside the gate.

    Until a new snapshot is published its before-images count for the one before it too, after a crash by the rule of
    ``newer_areas``. Deleting appends the areas of a snapshot to those of the one before it: one store of the table
    moves all its before-images, and a reader finds them in one or the other.
    """

    def __init__(
        self, save: SaveVolume, table: SnapshotTable, gate: Gate, runtime: Runtime, *, block_count: int, block_size: int
    ) -> None:
        self._save = save
        self._table = table
        self._gate = gate
        self._runtime = runtime
        self._block_size = block_size
        self._admin = runtime.lock()
        self.state = runtime.lock()
        """Guards ``layers`` and the maps in them; taken by writers only when they save before-images."""
        self.room = runtime.condition()
        self.room_made = 0
        self.newest: Layer | None = None
        self.layers, self._records, self._next_order = open_queue(
            save,
            table.load(),
            table.store,
            block_count=block_count,
            block_size=block_size,
            token=runtime.random_bytes(4).hex(),
        )
        self.set_newest()

    # --- asking -------------------------------------------------------------------------------------------------

    def records(self) -> tuple[SnapshotRecord, ...]:
        """All snapshots, invalid ones too, oldest first."""
        return self._records

    def layer(self, snapshot_id: str, name: str) -> Layer:
        """The layer of a snapshot; call with ``state`` held."""
        for layer in self.layers:
            if layer.record.id == snapshot_id:
                return layer
        for record in self._records:
            if record.id == snapshot_id:
                raise invalid_error(record)
        raise NotFoundError(f"snapshot {name} was deleted")

    def areas_from(self, layer: Layer) -> list[AreaMap]:
        """Areas in which the blocks of a snapshot are looked up, in order (FIG. 27); call with ``state`` held."""
        at = self.layers.index(layer)
        return [area for later in self.layers[at:] for area in later.areas]

    def set_newest(self) -> None:
        """Show writers the end of the queue."""
        self.newest = self.layers[-1] if self.layers else None

    # --- making -------------------------------------------------------------------------------------------------

    @contextmanager
    def making(
        self,
        name: str,
        stamp: Position | None,
        *,
        at_boundary: bool,
        held: bool,
        in_use: InUseMap,
        publish: Publish,
    ) -> Iterator[Pending]:
        """Make a snapshot: the body must call ``take`` inside the gate; it is published when the body ends.

        ``publish(in_use)`` makes durable what the snapshot shows (a flush, and the in-use map of the volume).
        """
        with self._admin:
            if any(record.name == name for record in self._records):
                raise AlreadyExistsError(f"a snapshot is called {name} already")
            area = f"{self._next_order:08x}-{self._runtime.random_bytes(4).hex()}"
            self._next_order += 1
            record = SnapshotRecord(
                id=area,
                name=name,
                stamp=stamp,
                at_boundary=at_boundary,
                created_s=self._runtime.now(),
                size_bytes=0,
                held=held,
                in_use_key=f"{IN_USE}{area}",
                areas=(area,),
            )
            pending = Pending(self, record, self._not_in_use_but_unsaved(in_use))
            try:
                yield pending
                if pending.in_use is None:
                    return
                put_map(self._save, record.in_use_key, pending.in_use)
                self._save.sync()
                publish(pending.in_use)
            except BaseException:
                if pending.in_use is not None:
                    self._undo_take(record)
                raise
            self._records = (*self._records, pending.record)
            # If this fails its outcome is open: the snapshot stays in the queue, and the next store publishes it.
            self._table.store(self._records)
            self._stage_out_older()

    def _not_in_use_but_unsaved(self, in_use: InUseMap) -> PagedBitmap | None:
        """What an older snapshot used, nobody saved and is unused now: nothing, as a discard saves (FIG. 41, P2)."""
        newest = self.newest
        if newest is None:
            return None
        with self._gate.exclusive():
            extra, used = newest.unsaved.copy(), in_use.copy()
        blocks = used.blocks()
        if blocks.block_count != extra.block_count:
            blocks.resize(extra.block_count)
        extra.subtract(blocks)
        return extra if extra else None

    def _undo_take(self, record: SnapshotRecord) -> None:
        """Nothing shows the snapshot yet: what was saved for it stays with the one before it."""
        with self._gate.exclusive(), self.state:
            layer = self.layers.pop()
            self.set_newest()
            is_inherited = self.newest is not None and any(area.blocks for area in layer.areas)
            if self.newest is not None and is_inherited:
                self.newest.areas = [*self.newest.areas, *layer.areas]
                self.newest.record = self._with_areas(self.newest.record, layer.record)
                self._records = self._replaced(self.newest.record)
        if not is_inherited:  # else tries that fail again and again would leave an area each
            self._delete_areas([record.id])
        self._save.delete([record.in_use_key])

    def _stage_out_older(self) -> None:
        """Write the maps of the snapshot before to the save volume, and keep them no longer in memory (P4)."""
        if len(self.layers) < 2:
            return
        older = self.layers[-2]
        try:
            staged = older.staged_areas(self._save, self._block_size)
        except SaveVolumeFullError:
            return  # a checkpoint only: the maps stay in memory, the records stay their truth
        with self.state:
            older.let_go(staged)

    # --- changing -----------------------------------------------------------------------------------------------

    def change(self, name: str, change: Callable[[SnapshotRecord], SnapshotRecord]) -> SnapshotRecord:
        """Publish a changed record of the snapshot called ``name``."""
        with self._admin:
            record = change(find_record(self._records, name))
            self._replace(record)
            for layer in self.layers:
                if layer.record.id == record.id:
                    layer.record = record
        self.tell_room()
        return record

    def delete(self, name: str) -> None:
        """Delete any snapshot (P6)."""
        with self._admin:
            self._remove(find_record(self._records, name), None)
        self.tell_room()

    def invalidate_oldest(self, room_made: int) -> bool:
        """Give up the oldest snapshot that is not held, visibly, to make room; False if there is none.

        Does nothing if room was made since the caller saw ``room_made``.
        """
        with self._admin:
            if self.room_made != room_made:
                return True
            for layer in list(self.layers):
                if not layer.record.held:
                    self._remove(
                        layer.record, msgspec.structs.replace(layer.record, valid=False, areas=(), why_invalid=NO_ROOM)
                    )
                    break
            else:
                return False
        self.tell_room()
        return True

    def tell_room(self) -> None:
        """Wake whoever waits for room in the save areas."""
        with self.room:
            self.room_made += 1
            self.room.notify_all()

    def _remove(self, record: SnapshotRecord, tombstone: SnapshotRecord | None) -> None:
        """Take a snapshot out of the queue; ``tombstone`` stays as the record of an invalid one."""
        at = next((i for i, layer in enumerate(self.layers) if layer.record.id == record.id), None)
        older = self.layers[at - 1] if at else None
        records = [tombstone if other.id == record.id else other for other in self._records]
        heir, kept, dropped = None, list[AreaMap](), record.areas
        if at is not None and older is not None:
            kept = _worth_keeping(older, self.layers[at], is_newest=at == len(self.layers) - 1)
            heir = msgspec.structs.replace(older.record, areas=tuple(area.area for area in kept))
            dropped = tuple(name for name in (*older.record.areas, *record.areas) if name not in heir.areas)
            records = [heir if other is not None and other.id == heir.id else other for other in records]
        self._records = self._store(tuple(other for other in records if other is not None))
        if at is not None:
            self._leave_queue(at, heir, kept)
        self._delete_areas(dropped)
        self._save.delete([record.in_use_key])

    def _leave_queue(self, at: int, heir: SnapshotRecord | None, kept: list[AreaMap]) -> None:
        """The table says so already: now readers and writers see it, in one moment."""
        with self._gate.exclusive(), self.state:
            layer = self.layers[at]
            older, last_own = self.layers[at - 1], list[AreaMap]()
            if heir is not None:
                last_own = older.areas[-1:]  # it got records until now, if its snapshot was once left the newest
                older.areas, older.record = kept, heir
            del self.layers[at]
            self.set_newest()
        if heir is not None:
            inherited = [area for area in (*last_own, *layer.areas) if area in kept]
            self._drop_what_nobody_reads(self.layers[at - 1], inherited, is_newest=at == len(self.layers))

    def _drop_what_nobody_reads(self, owner: Layer, inherited: Sequence[AreaMap], *, is_newest: bool) -> None:
        """Delete inherited records all of whose blocks the owner has of its own, or that no older snapshot used."""
        at = self.layers.index(owner)
        used = [layer.in_use(self._save, self._block_size) for layer in self.layers[: at + 1]]
        for area in inherited[: len(inherited) - is_newest]:
            needed = _needed_sequences(area, owner.areas[: owner.areas.index(area)], used)
            keys = self._save.list(f"{AREAS}{area.area}/")
            unread = [key for key in keys if sequence_in(key) not in needed]
            if unread:
                self._drop_records(owner, area, {sequence_in(key) for key in unread})
                self._save.delete(unread)

    def _drop_records(self, owner: Layer, area: AreaMap, sequences: set[int]) -> None:
        kept = AreaMap(area.area)
        kept.next_sequence = area.next_sequence
        for (start, count), place in area.blocks.runs():
            if sequence_of(place) not in sequences:
                kept.blocks.add(start, count, place)
        self._save.delete([map_key(area.area)])
        self._save.sync()  # the checkpoint must not come back after the records are gone
        with self.state:
            owner.areas = [kept if other is area else other for other in owner.areas]

    def _delete_areas(self, areas: Sequence[str]) -> None:
        for area in areas:
            self._save.delete([*self._save.list(f"{AREAS}{area}/"), map_key(area)])

    @staticmethod
    def _with_areas(record: SnapshotRecord, newer: SnapshotRecord) -> SnapshotRecord:
        return msgspec.structs.replace(record, areas=(*record.areas, *newer.areas))

    def _replaced(self, record: SnapshotRecord) -> tuple[SnapshotRecord, ...]:
        return tuple(record if other.id == record.id else other for other in self._records)

    def _replace(self, record: SnapshotRecord) -> None:
        self._records = self._store(self._replaced(record))

    def _store(self, records: tuple[SnapshotRecord, ...]) -> tuple[SnapshotRecord, ...]:
        self._table.store(records)
        return records


Publish = Callable[[InUseMap], None]
"""Makes durable what a snapshot shows: a flush of the volume, and its in-use map."""


def _worth_keeping(older: Layer, layer: Layer, *, is_newest: bool) -> list[AreaMap]:
    """The areas of a snapshot and of the next one, which it inherits, without empty ones that get no more records."""
    areas = [*older.areas, *layer.areas]
    return [area for at, area in enumerate(areas, 1) if (is_newest and at == len(areas)) or not _is_empty(area)]


def _is_empty(area: AreaMap) -> bool:
    """What cannot be read now is kept."""
    try:
        return not area.blocks
    except ReplkitError:
        return False


def _needed_sequences(area: AreaMap, earlier: Sequence[AreaMap], used: Sequence[InUseMap]) -> set[int]:
    needed: set[int] = set()
    for (start, count), place in area.blocks.runs():
        missing = [Extent(start, count)]
        for other in earlier:
            missing = [piece for extent in missing for piece in other.blocks.missing(*extent)]
        for in_use in used:
            if missing and intersect(missing, list(in_use.runs(start, start + count))):
                needed.add(sequence_of(place))
                break
    return needed
