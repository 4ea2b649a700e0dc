"""Volumes and save volumes that forget what was not synced when their process dies, as a machine without power does.

``kill -9`` keeps the page cache, so a test that kills a daemon would never lose an unsynced write. These wrappers keep
an undo log beside the store: before a change goes to the store, its log says how to take it back; a flush or sync
empties the log. Whoever opens the store next, and finds a log, takes back what is in it. Until then other processes
see the changes, as they see the page cache.

This module is a plugin that is loaded only by name (``default_registry(["replkit.testing.forgetful"])`` or the
configuration's list of plugins) and serves ``forgetful+file:///path``. With ``?survive=0.5`` about half of the unsynced
blocks and records survive, so that what a crash leaves is in no order.
"""

from __future__ import annotations

import os
import random
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from xxhash import xxh3_64_intdigest

from replkit.backends.file import FileVolume
from replkit.backends.file.savevolume import open_save_volume as open_file_save_volume
from replkit.backends.file.syscalls import path_of
from replkit.blocks.extent import Extent
from replkit.contracts.buffers import Buffer
from replkit.contracts.hooks import hookimpl
from replkit.contracts.registry import Registry, SaveVolumeOptions, VolumeOptions
from replkit.contracts.savevolume import CellValue, Partition, SaveVolume
from replkit.contracts.volume import BlockVolume, Write
from replkit.errors import InvalidArgumentError, RecordMissingError, SaveVolumeFullError

_RECORD = struct.Struct("<QQIQ")


