"""A save volume whose cells cost requests: what is known of them is not asked for again at every step.

The services look at their cells several times a second, and a load of an unchanged cell costs two requests at a bucket.
A cell that only the producer's process writes is known to it; that another producer has taken over shows at the next
swap, which is refused (invariant 8). Cells of other processes are at most a second old.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from replkit.contracts.buffers import Buffer
from replkit.contracts.runtime import Runtime
from replkit.contracts.savevolume import CellValue, Partition, SaveVolume
from replkit.contracts.volume import BlockVolume
from replkit.errors import ReplkitError
from replkit.site.spending import REQUESTS_CELL, RequestLedger, requests_of

OWN_AGE_S = 60.0
OTHERS_AGE_S = 1.0
OF_OTHERS = ("sent.", "played.", "reads.", "copied.")
"""Cells of a producer's save volume that processes beside it write begin so (``replication.cells``)."""


class RememberingSaveVolume(SaveVolume):
    """All of ``save``; ``load`` answers from memory for a while. What is swapped here is known at once."""

    def __init__(self, save: SaveVolume, runtime: Runtime) -> None:
        self._save, self._runtime = save, runtime
        self._known: dict[str, tuple[CellValue, float]] = {}
        self._lock = threading.Lock()
        self.read_only = save.read_only
        self.ledger: RequestLedger | None = None

    @property
    def requests(self) -> Mapping[str, int]:
        """Requests and bytes by kind, since it was opened."""
        return self._save.requests

    def _age_s(self, cell: str) -> float:
        return OTHERS_AGE_S if self.read_only or cell.startswith(OF_OTHERS) else OWN_AGE_S

    def _keep(self, cell: str, value: CellValue, at_s: float) -> None:
        with self._lock:
            known = self._known.get(cell)
            if known is None or known[0].version <= value.version:  # threads may come in any order
                self._known[cell] = (value, at_s)

    def load(self, cell: str) -> CellValue:
        """From memory while that is fresh."""
        if self.ledger is not None and cell != REQUESTS_CELL:
            self.ledger.tick()
        now_s = self._runtime.monotonic()
        known = self._known.get(cell)
        if known is not None and now_s - known[1] < self._age_s(cell):
            return known[0]
        value = self._save.load(cell)
        self._keep(cell, value, now_s)
        return value

    def swap(self, cell: str, value: bytes, expected_version: int) -> int:
        """Pass on; after a refusal the cell is loaded anew."""
        try:
            version = self._save.swap(cell, value, expected_version)
        except ReplkitError:
            with self._lock:
                self._known.pop(cell, None)
            raise
        self._keep(cell, CellValue(bytes(value), version), self._runtime.monotonic())
        return version

    def cells(self, prefix: str = "") -> Sequence[str]:
        """Pass on."""
        return self._save.cells(prefix)

    def capacity_bytes(self, partition: Partition) -> int:
        """Pass on."""
        return self._save.capacity_bytes(partition)

    def used_bytes(self, partition: Partition) -> int:
        """Pass on."""
        return self._save.used_bytes(partition)

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Pass on."""
        self._save.put(key, parts)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> memoryview:
        """Pass on."""
        return self._save.get(key, start, stop)

    def recall(self, key: str) -> memoryview | None:
        """Pass on."""
        return self._save.recall(key)

    def size_bytes(self, key: str) -> int:
        """Pass on."""
        return self._save.size_bytes(key)

    def delete(self, keys: Iterable[str]) -> None:
        """Pass on."""
        self._save.delete(keys)

    def list(self, prefix: str) -> Sequence[str]:
        """Pass on."""
        return self._save.list(prefix)

    def sync(self) -> None:
        """Pass on."""
        self._save.sync()

    def close(self) -> None:
        """Write down what was spent, and pass on."""
        if self.ledger is not None:
            with suppress(ReplkitError):  # fenced, or the store is away: figures are not worth an error
                self.ledger.save()
        self._save.close()


def remember_cells(save: SaveVolume, runtime: Runtime, volume: BlockVolume | None = None) -> SaveVolume:
    """``save``, with its cells remembered where each look at them is a request; with a ledger where it is written."""
    sources = [store for store in (volume, save) if store is not None and store.requests]
    if not sources:
        return save
    remembering = RememberingSaveVolume(save, runtime)
    if not save.read_only:
        remembering.ledger = RequestLedger(remembering, [partial(requests_of, store) for store in sources], runtime)
    return remembering


def spent_of(save: SaveVolume) -> dict[str, dict[str, int]] | None:
    """Requests and bytes of a volume with this save volume, by kind; ``None`` where nothing is in a bucket."""
    ledger: RequestLedger | None = getattr(save, "ledger", None)
    return None if ledger is None else ledger.figures()
