"""The file save volume at its producer: three partitions, cells, and one sync for all threads that wait."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from replkit.backends.file.cells import FileCells
from replkit.backends.file.directory import lock_producer, open_directory
from replkit.backends.file.feed import FeedWriter
from replkit.backends.file.partition import Partition as PartitionFile
from replkit.backends.file.reader import FileSaveReader
from replkit.backends.file.records import read_record
from replkit.backends.file.scan import Entry
from replkit.backends.file.syscalls import FULL, path_of
from replkit.contracts.buffers import Buffer
from replkit.contracts.registry import SaveVolumeOptions
from replkit.contracts.savevolume import CellValue, Partition, SaveVolume
from replkit.errors import CorruptRecordError, RecordMissingError, SaveVolumeFailedError, SaveVolumeFullError

_INCARNATION_SHIFT = 40
"""Sequence numbers of a producer begin at its incarnation times 2**40: none is ever given out twice."""

_log = logging.getLogger(__name__)


def open_save_volume(url: str, options: SaveVolumeOptions) -> SaveVolume:
    """Open ``file:///directory`` as producer or reader."""
    path = path_of(url)
    if not options.producer:
        return FileSaveReader(path, open_directory(path, url, options))
    return FileSaveVolume(path, url, options)


class FileSaveVolume(SaveVolume):
    """Records in wrap-around partition files of fixed quota; see ``layout`` for the format.

    Opening it recovers: what was not durable when the last producer died and is not whole is dropped (``dropped``
    names it), what was durable and cannot be read is kept in ``damaged`` and refused when it is asked for.
    """

    def __init__(self, path: Path, url: str, options: SaveVolumeOptions) -> None:
        self._path = path
        self._failure = ""
        self._partitions: dict[Partition, PartitionFile] = {}
        self._rounds = threading.Condition()
        self._rounds_started = self._rounds_done = 0
        self._round_runs = False
        with ExitStack() as held:  # what is open is closed again if the rest cannot be opened
            held.callback(os.close, lock_producer(path, url, create=options.create))
            self._layout = open_directory(path, url, options)
            self._cells = FileCells(path / "cells.sqlite3")
            held.callback(self._cells.close)
            self._first_sequence = self._cells.next_incarnation() << _INCARNATION_SHIFT
            with self._errors("opening"):
                for partition in self._layout.partitions:
                    self._partitions[partition] = self._open_partition(partition, path / partition.value)
                    held.callback(self._partitions[partition].close)
                # After recovery: a new incarnation tells readers to look through everything again.
                self._feed = FeedWriter(path / "feed", int.from_bytes(os.urandom(8), "little"))
                held.callback(self._feed.close)
            self._held = held.pop_all()
        self.dropped = [key for part in self._partitions.values() for key in part.dropped]
        self.damaged = [what for part in self._partitions.values() for what in part.damaged.values()]
        for key in self.dropped:
            _log.warning("%s: %s was not synced when the producer ended, and is dropped", path, key)
        for what in self.damaged:
            _log.error("%s", what)

    def _open_partition(self, partition: Partition, path: Path) -> PartitionFile:
        def tell(offset: int, is_deleted: bool) -> None:
            self._feed.tell(partition, offset, is_deleted=is_deleted)

        layout = self._layout.partitions[partition]
        return PartitionFile(
            path,
            layout,
            self._layout.identity,
            tell,
            own_segments=partition is Partition.AREAS,
            first_sequence=self._first_sequence,
            writes_zeros=partition is not Partition.SETS,
        )

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turn OSErrors into typed ones. Anything but a lack of space is final (invariant 1)."""
        if self._failure:
            raise SaveVolumeFailedError(self._failure, hint="open the save volume again and check it")
        try:
            yield
        except OSError as error:
            message = f"{self._path}: {what}: {error.strerror or error}"
            if error.errno in FULL:
                raise SaveVolumeFullError(message) from error
            self._failure = message
            raise SaveVolumeFailedError(message) from error

    def _of(self, key: str) -> PartitionFile:
        return self._partitions[Partition(key.partition("/")[0])]

    def capacity_bytes(self, partition: Partition) -> int:
        """Slots of the partition, in bytes."""
        return self._layout.partitions[partition].size_bytes

    def used_bytes(self, partition: Partition) -> int:
        """Slots that are not free, in bytes."""
        return self._partitions[partition].used_bytes

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """One ``pwritev`` of head, parts and padding."""
        views = [memoryview(part).cast("B") for part in parts]
        with self._errors(f"putting {key}"):
            self._of(key).put(key, [view for view in views if view.nbytes])

    def get(self, key: str, start: int = 0, stop: int | None = None) -> memoryview:
        """Read from the partition file."""
        partition = self._of(key)
        while True:
            entry = self._entry(key)
            data = read_record(partition.fd, entry, start, stop)
            if partition.find(key) is entry:  # not deleted, and its place not reused, while it was read
                if data is None:
                    raise CorruptRecordError(f"{self._path}: {key}: the data at byte {entry.offset} is damaged")
                return data

    def _entry(self, key: str) -> Entry:
        entry = self._of(key).find(key)
        if entry is None:
            raise RecordMissingError(f"{self._path}: no record {key}")
        return entry

    def size_bytes(self, key: str) -> int:
        """Length from the index."""
        return self._entry(key).size

    def delete(self, keys: Iterable[str]) -> None:
        """Overwrite the state of each record in place."""
        by_partition: dict[Partition, list[str]] = {}
        for key in keys:
            by_partition.setdefault(Partition(key.partition("/")[0]), []).append(key)
        with self._errors("deleting"):
            for partition, some in by_partition.items():
                self._partitions[partition].delete(some)

    def list(self, prefix: str) -> Sequence[str]:
        """Sorted keys from the index."""
        name = prefix.partition("/")[0]
        found = [part.list(prefix) for partition, part in self._partitions.items() if partition.startswith(name)]
        return sorted(key for keys in found for key in keys)

    def sync(self) -> None:
        """Group commit: whoever comes while a round runs waits for the next one, which serves all of them."""
        with self._rounds:
            wanted = self._rounds_started + 1
            while self._round_runs and self._rounds_done < wanted:
                self._rounds.wait()
            if self._rounds_done >= wanted and not self._failure:
                return
            self._round_runs = True
            self._rounds_started += 1
        try:
            with self._errors("syncing"):
                for partition in self._partitions.values():
                    partition.sync()
        finally:
            with self._rounds:
                self._round_runs = False
                self._rounds_done = self._rounds_started
                self._rounds.notify_all()

    def load(self, cell: str) -> CellValue:
        """From SQLite."""
        return self._cells.load(cell)

    def swap(self, cell: str, value: bytes, expected_version: int) -> int:
        """One durable transaction; refused after a failure, since it could publish what was lost."""
        with self._errors(f"swapping {cell}"):
            return self._cells.swap(cell, value, expected_version)

    def cells(self, prefix: str = "") -> Sequence[str]:
        """Sorted names."""
        return self._cells.names(prefix)

    def close(self) -> None:
        """Close the files and, last, give the producer's place back."""
        self._held.close()
