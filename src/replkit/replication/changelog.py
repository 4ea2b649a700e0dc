"""The change log: which blocks changed since the last cut, and what outlives a crash (FIG. 10; D1, S5)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from replkit.blocks.bitmap import PagedBitmap
from replkit.blocks.extent import Extent
from replkit.contracts.savevolume import SaveVolume
from replkit.errors import CorruptRecordError
from replkit.snapshot.intents import IntentLog
from replkit.snapshot.owned import OwnedCell

CHANGES: Final = "lists/changes/"
CHANGES_CELL: Final = "changes"
_LENGTH = struct.Struct("<Q")


class SavedChanges(msgspec.Struct, frozen=True, kw_only=True):
    """Cell ``changes``: the record of the maps at the last clean close; ``clean`` until the volume is opened again."""

    key: str
    block_count: int
    clean: bool


class OldMap(NamedTuple):
    """The map that a cut swapped out: blocks changed, and which of them were discarded and not written since."""

    changed: PagedBitmap
    discarded: PagedBitmap


class ChangeLog:
    """Two bit maps, current and old, of changed blocks; beside each a map of what is discarded.

    In memory only: what makes a changed block survive a crash is the intent of its region. After a crash every block
    of a region with an intent counts as changed, and the map of the last clean close too (invariant 2: in doubt a
    block is dirty). ``mark`` may be called by several writers at once; all else with the gate held alone.
    """

    def __init__(self, save: SaveVolume, intents: IntentLog, *, block_count: int, cell: str = CHANGES_CELL) -> None:
        self._save = save
        self._cell = OwnedCell(save, cell)
        self.current = PagedBitmap(block_count)
        self.discarded = PagedBitmap(block_count)
        self.coarse = PagedBitmap(block_count)
        """What this opening found in doubt: blocks of regions with an intent, after a crash. A cut leaves it."""
        self.has_discards = False
        self.old: OldMap | None = None
        value = self._cell.value
        try:
            self._saved = msgspec.json.decode(value, type=SavedChanges) if value else None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CorruptRecordError(f"cell {cell} names no saved change map: {error}") from error
        self.was_clean = self._saved is None or self._saved.clean
        """Whether the maps are exact: the volume was closed cleanly, or is new."""
        self._load(intents)

    def _load(self, intents: IntentLog) -> None:
        saved = self._saved
        if saved is not None:
            self.current, self.discarded = self._read(saved)
        if saved is None or not saved.clean:
            for start, count in intents.dirty_extents():
                self.was_clean = False
                self.current.set_run(start, count)
                self.coarse.set_run(start, count)
            self.discarded = PagedBitmap(self.current.block_count)
        self.has_discards = bool(self.discarded)
        self._save.delete([key for key in self._save.list(CHANGES) if saved is None or key != saved.key])

    def begin_writing(self) -> None:
        """Durably take back that the volume was closed, before the first write."""
        if self._saved is None:
            self._swap(SavedChanges(key="", block_count=self.current.block_count, clean=False))
        elif self._saved.clean:
            self._swap(msgspec.structs.replace(self._saved, clean=False))

    # --- marks --------------------------------------------------------------------------------------------------

    def mark(self, extents: Iterable[tuple[int, int]]) -> None:
        """Blocks are about to be written; inside the gate."""
        current = self.current
        for start, count in extents:
            if count == 1:
                current.add(start)
            else:
                current.set_run(start, count)
        if self.has_discards:
            for start, count in extents:
                self.discarded.clear_run(start, count)

    def mark_discarded(self, start: int, count: int) -> None:
        """Marked blocks were discarded; the gate is held alone since, so kind and data changed together."""
        self.discarded.set_run(start, count)
        self.has_discards = True

    def is_busy(self, region: Extent) -> bool:
        """Whether the intent of a region is still needed: one of the maps has a block of it (invariant 3)."""
        old = self.old
        return self.current.any_in(*region) or (old is not None and old.changed.any_in(*region))

    # --- cuts ---------------------------------------------------------------------------------------------------

    def swap(self) -> OldMap:
        """The moment of a cut: the current map becomes the old one."""
        block_count = self.current.block_count
        self.old = OldMap(self.current, self.discarded)
        self.current, self.discarded = PagedBitmap(block_count), PagedBitmap(block_count)
        self.has_discards = False
        return self.old

    def give_back(self, old: OldMap) -> None:
        """A cut was abandoned: its blocks are changed still; the newer map says of what kind they are."""
        kept = old.discarded.copy()
        kept.subtract(self.current)
        self.discarded.update(kept)
        self.has_discards = self.has_discards or bool(kept)
        self.current.update(old.changed)
        self.old = None

    def resize(self, block_count: int) -> None:
        """Follow a resize of the volume."""
        self.current.resize(block_count)
        self.discarded.resize(block_count)
        self.coarse.resize(block_count)

    # --- clean close --------------------------------------------------------------------------------------------

    def save_clean(self) -> None:
        """Make the maps durable as those of a clean close; no write follows."""
        saved = self._saved
        number = int(saved.key.rpartition("/")[2], 16) + 1 if saved is not None and saved.key else 1
        key = f"{CHANGES}{number:016x}"
        changed = self.current.to_bytes()
        self._save.put(key, [_LENGTH.pack(len(changed)), changed, self.discarded.to_bytes()])
        self._save.sync()
        self._swap(SavedChanges(key=key, block_count=self.current.block_count, clean=True))
        if saved is not None and saved.key:
            self._save.delete([saved.key])

    def _read(self, saved: SavedChanges) -> tuple[PagedBitmap, PagedBitmap]:
        block_count = self.current.block_count
        if not saved.key:
            return PagedBitmap(block_count), PagedBitmap(block_count)
        data = self._save.get(saved.key)
        if len(data) < _LENGTH.size:
            raise CorruptRecordError(f"{saved.key}: {len(data)} bytes are too few for a change map")
        at = _LENGTH.size + _LENGTH.unpack_from(data)[0]
        changed = PagedBitmap.from_bytes(saved.block_count, data[_LENGTH.size : at])
        discarded = PagedBitmap.from_bytes(saved.block_count, data[at:])
        changed.resize(block_count)
        discarded.resize(block_count)
        return changed, discarded

    def _swap(self, saved: SavedChanges) -> None:
        self._cell.swap_or_fence(msgspec.json.encode(saved))
        self._saved = saved


def forget_changes(save: SaveVolume, block_count: int, cell: str = CHANGES_CELL) -> None:
    """Begin with no block changed: the volume stands at a boundary, and nothing of an earlier life as a primary counts.

    Intents that are left count still. The record of an older map goes at the next opening.
    """
    saved = SavedChanges(key="", block_count=block_count, clean=True)
    save.swap(cell, msgspec.json.encode(saved), save.load(cell).version)
