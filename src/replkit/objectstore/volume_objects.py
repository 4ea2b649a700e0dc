"""The objects of a bucket volume: their numbers and keys, requests that are counted, and calls made in parallel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from replkit.contracts.buffers import Buffer
from replkit.contracts.runtime import Lock, Runtime
from replkit.errors import CorruptRecordError, RecordMissingError, VolumeFailedError
from replkit.objectstore.store import ObjectInfo, ObjectStore
from replkit.objectstore.volume_format import SEQUENCE_BITS, ObjectKind, Root, object_key

Result = TypeVar("Result")


class RunAll(Protocol):
    """Makes several calls, at the same time if it can; results in order, or the error of one after all have ended.

    A call may itself make calls in this way.
    """

    def __call__(self, calls: Sequence[Callable[[], Result]], /) -> list[Result]:
        """Results of the calls."""
        ...


def run_in_turn(calls: Sequence[Callable[[], Result]], /) -> list[Result]:
    """Make the calls one after another."""
    return [call() for call in calls]


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes and bounds of a bucket volume; none is stored, so each opening may choose its own."""

    object_bytes: int = 8 << 20
    """Data objects and packs are put when they have as many bytes."""
    buffer_bytes: int = 32 << 20
    """Written data that is kept in memory before it is put; while it is put, as much again may be written."""
    cache_bytes: int = 32 << 20
    """Blocks that were read or put, in memory."""
    page_cache_bytes: int = 32 << 20
    """Decoded pages of the map, in memory."""
    read_ahead_bytes: int = 4 << 20
    """At most so much is fetched beyond a read that goes on where an earlier one ended; it begins with 128 KiB."""
    recent_objects: int = 64
    """So many data objects are told by the root itself; then they are entered into the map's pages."""
    recent_runs: int = 1 << 16
    """The same, for runs of blocks."""
    live_percent: int = 50
    """A data object or pack of which less is still named is rewritten."""
    small_bytes: int = 1 << 20
    """Data objects below this are joined when there are eight of them."""
    moved_bytes: int = 32 << 20
    """Data that one pass of garbage collection moves at most."""
    hold_s: float = 3600.0
    """How long what a reader's root names is kept for it; it renews the hold while it reads. 0: no hold."""


class Counts(msgspec.Struct):
    """Requests and bytes since the volume was opened."""

    puts: int = 0
    gets: int = 0
    lists: int = 0
    deletes: int = 0
    bytes_put: int = 0
    bytes_got: int = 0
    checkpoints: int = 0
    moved_blocks: int = 0
    cache_hits: int = 0
    damaged_objects: int = 0
    """Objects that garbage collection could not read and therefore left alone."""


class CountingStore(ObjectStore):
    """A store that counts what is asked of it."""

    def __init__(self, inner: ObjectStore, counts: Counts, lock: Lock) -> None:
        self.url = inner.url
        self.counts = counts
        self._inner, self._lock = inner, lock

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, amount in more.items():
                setattr(self.counts, name, getattr(self.counts, name) + amount)

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Count and pass on."""
        self._count(puts=1, bytes_put=sum(memoryview(part).nbytes for part in parts))
        self._inner.put(key, parts)

    def put_new(self, key: str, data: Buffer) -> None:
        """Count and pass on."""
        self._count(puts=1, bytes_put=memoryview(data).nbytes)
        self._inner.put_new(key, data)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Pass on and count what came."""
        data = self._inner.get(key, start, stop)
        self._count(gets=1, bytes_got=len(data))
        return data

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Count the listing, however many pages it has."""
        self._count(lists=1)
        return self._inner.list(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        """Count and pass on."""
        self._count(deletes=1)
        self._inner.delete(keys)

    @property
    def requests(self) -> Mapping[str, int]:
        """As the store counts them: repetitions and pages of listings too."""
        return self._inner.requests

    def close(self) -> None:
        """Close the store."""
        self._inner.close()


class Objects:
    """Data objects and packs of one opened volume. ``root`` is the root as this opener has it now."""

    def __init__(
        self, store: ObjectStore, root: Root, runtime: Runtime, *, run_all: RunAll, tuning: Tuning, counts: Counts
    ) -> None:
        self.store = store
        self.root = root
        self.runtime = runtime
        self.run_all = run_all
        self.tuning = tuning
        self.counts = counts
        self._lock = runtime.lock()
        self._sequence = root.next_sequence

    @property
    def object_blocks(self) -> int:
        """Blocks of a full data object."""
        return max(1, min(self.tuning.object_bytes // self.root.block_size, 1 << 15))

    @property
    def next_sequence(self) -> int:
        """The sequence that the next object will have; every object below it was put or given up."""
        return self._sequence

    def restart_sequence(self) -> None:
        """A new generation of this writer begins."""
        self._sequence = 0

    def allocate(self) -> int:
        """Number for a new object."""
        with self._lock:
            sequence = self._sequence
            self._sequence += 1
        if sequence >> SEQUENCE_BITS:
            raise VolumeFailedError(f"{self.store.url}: no object number left before a flush", hint="open it again")
        return self.root.generation << SEQUENCE_BITS | sequence

    def key(self, kind: ObjectKind, number: int) -> str:
        """Key of an object that the root's writers made; ``CorruptRecordError`` where it knows none such."""
        writer = self.root.writers.get(number >> SEQUENCE_BITS)
        if writer is None:
            raise CorruptRecordError(f"{self.store.url}: object {number:x} is of a writer that the root does not know")
        return object_key(kind, number, writer.tag)

    def put(self, kind: ObjectKind, number: int, parts: Sequence[Buffer]) -> None:
        """Store a new object."""
        self.store.put(self.key(kind, number), parts)

    def get(self, kind: ObjectKind, number: int, start: int, stop: int) -> memoryview:
        """A range of an object, which must be there in full."""
        key = self.key(kind, number)
        try:
            data = self.store.get(key, start, stop)
        except RecordMissingError as error:
            raise RecordMissingError(
                f"{self.store.url}: {key} is gone: the state of the volume that names it was trimmed",
                hint="open the volume again",
            ) from error
        if len(data) != stop - start:
            raise CorruptRecordError(f"{self.store.url}: {key}: {len(data)} bytes came for {start} to {stop}")
        return memoryview(data)

    def place(self, kind: ObjectKind, number: int) -> str:
        """The object as messages name it."""
        return f"{self.store.url}: {self.key(kind, number)}"

    def run(self, calls: Sequence[Callable[[], Any]]) -> None:
        """Make calls at the same time."""
        if len(calls) == 1:
            calls[0]()
        elif calls:
            self.run_all(calls)
