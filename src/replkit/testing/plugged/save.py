"""A simulated save volume whose records and cells lie in a plugin's save volume.

The simulator's save volume is the model: it plans the faults and knows which records are synced, which may be lost and
which may come back. Each call goes to the plugin too and must answer the same; after a power failure what is there must
be what the model allows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from replkit.contracts.buffers import Buffer
from replkit.contracts.savevolume import CellValue, SaveVolume
from replkit.errors import RecordMissingError, ReplkitError, SwapConflictError
from replkit.testing.plugged.blame import Blame, ask
from replkit.testing.sim.devices import FaultSave
from replkit.testing.sim.plug import Plug


class SavePlug:
    """How the simulator opens a plugin's save volume as producer, and how its machine loses power.

    ``open_save(create)`` opens it. ``keeps_bytes`` and ``lose_power`` are as for a volume.
    """

    def __init__(
        self,
        open_save: Callable[[bool], SaveVolume],
        *,
        keeps_bytes: bool = True,
        lose_power: Callable[[], None] | None = None,
    ) -> None:
        self.open_save, self.keeps_bytes, self.lose_power = open_save, keeps_bytes, lose_power


class PluggedSave(FaultSave):
    """The save volume of a site that has a plugin's save volume under it."""

    def __init__(self, plug: Plug, pattern: SavePlug, blame: Blame, *, sets_bytes: int, areas_bytes: int) -> None:
        super().__init__(plug, sets_bytes=sets_bytes, areas_bytes=areas_bytes)
        self._pattern, self._blame = pattern, blame
        self._opened: SaveVolume | None = None
        self._there: set[str] = set()
        """Keys that the plugin holds."""
        self._open(create=True)

    def _open(self, *, create: bool = False, is_crash: bool = False) -> SaveVolume:
        if self._opened is None:
            what = "opening the save volume" + ("" if create else " again")
            self._opened = ask(self._blame, what, lambda: self._pattern.open_save(create))
            if not create and not is_crash:
                self._learn("after a close")
        return self._opened

    def _learn(self, when: str) -> None:
        """What is there now; a close does not sync, so unsynced puts may be gone, and are put again."""
        found = set(ask(self._blame, f"list {when}", lambda: self._open().list("")))
        self._judge(when, found)
        self._there = found
        self._follow(sorted(found | set(super().list(""))))

    # -- records --

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Into the model, and what the model then holds into the plugin."""
        self._open()  # before the model changes: what a close left is compared with it
        try:
            super().put(key, parts)
        finally:
            self._follow([key])

    def delete(self, keys: Iterable[str]) -> None:
        """The same, in one call."""
        asked = list(keys)
        self._open()
        try:
            super().delete(asked)
        finally:
            self._follow(asked)

    def _follow(self, keys: Iterable[str]) -> None:
        """Let the plugin hold, of these keys, what the model holds."""
        gone = []
        for key in keys:
            data = self.record(key)
            if data is not None and key not in self._there:
                parts = [data[: len(data) // 2], data[len(data) // 2 :]]
                ask(self._blame, f"put of {key}", lambda key=key, parts=parts: self._open().put(key, parts))  # type: ignore[misc]
                self._there.add(key)
            elif data is None and key in self._there:
                gone.append(key)
        if gone:
            ask(self._blame, f"delete of {gone[:3]}", lambda: self._open().delete(gone))
            self._there.difference_update(gone)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> memoryview:
        """The plugin's bytes, which must be those that were put; or those of a fault that the model planned."""
        wanted = self.record(key)
        if wanted is None:
            self._expect_missing(key)
        else:
            found = self._get(key, start, stop)
            if found != wanted[start:stop]:
                self._blame(f"get of {key} gave {len(found)} bytes, not the {len(wanted[start:stop])} that were put")
        return super().get(key, start, stop)

    def _get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        return bytes(ask(self._blame, f"get of {key}", lambda: self._open().get(key, start, stop)))

    def _expect_missing(self, key: str) -> None:
        try:
            found = ask(self._blame, f"get of {key}", lambda: self._open().get(key), RecordMissingError)
        except RecordMissingError:
            return
        self._blame(f"get of {key}, which was deleted, gave {found.nbytes} bytes instead of RecordMissingError")

    def size_bytes(self, key: str) -> int:
        """The same length."""
        size = super().size_bytes(key)
        found = ask(self._blame, f"size_bytes of {key}", lambda: self._open().size_bytes(key))
        if found != size:
            self._blame(f"size_bytes of {key} is {found}, {size} bytes were put")
        return size

    def list(self, prefix: str) -> Sequence[str]:
        """The same keys."""
        wanted = super().list(prefix)
        found = ask(self._blame, f"list of {prefix!r}", lambda: self._open().list(prefix))
        self._compare_names(f"list of {prefix!r}", wanted, found)
        return found

    def _compare_names(self, what: str, wanted: Sequence[str], found: Sequence[str]) -> None:
        missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
        if missing:
            self._blame(f"{what} leaves out {missing[:5]}")
        if extra:
            self._blame(f"{what} has {extra[:5]}, which are not there")

    def sync(self) -> None:
        """Both."""
        super().sync()
        ask(self._blame, "sync", lambda: self._open().sync())

    # -- cells --

    def load(self, cell: str) -> CellValue:
        """The same value and version."""
        wanted = super().load(cell)
        self._compare_cell("load", cell, wanted)
        return wanted

    def _compare_cell(self, what: str, cell: str, wanted: CellValue) -> None:
        found = ask(self._blame, f"{what} of cell {cell}", lambda: self._open().load(cell))
        if tuple(found) != tuple(wanted):
            self._blame(f"{what}: cell {cell} is at version {found.version}, the last swap made it {wanted.version}")

    def swap(self, cell: str, value: bytes, expected_version: int) -> int:
        """Where the model swaps, and refuses, the plugin must too; the power may fail before or after it."""
        self._open()
        before = super().load(cell).version
        try:
            return super().swap(cell, value, expected_version)
        except SwapConflictError:
            self._expect_conflict(cell, value, expected_version)
            raise
        finally:
            if super().load(cell).version != before:
                version = ask(self._blame, f"swap of {cell}", lambda: self._open().swap(cell, value, before))
                if version != before + 1:
                    self._blame(f"swap of {cell} at version {before} returned {version}")

    def _expect_conflict(self, cell: str, value: bytes, expected_version: int) -> None:
        with suppress(SwapConflictError):
            ask(
                self._blame,
                f"swap of {cell}",
                lambda: self._open().swap(cell, value, expected_version),
                SwapConflictError,
            )
            self._blame(f"swap of {cell} at version {expected_version}, which it no longer has, was carried out")

    def cells(self, prefix: str = "") -> Sequence[str]:
        """The same names."""
        wanted = super().cells(prefix)
        found = ask(self._blame, f"cells of {prefix!r}", lambda: self._open().cells(prefix))
        self._compare_names(f"cells of {prefix!r}", wanted, found)
        return found

    # -- the machine --

    def close(self) -> None:
        """Close the save volume; the next call opens it again."""
        if self._opened is not None and self._pattern.keeps_bytes:
            opened, self._opened = self._opened, None
            ask(self._blame, "close", opened.close)

    def lose_power(self, chance: random.Random) -> None:
        """The process is gone, unsynced puts may be, unsynced deletes may be undone; nothing else may have changed."""
        if self._pattern.keeps_bytes:
            opened, self._opened = self._opened, None
            if opened is not None:
                with suppress(Exception):  # a dying process asks nobody
                    opened.close()
            if self._pattern.lose_power is not None:
                self._pattern.lose_power()
            self._open(is_crash=True)  # what is there is judged here
            found = set(ask(self._blame, "list after a power failure", lambda: self._open().list("")))
            self._judge("after a power failure", found)
            self._there = found
            if self._pattern.lose_power is not None:
                self.leave(found)
        super().lose_power(chance)
        self._follow(sorted(self._there | set(super().list(""))))
        ask(self._blame, "sync", lambda: self._open().sync())

    def _judge(self, when: str, found: set[str]) -> None:
        """Records are whole or absent, synced ones are there; cells are as they were."""
        synced, in_doubt = self.crash_allows()
        for key in sorted(set(synced) - found):
            with suppress(ReplkitError):
                self._open().get(key)
                self._blame(f"list leaves out record {key} {when}, which is there")
            self._blame(f"record {key} was synced, and is gone {when}")
        for key in sorted(found):
            wanted = synced.get(key, in_doubt.get(key))
            if wanted is None:
                self._blame(f"record {key} was deleted and synced, and is back {when}")
            if self._get(key) != wanted:
                self._blame(f"record {key} came back damaged {when}; it must be whole or absent")
        for cell in super().cells():
            self._compare_cell(when, cell, super().load(cell))


__all__ = ["PluggedSave", "SavePlug"]
