"""The save volume in a bucket, at a reader: on any machine, with no word from the producer but the journal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from replkit.contracts.buffers import Buffer
from replkit.contracts.registry import SaveVolumeOptions
from replkit.contracts.savevolume import CellValue, Partition, SaveVolume
from replkit.errors import CorruptRecordError, InvalidArgumentError, ReadOnlyError, RecordMissingError
from replkit.objectstore.bundle import Place, bundle_key
from replkit.objectstore.cells import CellStore
from replkit.objectstore.host import Host
from replkit.objectstore.journal import Journal
from replkit.objectstore.placing import quota_bytes, read_place
from replkit.objectstore.published import apply_entry
from replkit.objectstore.recordindex import RecordIndex
from replkit.objectstore.store import ObjectStore

_ATTEMPTS = 5


class ObjectSaveReader(SaveVolume):
    """Follows the journal, in two requests when nothing has changed.

    It looks at each ``list``, at the first ``get`` or ``size_bytes`` after a ``load`` or ``cells``, and whenever a
    record is not where it was. So whoever is told of a record by a cell finds it.
    """

    read_only = True

    def __init__(self, store: ObjectStore, options: SaveVolumeOptions, host: Host) -> None:
        self._store, self._host, self.url = store, host, store.url
        self._cells = CellStore(store, "", host.random_bytes)
        self._journal = Journal(store, host.random_bytes)
        self._changed = host.condition()
        self._index = RecordIndex()
        self._sequence = -1
        self._may_be_stale = False
        self._refresh()
        capacity = self._journal.value.capacity_bytes
        if options.capacity_bytes not in {None, capacity}:
            raise InvalidArgumentError(f"{self.url}: has {capacity} bytes, not {options.capacity_bytes}")

    @property
    def requests(self) -> Mapping[str, int]:
        """Requests and bytes by kind since it was opened."""
        return self._store.requests

    def _refresh(self) -> None:
        self._may_be_stale = False
        with self._changed:
            if not self._journal.load() and self._sequence >= 0:
                return
            is_full, entries = self._journal.changes_since(self._sequence)
            index = RecordIndex() if is_full or self._sequence < 0 else self._index
            for entry in entries:
                apply_entry(index, entry)
            self._index, self._sequence = index, self._journal.value.sequence

    def _find(self, key: str) -> Place:
        if self._may_be_stale or self._index.find(key) is None:
            self._refresh()
        place = self._index.find(key)
        if place is None:
            raise RecordMissingError(f"{self.url}: no record {key}")
        return place

    def capacity_bytes(self, partition: Partition) -> int:
        """The partition's share."""
        return quota_bytes(self._journal.value.capacity_bytes, partition)

    def used_bytes(self, partition: Partition) -> int:
        """What is published."""
        self._refresh()
        return self._index.used_bytes(partition)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> memoryview:
        """One ranged GET; again if the record has moved meanwhile."""
        place = self._find(key)
        for _ in range(_ATTEMPTS):
            try:
                data = read_place(self._store, place, start, stop)
            except RecordMissingError:
                data = None
            if data is not None:
                return memoryview(data)
            before = place
            self._refresh()
            place = self._find(key)
            if place == before:
                break
        raise CorruptRecordError(f"{self.url}: {key}: its bytes in {bundle_key(place.bundle)} are lost or damaged")

    def size_bytes(self, key: str) -> int:
        """From the index."""
        return self._find(key).size

    def list(self, prefix: str) -> Sequence[str]:
        """What is published."""
        self._refresh()
        with self._changed:
            return list(self._index.list(prefix))

    def load(self, cell: str) -> CellValue:
        """Two requests if it has not changed."""
        self._may_be_stale = True
        return self._cells.load(cell)

    def swap(self, cell: str, value: bytes, expected_version: int) -> int:
        """A cell of the reader's own."""
        return self._cells.swap(cell, value, expected_version)

    def cells(self, prefix: str = "") -> Sequence[str]:
        """By LIST."""
        self._may_be_stale = True
        return self._cells.cells(prefix)

    def put(self, key: str, parts: Sequence[Buffer]) -> None:  # noqa: ARG002 - all refused
        """Refused."""
        raise self._refusal()

    def delete(self, keys: Iterable[str]) -> None:  # noqa: ARG002 - all refused
        """Refused."""
        raise self._refusal()

    def sync(self) -> None:
        """Refused."""
        raise self._refusal()

    def _refusal(self) -> ReadOnlyError:
        return ReadOnlyError(f"{self.url}: a reader does not put, delete or sync")

    def close(self) -> None:
        """Give connections back."""
        self._host.close()
        self._store.close()
