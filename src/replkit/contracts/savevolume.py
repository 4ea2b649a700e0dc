"""The contract of a save volume: immutable records and small cells, all that must be remembered (FIG. 4, 5, 8)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from types import TracebackType
from typing import NamedTuple, Self

from replkit.contracts.buffers import Buffer


class Partition(StrEnum):
    """The first part of every key; each partition has a quota of its own, so none starves another (invariant 11)."""

    SETS = "sets"
    """Chunks of delta sets."""
    AREAS = "areas"
    """Before-images: ``areas/<snapshot>/<record>``; each snapshot is a save area of its own."""
    LISTS = "lists"
    """Headers, block lists, maps: small, kept long."""


class CellValue(NamedTuple):
    """What a cell holds. A cell that was never swapped has version 0 and no bytes."""

    value: bytes
    version: int


class SaveVolume(ABC):
    """A durable store of immutable records under string keys, and of cells changed by compare-and-swap.

    A key is two to four parts joined by ``/``: the partition, then names of ``[a-z0-9._-]``; at most 200 bytes. One
    process at a time opens a save volume as *producer* (exclusively, ``SaveVolumeBusyError`` else) and puts and
    deletes records; any number of others open it as readers: they see records of the producer soon after the put,
    always after its ``sync``, and swap only cells of their own. Calls come from several threads at once.

    Errors: ``SaveVolumeFullError`` (nothing written), ``RecordMissingError``, ``CorruptRecordError``,
    ``SwapConflictError``, ``SaveVolumeFailedError`` (poisoned until opened again), ``ReadOnlyError`` for a put,
    delete or sync by a reader.
    """

    read_only: bool = False
    """True for a reader."""

    @abstractmethod
    def capacity_bytes(self, partition: Partition) -> int:
        """Quota of the partition in bytes."""

    @abstractmethod
    def used_bytes(self, partition: Partition) -> int:
        """Bytes of the quota that are not free for new records: live records and what cannot be reused yet."""

    @abstractmethod
    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Store the concatenation of ``parts`` under a key that is not in use; durable after ``sync``."""

    @abstractmethod
    def get(self, key: str, start: int = 0, stop: int | None = None) -> memoryview:
        """Bytes ``[start, stop)`` of a record. A whole record is verified against its checksum; a part is not."""

    def recall(self, key: str) -> memoryview | None:  # noqa: ARG002 - nothing is kept by default
        """A whole record that this opener has put a short while ago, where that is still in memory; else ``None``.

        It says nothing of what is stored: whoever looks for damage calls ``get``. For stores whose reads cost requests.
        """
        return None

    @abstractmethod
    def size_bytes(self, key: str) -> int:
        """Length of a record."""

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Remove records; a key that is absent is passed over. May reappear after a crash before the next sync."""

    @abstractmethod
    def list(self, prefix: str) -> Sequence[str]:
        """Keys that begin with ``prefix``, sorted."""

    @abstractmethod
    def sync(self) -> None:
        """Return when every put before the call is durable."""

    @abstractmethod
    def load(self, cell: str) -> CellValue:
        """Value and version of a cell; durable on return."""

    @abstractmethod
    def swap(self, cell: str, value: bytes, expected_version: int) -> int:
        """Replace the value if the version is as expected, durably; return the new version (one more)."""

    @abstractmethod
    def cells(self, prefix: str = "") -> Sequence[str]:
        """Names of cells that begin with ``prefix``, sorted."""

    @property
    def requests(self) -> Mapping[str, int]:
        """Requests and bytes by kind since it was opened, where its store is paid by them; else empty."""
        return {}

    def close(self) -> None:  # noqa: B027 - nothing to close is a fine default
        """Give back what it holds, the producer's place too. Does not sync."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
