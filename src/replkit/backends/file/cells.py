"""Cells in SQLite: compare-and-swap between processes, durable on return (WAL, ``synchronous=FULL``)."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from xxhash import xxh3_64_intdigest

from replkit.contracts.savevolume import CellValue
from replkit.errors import CorruptRecordError, SaveVolumeFailedError, SaveVolumeFullError, SwapConflictError

_BUSY_TIMEOUT_S = 30.0
_SCHEMA = "CREATE TABLE IF NOT EXISTS cell (name TEXT PRIMARY KEY, version INTEGER, checksum INTEGER, value BLOB)"


class FileCells:
    """The cells of one save volume directory; threads take turns on one connection."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        with self._errors():
            self._db = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(_SCHEMA)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            kind = SaveVolumeFullError if error.sqlite_errorcode == sqlite3.SQLITE_FULL else SaveVolumeFailedError
            raise kind(f"{self._path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise CorruptRecordError(f"{self._path}: {error}") from error

    def load(self, cell: str) -> CellValue:
        """The cell, checked against its checksum; version 0 where it was never swapped."""
        with self._lock, self._errors():
            return self._load(cell)

    def _load(self, cell: str) -> CellValue:
        row = self._db.execute("SELECT version, checksum, value FROM cell WHERE name = ?", (cell,)).fetchone()
        if row is None:
            return CellValue(b"", 0)
        version, checksum, value = row
        if not isinstance(value, bytes) or checksum != _checksum(cell, version, value):
            raise CorruptRecordError(f"{self._path}: cell {cell} at version {version} has a wrong checksum")
        return CellValue(value, version)

    def swap(self, cell: str, value: bytes, expected_version: int) -> int:
        """Replace the value in one immediate transaction."""
        with self._lock, self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                version = self._load(cell).version
                if version != expected_version:
                    raise SwapConflictError(
                        f"{self._path}: cell {cell} is at version {version}, not {expected_version}"
                    )
                row = (cell, version + 1, _checksum(cell, version + 1, value), value)
                self._db.execute("INSERT OR REPLACE INTO cell VALUES (?, ?, ?, ?)", row)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        return version + 1

    def next_incarnation(self) -> int:
        """Count the openings by a producer, durably, in a field that SQLite keeps for its users."""
        with self._lock, self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            number = int(self._db.execute("PRAGMA user_version").fetchone()[0]) + 1
            self._db.execute(f"PRAGMA user_version = {number:d}")
            self._db.execute("COMMIT")
        return number

    def names(self, prefix: str) -> Sequence[str]:
        """Sorted names that begin with ``prefix``."""
        with self._lock, self._errors():
            rows = self._db.execute("SELECT name FROM cell WHERE name >= ? ORDER BY name", (prefix,)).fetchall()
        return [name for (name,) in rows if name.startswith(prefix)]

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._db.close()


def _checksum(cell: str, version: int, value: bytes) -> int:
    """Signed, because SQLite has no other integers; covers name and version, so that no row can pass for another."""
    digest = xxh3_64_intdigest(value, xxh3_64_intdigest(f"{cell} {version}".encode()))
    return digest - (1 << 64) if digest >> 63 else digest
