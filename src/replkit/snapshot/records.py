"""What a snapshot is to the outside: its record, the table that makes it visible, and its keys in the save volume."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from replkit.contracts.position import Position
from replkit.contracts.savevolume import SaveVolume
from replkit.errors import CorruptRecordError, NotFoundError, SnapshotInvalidError

AREAS: Final = "areas/"
IN_USE: Final = "lists/in-use/"
BLOCK_MAPS: Final = "lists/block-maps/"
NO_ROOM: Final = "there was no room for its before-images"


class SnapshotRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot. It exists from the moment at which the table that holds this record was stored.

    ``stamp`` is the newest position that the snapshot contains; ``at_boundary`` tells that it equals that position
    (else: "after the stamp, at no boundary", which may seed a new copy but never is a restart point). ``areas``
    names the save areas that keep its before-images: its own, then those of newer snapshots deleted since (P6);
    new before-images of the newest snapshot go to the last. An invalid snapshot has none (invariant 4), and says why.
    """

    id: str
    name: str
    stamp: Position | None = None
    at_boundary: bool = False
    created_s: float
    size_bytes: int
    held: bool = False
    valid: bool = True
    in_use_key: str
    areas: tuple[str, ...]
    why_invalid: str = ""


class SnapshotTable(Protocol):
    """Where the queue of snapshots is published: on a replica the ``root`` cell, so that a fenced owner cannot."""

    def load(self) -> tuple[SnapshotRecord, ...]:
        """The records, oldest first."""
        ...

    def store(self, records: tuple[SnapshotRecord, ...]) -> None:
        """Replace the records, durably and as a whole."""
        ...


class CellSnapshotTable:
    """A snapshot table in a cell of its own, for volumes that are no replica."""

    def __init__(self, save: SaveVolume, cell: str = "snapshots") -> None:
        self._save = save
        self._cell = cell

    def load(self) -> tuple[SnapshotRecord, ...]:
        """The records, oldest first."""
        value, _version = self._save.load(self._cell)
        try:
            return msgspec.json.decode(value or b"[]", type=tuple[SnapshotRecord, ...])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CorruptRecordError(f"cell {self._cell} does not hold a snapshot table: {error}") from error

    def store(self, records: tuple[SnapshotRecord, ...]) -> None:
        """Swap the records in; only one producer does so."""
        self._save.swap(self._cell, msgspec.json.encode(records), self._save.load(self._cell).version)


def find_record(records: tuple[SnapshotRecord, ...], name: str) -> SnapshotRecord:
    """The record of the snapshot called ``name``."""
    for record in records:
        if record.name == name:
            return record
    raise NotFoundError(f"no snapshot is called {name}", hint="snapshot list shows them")


def invalid_error(record: SnapshotRecord) -> SnapshotInvalidError:
    """The error of whoever asks for an invalid snapshot."""
    return SnapshotInvalidError(
        f"snapshot {record.name} was invalidated: {record.why_invalid or NO_ROOM}", hint="delete it"
    )


def area_order(area: str) -> int:
    """Place of an area in time: the number that its name begins with."""
    return int(area.partition("-")[0], 16)


def area_of(key: str) -> str:
    """The area that a before-image record belongs to."""
    return key.split("/")[1]


def newer_areas(records: tuple[SnapshotRecord, ...], present: set[str]) -> list[str]:
    """Areas newer than all that the table names, ascending: a snapshot was being made, or could not be published.

    They hold before-images of the newest published snapshot, whose own area got none since (invariant 4).
    """
    newest = max((area_order(area) for record in records for area in (record.id, *record.areas)), default=-1)
    return sorted((area for area in present if area_order(area) > newest), key=area_order)