class UndoLog:
    """Two files that take turns: the one in use, and the one that a running flush is about to empty."""

    def __init__(self, path: Path) -> None:
        self._paths = (path.with_name(path.name + ".undo-a"), path.with_name(path.name + ".undo-b"))
        self._turn = self._order = 0
        self._fd = -1

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """What a dead process left, newest first; the last entry may be cut short, then its change never began."""
        found = []
        for path in self._paths:
            data = path.read_bytes() if path.exists() else b""
            at = 0
            while at + _RECORD.size <= len(data):
                order, number, size, checksum = _RECORD.unpack_from(data, at)
                body = data[at + _RECORD.size : at + _RECORD.size + size]
                if len(body) < size or xxh3_64_intdigest(body, number) != checksum:
                    break
                found.append((order, number, body))
                at += _RECORD.size + size
        for _, number, body in sorted(found, reverse=True):
            yield number, body

    def begin(self) -> None:
        """Start with an empty log."""
        for path in self._paths:
            path.unlink(missing_ok=True)
        self._open()

    def _open(self) -> None:
        self._fd = os.open(self._paths[self._turn], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def append(self, number: int, body: bytes) -> None:
        """Remember how to take a change back, before it is made."""
        self._order += 1
        os.write(self._fd, _RECORD.pack(self._order, number, len(body), xxh3_64_intdigest(body, number)) + body)

    def turn(self) -> Path:
        """Go on in the other file; return the one to remove when what it undoes is durable."""
        old = self._paths[self._turn]
        os.close(self._fd)
        self._turn = 1 - self._turn
        self._open()
        return old

    def close(self) -> None:
        """Close, and leave the file: a close does not sync."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class ForgetfulVolume(BlockVolume):
    """A volume that loses unflushed writes and discards when its process dies, block by block."""

    def __init__(self, inner: BlockVolume, log: Path, *, survive: float = 0.0) -> None:
        self._inner = inner
        self.block_size, self.size_bytes, self.read_only = inner.block_size, inner.size_bytes, inner.read_only
        self.discards, self.tells_in_use, self.resizes = inner.discards, inner.tells_in_use, inner.resizes
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._saved: set[int] = set()
        self._log = UndoLog(log)
        if not self.read_only:
            self._undo(survive)
            self._log.begin()

    def _undo(self, survive: float) -> None:
        """Take back what the last process had not flushed; older values of one block come later and win."""
        survivors: dict[int, bool] = {}
        for number, body in self._log.entries():
            if not survivors.setdefault(number, random.random() < survive) and number < self.block_count:
                self._inner.write(number, body)
        self._inner.flush()

    def _save(self, start: int, count: int) -> None:
        """Log the old value of each block that has not been logged since the last flush; the lock is held."""
        for number in range(start, start + count):
            if number not in self._saved:
                old = bytearray(self.block_size)
                self._inner.read_into(number, old)
                self._log.append(number, bytes(old))
                self._saved.add(number)

    def read_into(self, start: int, buffer: Buffer) -> None:
        """From the store."""
        self._inner.read_into(start, buffer)

    def write(self, start: int, buffer: Buffer) -> None:
        """Log, then write."""
        self.write_extents([(start, buffer)])

    def write_extents(self, writes: Sequence[Write]) -> None:
        """Log, then write."""
        with self._lock:
            for start, buffer in writes:
                self._save(start, memoryview(buffer).nbytes // self.block_size)
            self._inner.write_extents(writes)

    def discard(self, start: int, count: int) -> None:
        """Log, then discard."""
        with self._lock:
            self._save(start, count)
            self._inner.discard(start, count)

    def flush(self) -> None:
        """Flush the store, then forget how to take back what came before."""
        with self._flushing:
            with self._lock:
                old = self._log.turn()
                self._saved.clear()
            self._inner.flush()
            old.unlink()

    def in_use(self) -> Iterator[Extent]:
        """From the store."""
        return self._inner.in_use()

    def in_use_between(self, start: int, stop: int) -> Iterator[Extent]:
        """From the store."""
        return self._inner.in_use_between(start, stop)

    def resize(self, size_bytes: int) -> None:
        """Durable at once, and with it what was written before."""
        self._inner.resize(size_bytes)
        self.size_bytes = size_bytes
        self.flush()

    def close(self) -> None:
        """Close the store; the log stays."""
        self._log.close()
        self._inner.close()


class ForgetfulSaveVolume(SaveVolume):
    """A save volume that loses unsynced puts, and unsynced deletes, when its process dies. Cells are durable."""

    def __init__(self, inner: SaveVolume, log: Path, *, survive: float = 0.0) -> None:
        self._inner = inner
        self.read_only = inner.read_only
        self._lock = threading.RLock()
        self._syncing = threading.Lock()
        self._deleted: set[str] = set()
        self._log = UndoLog(log)
        if not self.read_only:
            lost = [body.decode() for _, body in self._log.entries() if random.random() >= survive]
            self._inner.delete(lost)
            self._inner.sync()
            self._log.begin()

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Log the key, then put."""
        with self._lock:
            if key in self._deleted:
                self._carry_out_deletes()
            if not self._is_there(key):  # a refused put must not undo what is durable
                self._log.append(len(key), key.encode())
            try:
                self._inner.put(key, parts)
            except SaveVolumeFullError:
                self._carry_out_deletes()
                self._inner.put(key, parts)

    def _is_there(self, key: str) -> bool:
        try:
            self._inner.size_bytes(key)
        except RecordMissingError:
            return False
        return True

    def _carry_out_deletes(self) -> None:
        deleted, self._deleted = self._deleted, set()
        self._inner.delete(sorted(deleted))

    def _check(self, key: str) -> None:
        if key in self._deleted:
            raise RecordMissingError(f"no record {key}: it was deleted")

    def get(self, key: str, start: int = 0, stop: int | None = None) -> memoryview:
        """From the store, unless deleted."""
        self._check(key)
        return self._inner.get(key, start, stop)

    def size_bytes(self, key: str) -> int:
        """From the store, unless deleted."""
        self._check(key)
        return self._inner.size_bytes(key)

    def delete(self, keys: Iterable[str]) -> None:
        """Hide now, delete with the next sync: a delete that was not synced is forgotten too."""
        with self._lock:
            self._deleted.update(keys)

    def list(self, prefix: str) -> Sequence[str]:
        """Without what is deleted."""
        with self._lock:
            return [key for key in self._inner.list(prefix) if key not in self._deleted]

    def sync(self) -> None:
        """Sync the store, then forget how to take back what came before."""
        with self._syncing:
            with self._lock:
                old = self._log.turn()
                self._carry_out_deletes()
            self._inner.sync()
            old.unlink()

    def capacity_bytes(self, partition: Partition) -> int:
        """As the store."""
        return self._inner.capacity_bytes(partition)

    def used_bytes(self, partition: Partition) -> int:
        """As the store, after pending deletes."""
        if not self.read_only:
            with self._lock:
                self._carry_out_deletes()
        return self._inner.used_bytes(partition)

    def load(self, cell: str) -> CellValue:
        """As the store."""
        return self._inner.load(cell)

    def swap(self, cell: str, value: bytes, expected_version: int) -> int:
        """As the store: durable at once, and nothing else with it."""
        return self._inner.swap(cell, value, expected_version)

    def cells(self, prefix: str = "") -> Sequence[str]:
        """As the store."""
        return self._inner.cells(prefix)

    def close(self) -> None:
        """Close the store; the log stays."""
        self._log.close()
        self._inner.close()


def _split(url: str) -> tuple[str, Path, float]:
    """URL of the file, path of its log, and the share that survives."""
    parts = urlsplit(url.removeprefix("forgetful+"))
    query = parse_qs(parts.query)
    inner = parts._replace(query="").geturl()
    try:
        survive = float(query.pop("survive", ["0"])[0])
    except ValueError as error:
        raise InvalidArgumentError(f"{url}: survive is a share between 0 and 1: {error}") from error
    if query or not 0 <= survive <= 1:
        raise InvalidArgumentError(f"{url}: the only option is survive, between 0 and 1")
    return inner, path_of(inner), survive


def open_volume(url: str, options: VolumeOptions) -> BlockVolume:
    """Open ``forgetful+file:///path``."""
    inner, log, survive = _split(url)
    return ForgetfulVolume(FileVolume.open(inner, options), log, survive=survive)


def open_save_volume(url: str, options: SaveVolumeOptions) -> SaveVolume:
    """Open ``forgetful+file:///directory``."""
    inner, log, survive = _split(url)
    return ForgetfulSaveVolume(open_file_save_volume(inner, options), log, survive=survive)


@hookimpl
def replkit_register_volumes(registry: Registry) -> None:
    """Serve ``forgetful+file:`` volumes."""
    registry.add_volume_scheme("forgetful+file", open_volume)


@hookimpl
def replkit_register_save_volumes(registry: Registry) -> None:
    """Serve ``forgetful+file:`` save volumes."""
    registry.add_save_volume_scheme("forgetful+file", open_save_volume)
