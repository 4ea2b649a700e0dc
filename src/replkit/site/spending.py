"""What a volume in a bucket costs: requests and bytes by kind, for those who pay for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import msgspec

from replkit.contracts.runtime import Runtime
from replkit.contracts.savevolume import SaveVolume
from replkit.contracts.volume import BlockVolume
from replkit.replication.root import StructCell

REQUESTS_CELL = "requests"
SAVE_EVERY_S = 900.0
_DAY_S = 86400
_NAMES = {
    "put requests": "puts", "put_new requests": "creates", "get requests": "gets", "list requests": "lists",
    "delete requests": "deletes", "bytes put": "bytes_put", "bytes got": "bytes_got",
}  # fmt: skip


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """Requests and bytes by kind: of one day (days since 1970, UTC), and since the volume was made."""

    day: int = 0
    today: dict[str, int] = {}
    total: dict[str, int] = {}


def requests_of(store: BlockVolume | SaveVolume) -> Mapping[str, int]:
    """What an opened volume or save volume has asked of its store, by kind; empty where that costs nothing."""
    return {_NAMES.get(name, name): count for name, count in store.requests.items()}


class RequestLedger:
    """Adds up requests over days and over restarts, in a cell of the save volume.

    It is written every quarter of an hour and at the end, so a crash forgets at most the requests since.
    """

    def __init__(self, save: SaveVolume, sources: list[Callable[[], Mapping[str, int]]], runtime: Runtime) -> None:
        self._cell = StructCell(save, REQUESTS_CELL, Spent)
        self._sources, self._runtime = sources, runtime
        self._lock = threading.Lock()
        self._spent = self._cell.get() or Spent()
        self._counted: dict[str, int] = {}
        self._saved_s = runtime.monotonic()

    def figures(self) -> dict[str, dict[str, int]]:
        """Requests and bytes by kind, ``today`` (UTC) and in ``total``."""
        with self._lock:
            self._add()
            return {"today": dict(self._spent.today), "total": dict(self._spent.total)}

    def _add(self) -> None:
        now: dict[str, int] = {}
        for source in self._sources:
            now = _sum(now, source())
        more = {name: count - self._counted.get(name, 0) for name, count in now.items()}
        day, spent = int(self._runtime.now() // _DAY_S), self._spent
        today = spent.today if spent.day == day else {}
        self._spent = Spent(day=day, today=_sum(today, more), total=_sum(spent.total, more))
        self._counted = now

    def tick(self) -> None:
        """Write the cell when it is time."""
        if self._runtime.monotonic() - self._saved_s >= SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Write the cell now."""
        self._saved_s = self._runtime.monotonic()
        self.figures()
        with self._lock:
            self._cell.set(self._spent)


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}
