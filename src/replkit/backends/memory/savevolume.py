"""A save volume in memory: one producer and many readers in one process."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

from replkit.contracts.buffers import Buffer
from replkit.contracts.registry import SaveVolumeOptions
from replkit.contracts.savevolume import CellValue, Partition, SaveVolume
from replkit.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    ReadOnlyError,
    RecordMissingError,
    SaveVolumeBusyError,
    SaveVolumeFullError,
    SwapConflictError,
)

DEFAULT_CAPACITY_BYTES = 256 << 20
SHARES = {Partition.SETS: 60, Partition.AREAS: 30, Partition.LISTS: 10}
"""Percent of the capacity that each partition has as its quota."""


@dataclass
class _Store:
    """What all openers of a name share, under one lock."""

    capacity_bytes: int
    records: dict[str, bytes] = field(default_factory=dict)
    cells: dict[str, CellValue] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Partition, 0))
    has_producer: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


_stores: dict[str, _Store] = {}
_stores_lock = threading.Lock()


def forget(name: str) -> None:
    """Drop the records and cells of this name."""
    with _stores_lock:
        _stores.pop(name, None)


class MemorySaveVolume(SaveVolume):
    """Records and cells in dictionaries; ``sync`` has nothing to do."""

    def __init__(self, capacity_bytes: int = DEFAULT_CAPACITY_BYTES) -> None:
        """A save volume of its own, known to nobody by name, opened as its producer."""
        self._attach(_Store(capacity_bytes), "memory:", producer=True)

    def _attach(self, store: _Store, url: str, *, producer: bool) -> None:
        if producer:
            with store.lock:
                if store.has_producer:
                    raise SaveVolumeBusyError(f"{url}: is open as producer already")
                store.has_producer = True
        self._store = store
        self._url = url
        self.read_only = not producer
        self._is_open = True

    @classmethod
    def open(cls, url: str, options: SaveVolumeOptions) -> Self:
        """Open or create the save volume ``memory:NAME``."""
        name = url.partition(":")[2]
        with _stores_lock:
            store = _stores.get(name)
            if store is None:
                if not options.create:
                    raise NotFoundError(f"{url}: no such save volume in this process", hint="open it with create")
                store = _stores[name] = _Store(options.capacity_bytes or DEFAULT_CAPACITY_BYTES)
        if options.capacity_bytes not in {None, store.capacity_bytes}:
            raise InvalidArgumentError(f"{url}: has {store.capacity_bytes} bytes, not {options.capacity_bytes}")
        save = cls.__new__(cls)
        save._attach(store, url, producer=options.producer)
        return save

    def reader(self) -> MemorySaveVolume:
        """Another opener of the same records, as a reader."""
        save = MemorySaveVolume.__new__(MemorySaveVolume)
        save._attach(self._store, self._url, producer=False)
        return save

    def capacity_bytes(self, partition: Partition) -> int:
        """The partition's share."""
        return self._store.capacity_bytes * SHARES[partition] // 100

    def used_bytes(self, partition: Partition) -> int:
        """Sum of its records."""
        return self._store.used[partition]

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Keep one copy of the record."""
        self._check_producer()
        data = b"".join(memoryview(part) for part in parts)
        partition = Partition(key.partition("/")[0])
        with self._store.lock:
            if key in self._store.records:
                raise AlreadyExistsError(f"{self._url}: {key} is already there")
            used = self._store.used[partition] + len(data)
            if used > self.capacity_bytes(partition):
                raise SaveVolumeFullError(
                    f"{self._url}: no room for the {len(data)} bytes of {key} in partition {partition}"
                )
            self._store.used[partition] = used
            self._store.records[key] = data

    def _check_producer(self) -> None:
        if self.read_only:
            raise ReadOnlyError(f"{self._url}: a reader does not put, delete or sync")

    def _record(self, key: str) -> bytes:
        try:
            return self._store.records[key]
        except KeyError:
            raise RecordMissingError(f"{self._url}: no record {key}") from None

    def get(self, key: str, start: int = 0, stop: int | None = None) -> memoryview:
        """A view of the record."""
        return memoryview(self._record(key))[start:stop]

    def size_bytes(self, key: str) -> int:
        """Length of the record."""
        return len(self._record(key))

    def delete(self, keys: Iterable[str]) -> None:
        """Forget records."""
        self._check_producer()
        with self._store.lock:
            for key in keys:
                data = self._store.records.pop(key, None)
                if data is not None:
                    self._store.used[Partition(key.partition("/")[0])] -= len(data)

    def list(self, prefix: str) -> Sequence[str]:
        """Sorted keys."""
        with self._store.lock:
            return sorted(key for key in self._store.records if key.startswith(prefix))

    def sync(self) -> None:
        """Memory is as durable as this save volume gets."""
        self._check_producer()

    def load(self, cell: str) -> CellValue:
        """The cell, or version 0."""
        return self._store.cells.get(cell, CellValue(b"", 0))

    def swap(self, cell: str, value: bytes, expected_version: int) -> int:
        """Compare and swap under the lock."""
        with self._store.lock:
            version = self.load(cell).version
            if version != expected_version:
                raise SwapConflictError(f"{self._url}: cell {cell} is at version {version}, not {expected_version}")
            self._store.cells[cell] = CellValue(bytes(value), version + 1)
            return version + 1

    def cells(self, prefix: str = "") -> Sequence[str]:
        """Sorted names."""
        with self._store.lock:
            return sorted(name for name in self._store.cells if name.startswith(prefix))

    def close(self) -> None:
        """Give the producer's place back."""
        if self._is_open and not self.read_only:
            self._store.has_producer = False
        self._is_open = False
