"""The file save volume at a reader, usually in another process than the producer."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from replkit.backends.file.cells import FileCells
from replkit.backends.file.feed import Event, FeedReader, FeedState
from replkit.backends.file.layout import LIVE, SECTOR_BYTES, Layout, RecordHead, decode_record_head
from replkit.backends.file.partition import group_of, list_keys
from replkit.backends.file.records import read_record
from replkit.backends.file.scan import Entry, scan_partition
from replkit.contracts.buffers import Buffer
from replkit.contracts.savevolume import CellValue, Partition, SaveVolume
from replkit.errors import CorruptRecordError, ReadOnlyError, RecordMissingError, SaveVolumeFailedError

_ATTEMPTS = 3


class _Index:
    """The records that a reader knows of, by key and by place."""

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, Entry]] = {}
        self.damaged: dict[str, str] = {}
        self._keys: dict[tuple[Partition, int], str] = {}

    def find(self, key: str) -> Entry | None:
        return self.groups.get(group_of(key), {}).get(key)

    def add(self, partition: Partition, record: RecordHead) -> None:
        entry = Entry(record.offset, record.size, record.checksum, record.sequence, None)
        self.groups.setdefault(group_of(record.key), {})[record.key] = entry
        self._keys[partition, record.offset] = record.key

    def remove(self, partition: Partition, offset: int) -> None:
        key = self._keys.pop((partition, offset), "")
        entry = self.find(key)
        if entry is not None and entry.offset == offset:  # else compaction has moved it
            group = self.groups[group_of(key)]
            del group[key]
            if not group:
                del self.groups[group_of(key)]
                self.damaged.pop(group_of(key), None)


class FileSaveReader(SaveVolume):
    """Follows the feed of the producer; believes nothing that it did not check in the partition file itself."""

    read_only = True

    def __init__(self, path: Path, layout: Layout) -> None:
        self._path, self._layout = path, layout
        self._lock = threading.Lock()
        self._index = _Index()
        self._fds: dict[Partition, int] = {}
        self._state = FeedState(-1, 0)
        try:
            with ExitStack() as held:  # what is open is closed again if the rest cannot be opened
                self._cells = FileCells(path / "cells.sqlite3")
                held.callback(self._cells.close)
                self._feed = FeedReader(path / "feed")
                held.callback(self._feed.close)
                for partition in layout.partitions:
                    self._fds[partition] = os.open(path / partition.value, os.O_RDONLY | os.O_CLOEXEC)
                    held.callback(os.close, self._fds[partition])
                self._refresh()
                self._held = held.pop_all()
        except (OSError, ValueError) as error:
            raise SaveVolumeFailedError(f"{path}: cannot be opened by a reader: {error}") from error

    # -- following the producer --

    def _refresh(self) -> None:
        with self._lock:
            state = self._feed.state()
            if state == self._state:
                return
            events = self._feed.events(self._state, state)
            if events is None:
                self._scan_all()
            else:
                for event in events:
                    self._apply(event)
            self._state = state

    def _scan_all(self) -> None:
        index = _Index()
        for partition, layout in self._layout.partitions.items():
            scan = scan_partition(self._fds[partition], layout, self._layout.identity)
            damaged = {id(segment) for segment, _ in scan.damaged}
            for record, segment in sorted(scan.live, key=lambda pair: pair[0].sequence):
                index.add(partition, record)
                if partition is Partition.AREAS and id(segment) in damaged:
                    index.damaged[group_of(record.key)] = f"{self._path}: a record like {record.key} is lost"
        self._index = index  # as a whole: others look into it without the lock

    def _apply(self, event: Event) -> None:
        if not event.is_deleted:
            record = self._head(event.partition, event.offset)
            if record is not None and record.state == LIVE:
                self._index.add(event.partition, record)
        else:
            self._index.remove(event.partition, event.offset)

    def _head(self, partition: Partition, offset: int) -> RecordHead | None:
        return decode_record_head(os.pread(self._fds[partition], SECTOR_BYTES, offset), offset, self._layout.identity)

    # -- the contract --

    def get(self, key: str, start: int = 0, stop: int | None = None) -> memoryview:
        """Read, then check that the record was not deleted, and its place reused, meanwhile."""
        partition = Partition(key.partition("/")[0])
        for _ in range(_ATTEMPTS):
            entry = self._entry(key)
            data = read_record(self._fds[partition], entry, start, stop)
            # A record is marked as deleted before its place is reused: live after the read, whole in the read.
            head = self._head(partition, entry.offset)
            if head is not None and (head.state, head.key, head.sequence) == (LIVE, key, entry.sequence):
                if data is None:
                    raise CorruptRecordError(f"{self._path}: {key}: the data at byte {entry.offset} is damaged")
                return data
            if head is None:
                self._forget_damaged_head(key, entry, partition)
        raise RecordMissingError(f"{self._path}: no record {key} any more")

    def _forget_damaged_head(self, key: str, entry: Entry, partition: Partition) -> None:
        """Tell a place that was reused for something else from a head that rotted: then no event explains it."""
        self._refresh()
        if self._index.find(key) is entry and self._head(partition, entry.offset) is None:
            raise CorruptRecordError(f"{self._path}: {key}: the record head at byte {entry.offset} is damaged")

    def _entry(self, key: str) -> Entry:
        self._refresh()
        entry = self._index.find(key)
        if entry is None:
            raise RecordMissingError(f"{self._path}: no record {key}")
        return entry

    def size_bytes(self, key: str) -> int:
        """Length from the index."""
        return self._entry(key).size

    def list(self, prefix: str) -> Sequence[str]:
        """Sorted keys, as far as the producer is now."""
        self._refresh()
        with self._lock:
            if self._index.damaged and prefix.count("/") >= 2 and group_of(prefix) in self._index.damaged:
                raise CorruptRecordError(self._index.damaged[group_of(prefix)])
            return list_keys(self._index.groups, prefix)

    def capacity_bytes(self, partition: Partition) -> int:
        """Slots of the partition, in bytes."""
        return self._layout.partitions[partition].size_bytes

    def used_bytes(self, partition: Partition) -> int:
        """At least the bytes of live records; only the producer knows which slots are free."""
        self._refresh()
        with self._lock:
            groups = [group for name, group in self._index.groups.items() if name.startswith(f"{partition}/")]
            return sum(entry.size for group in groups for entry in group.values())

    def load(self, cell: str) -> CellValue:
        """From SQLite."""
        return self._cells.load(cell)

    def swap(self, cell: str, value: bytes, expected_version: int) -> int:
        """One durable transaction."""
        return self._cells.swap(cell, value, expected_version)

    def cells(self, prefix: str = "") -> Sequence[str]:
        """Sorted names."""
        return self._cells.names(prefix)

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Refused."""
        raise ReadOnlyError(f"{self._path}: a reader does not put {key} ({len(parts)} parts)")

    def delete(self, keys: Iterable[str]) -> None:
        """Refused."""
        raise ReadOnlyError(f"{self._path}: a reader does not delete {', '.join(keys)}")

    def sync(self) -> None:
        """Refused."""
        raise ReadOnlyError(f"{self._path}: a reader does not sync")

    def close(self) -> None:
        """Close the files."""
        self._held.close()
