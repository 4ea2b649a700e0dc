"""A block volume in a bucket (U2, U3): immutable data objects, a map of immutable pages, and one root that is swapped.

Writes are gathered in memory and put as data objects; ``flush`` publishes them all by one swap of the root. So a reader
sees the state of one flush, a crash leaves the old or the new one, whole, and an owner that was replaced publishes
nothing more. Between two checkpoints the root names the newest data objects itself; a checkpoint enters them into the
pages of the map.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Self

from replkit.blocks.blockmap import BlockMap
from replkit.blocks.extent import Extent
from replkit.contracts.buffers import Buffer
from replkit.contracts.runtime import Runtime
from replkit.contracts.volume import BlockVolume, Capability, Write
from replkit.errors import FencedError, ReadOnlyError, RecordMissingError, StorageError, VolumeFailedError
from replkit.objectstore.cache import LocalCache, MemoryCache
from replkit.objectstore.cells import CellStore
from replkit.objectstore.map_pages import BLOCK_TREE
from replkit.objectstore.map_tree import PageCache, Tree
from replkit.objectstore.store import ObjectStore
from replkit.objectstore.volume_buffer import WriteBuffer, overlay
from replkit.objectstore.volume_checkpoint import Checkpointer
from replkit.objectstore.volume_collect import Collector
from replkit.objectstore.volume_data import DataReader, DataWriter, Piece, map_runs
from replkit.objectstore.volume_format import Root
from replkit.objectstore.volume_lookup import Lookup, Range, State
from replkit.objectstore.volume_objects import CountingStore, Counts, Objects, RunAll, Tuning, run_in_turn
from replkit.objectstore.volume_root import Hold, Publisher, claim_root, create_root, read_root

_STREAMS = 16
_FIRST_AHEAD_BYTES = 128 << 10


class ObjectVolume(BlockVolume):
    """A volume in a bucket; made by ``create`` and ``open``, not by hand.

    Any number of readers anywhere, and one writer: whoever opens it for writing fences the one before. After a failed
    flush, checkpoint or put it takes no writes until it is opened again (invariant 1).
    """

    discards = Capability.NATIVE
    tells_in_use = Capability.NATIVE
    resizes = Capability.NATIVE

    def __init__(
        self, objects: Objects, cells: CellStore, version: int, *, cache: LocalCache | None, hold: Hold | None
    ) -> None:
        root, runtime = objects.root, objects.runtime
        self.block_size, self.size_bytes, self.read_only = root.block_size, root.size_bytes, hold is not None
        self.counts = objects.counts
        """Requests and bytes since it was opened."""
        self._objects = objects
        self._hold = hold
        self._local = cache
        if cache is not None:
            cache.attach(root.volume, root.block_size)
        memory = MemoryCache(objects.tuning.cache_bytes, runtime.lock())
        pages = PageCache(objects)
        self._reader = DataReader(objects, memory, cache)
        self._writer = DataWriter(objects, memory)
        self._collector = Collector(objects, pages, self._reader, self._writer)
        self._checkpointer = Checkpointer(objects, pages, self._collector)
        self._publisher = Publisher(objects, cells, version)
        self._lock = runtime.lock()  # guards the state; held for moments
        self._turn = runtime.lock()  # held by whoever puts, makes a checkpoint or publishes
        self._state = State(root.block_top, root.block_size)
        self._lookup = Lookup(Tree(BLOCK_TREE, pages), self._state, self._lock, root.block_size)
        self._streams: dict[int, int] = {}  # by the block at which a read ended: bytes to be read ahead from there
        self._is_published = True
        self._failure: BaseException | None = None
        with nullcontext() if self.read_only else self._publisher.owning():
            indexes = objects.run_all([partial(self._reader.index, row) for row in root.recent])
        for row, runs in zip(root.recent, indexes, strict=True):  # oldest first
            overlay(self._state.overlay, map_runs(row, runs))

    # --- opening --------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        store: ObjectStore,
        *,
        block_size: int,
        size_bytes: int,
        runtime: Runtime,
        run_all: RunAll = run_in_turn,
        cache: LocalCache | None = None,
        site: str = "",
        epoch: int = 0,
        tuning: Tuning | None = None,
    ) -> Self:
        """Make an empty volume and open it for writing; ``AlreadyExistsError`` where ``store`` holds one.

        ``store`` is closed with the volume. ``run_all`` makes requests at the same time.
        """
        counting, cells = _count(store, runtime)
        volume_id = runtime.random_bytes(16).hex()
        root = Root(volume=volume_id, block_size=block_size, size_bytes=size_bytes, site=site, epoch=epoch)
        version = create_root(cells, store.url, root, runtime)
        objects = Objects(counting, root, runtime, run_all=run_all, tuning=tuning or Tuning(), counts=counting.counts)
        return cls(objects, cells, version, cache=cache, hold=None)

    @classmethod
    def open(
        cls,
        store: ObjectStore,
        *,
        runtime: Runtime,
        read_only: bool = False,
        run_all: RunAll = run_in_turn,
        cache: LocalCache | None = None,
        site: str = "",
        epoch: int | None = None,
        tuning: Tuning | None = None,
    ) -> Self:
        """Open the volume in ``store`` as its last flush left it; ``NotFoundError`` where there is none.

        A writer takes the volume from the writer before (invariant 8); with another ``site`` than the root names it
        needs a higher ``epoch``, else ``FencedError``. A reader stays at the state that it met, protected by a hold
        while it reads; where the hold ran out, or it is without one, ``RecordMissingError`` may meet it.
        """
        tuning = tuning or Tuning()
        counting, cells = _count(store, runtime)
        hold = None
        if read_only:
            _, version = read_root(cells, store.url)
            hold = Hold(counting, runtime, version, tuning.hold_s)
            root, version = read_root(cells, store.url)  # nothing that this one names was deleted before the hold
        else:
            root, version = claim_root(cells, store.url, runtime, site=site, epoch=epoch)
        objects = Objects(counting, root, runtime, run_all=run_all, tuning=tuning, counts=counting.counts)
        volume = cls(objects, cells, version, cache=cache, hold=hold)
        if not read_only:
            volume._publisher.clean()
        return volume

    @property
    def requests(self) -> Mapping[str, int]:
        """Requests and bytes by kind since it was opened, as the store counts them."""
        return self._objects.store.requests

    @property
    def root_version(self) -> int:
        """Version of the root cell that this opener reads, or published last."""
        return self._publisher.version

    @property
    def epoch(self) -> int:
        """Epoch in the root."""
        return self._objects.root.epoch

    @property
    def stored_bytes(self) -> int:
        """Block data in the bucket, live or not, as of the last checkpoint."""
        return self._objects.root.stored_blocks * self.block_size

    @property
    def live_bytes(self) -> int:
        """Block data that the map names, as of the last checkpoint."""
        return self._objects.root.live_blocks * self.block_size

    # --- reading --------------------------------------------------------------------------------------------------

    def read_into(self, start: int, buffer: Buffer) -> None:
        """Read blocks, this volume's own unflushed writes included."""
        self._read([(start, memoryview(buffer).cast("B"))])

    def read_extents(self, extents: Iterable[Extent], buffer: Buffer) -> None:
        """Read several runs, their requests at the same time."""
        view = memoryview(buffer).cast("B")
        wanted: list[Range] = []
        at = 0
        for start, count in extents:
            wanted.append((start, view[at : at + count * self.block_size]))
            at += count * self.block_size
        self._read(wanted)

    def _read(self, wanted: list[Range]) -> None:
        if self._hold is not None:
            self._hold.renew()
        with self._lock:
            ahead_bytes = self._streams.pop(wanted[0][0], 0) if len(wanted) == 1 else 0
        next_bytes = ahead_bytes or _FIRST_AHEAD_BYTES
        while True:
            with self._lock:
                snapshot = self._state.look(wanted)
            try:
                left = self._reader.from_caches(self._lookup.resolve(snapshot))
                if left:
                    self._fetch(left, self._read_ahead(wanted[0], ahead_bytes))
                    next_bytes = min(ahead_bytes * 2 or next_bytes, self._objects.tuning.read_ahead_bytes)
                break
            except RecordMissingError:
                # Our own garbage collection may have moved the blocks meanwhile; for a reader nothing ever moves.
                with self._lock:
                    if self._state.top is snapshot.top:
                        raise
        if len(wanted) == 1:
            start, view = wanted[0]
            with self._lock:
                self._streams[start + view.nbytes // self.block_size] = next_bytes
                if len(self._streams) > _STREAMS:
                    del self._streams[next(iter(self._streams))]

    def _fetch(self, left: list[Piece], ahead: list[Piece]) -> None:
        try:
            self._reader.fetch([*left, *ahead])
        except StorageError:
            if not ahead:
                raise
            self._reader.fetch(left)  # what nobody asked for may be damaged or gone

    def _read_ahead(self, last: Range, ahead_bytes: int) -> list[Piece]:
        """Pieces beyond a read that goes on where an earlier one ended; they are read into the caches only."""
        start, view = last
        stop = start + view.nbytes // self.block_size
        count = min(ahead_bytes // self.block_size, self.block_count - stop)
        if count <= 0 or view.nbytes > self._objects.tuning.read_ahead_bytes:
            return []
        with self._lock:
            ahead = self._state.look([(stop, memoryview(bytearray(count * self.block_size)))])
        with suppress(StorageError):
            return self._reader.from_caches(self._lookup.resolve(ahead))
        return []

    def in_use(self) -> Iterator[Extent]:
        """Yield the blocks that were written and not discarded."""
        return self._lookup.in_use(0, self.block_count)

    def in_use_between(self, start: int, stop: int) -> Iterator[Extent]:
        """Yield those of a part of the volume; only its pages are read."""
        return self._lookup.in_use(start, stop)

    # --- writing --------------------------------------------------------------------------------------------------

    def write(self, start: int, buffer: Buffer) -> None:
        """Write blocks; see ``write_extents``."""
        self.write_extents([(start, buffer)])

    def write_extents(self, writes: Sequence[Write]) -> None:
        """Copy blocks into memory; a full buffer is put first to last as data objects, still unpublished."""
        self._check_writable()
        with self._lock:
            for start, buffer in writes:
                self._buffer(start, memoryview(buffer).cast("B"))
            is_full = self._is_full()
        if is_full:
            self._put_if_full()

    def _buffer(self, start: int, view: memoryview) -> None:
        buffer, last = self._state.buffers[0], self.block_count - 1
        buffer.write(start, view)
        rest = self.size_bytes % self.block_size
        if rest and last in buffer.blocks:
            buffer.blocks[last] = buffer.blocks[last][:rest] + bytes(self.block_size - rest)

    def _is_full(self) -> bool:
        return self._state.buffers[0].size_bytes >= self._objects.tuning.buffer_bytes

    def _put_if_full(self) -> None:
        with self._publishing():
            if self._is_full():  # else another thread has put it while this one waited
                self._put_written()

    def discard(self, start: int, count: int) -> None:
        """Make blocks unused."""
        self._check_writable()
        with self._lock:
            self._state.buffers[0].discard(start, count)
            is_full = self._is_full()
        if is_full:
            self._put_if_full()

    def flush(self) -> None:
        """Publish all writes and discards completed before the call, as one state (invariant 1)."""
        if self.read_only:
            return
        with self._publishing():
            self._put_written()
            self._publish()

    def resize(self, size_bytes: int) -> None:
        """Change the size; durable on return, with all writes before it."""
        with self._publishing():
            block_count, rest = -(-size_bytes // self.block_size), size_bytes % self.block_size
            last = bytearray(self.block_size)
            if size_bytes < self.size_bytes and rest:
                self._read([(block_count - 1, memoryview(last))])
            with self._lock:
                if size_bytes < self.size_bytes:
                    if rest:  # grown blocks read as zeros, also where they were cut off before
                        self._buffer(block_count - 1, memoryview(last[:rest] + bytes(self.block_size - rest)))
                    self._state.buffers[0].discard(block_count, self.block_count - block_count)
                self.size_bytes = self._objects.root.size_bytes = size_bytes
                self._is_published = False
            self._put_written()
            self._publish()

    def compact(self) -> None:
        """Collect all garbage that can be collected now; what holds protect goes with a later flush."""
        with self._publishing():
            self._put_written()
            while True:
                before = self.counts.moved_blocks
                self._checkpoint(thorough=True)
                self._publish()
                if self.counts.moved_blocks == before:
                    break
            self._is_published = False
            self._publish()

    @contextmanager
    def _publishing(self) -> Iterator[None]:
        """One at a time; whatever goes wrong inside poisons the volume (invariant 1)."""
        with self._turn:
            self._check_writable()
            try:
                with self._publisher.owning():
                    yield
            except BaseException as error:
                self._failure = error
                raise

    def _put_written(self) -> None:
        """Put the buffer as data objects and enter them into the overlay. A crash leaves orphans."""
        with self._lock:
            written = self._state.buffers[0]
            if not written:
                return
            self._state.buffers.insert(0, WriteBuffer(self.block_size))
        made = self._writer.put(written.blocks, written.discards())
        with self._lock:
            for new in made:
                overlay(self._state.overlay, new.runs)
            self._state.buffers.remove(written)
        root, tuning = self._objects.root, self._objects.tuning
        root.recent += tuple(new.row for new in made)
        self._is_published = False
        if len(root.recent) >= tuning.recent_objects or len(self._state.overlay) >= tuning.recent_runs:
            self._checkpoint()

    def _checkpoint(self, *, thorough: bool = False) -> None:
        """Enter the overlay into the pages of the map; seen by others from the next publication on."""
        root = self._objects.root
        done = self._checkpointer.run(self._state.overlay, root.recent, thorough=thorough)
        with self._lock:
            self._state.top = root.block_top = done.block_top
            self._state.overlay = BlockMap()
        root.object_top, root.packs, root.recent = done.object_top, done.packs, ()
        root.stored_blocks, root.live_blocks = done.stored_blocks, done.live_blocks
        self._publisher.condemn("data", done.dead_objects)
        self._publisher.condemn("map", done.dead_packs)
        self._is_published = False

    def _publish(self) -> None:
        if not self._is_published:
            self._publisher.publish()
            self._is_published = True

    def _check_writable(self) -> None:
        if self.read_only:
            raise ReadOnlyError(f"{self._objects.store.url}: is open for reading only")
        if isinstance(self._failure, FencedError):
            raise FencedError(self._failure.message, hint=self._failure.hint)
        if self._failure is not None:
            what = f"{type(self._failure).__name__}: {self._failure}"
            raise VolumeFailedError(f"{self._objects.store.url}: an earlier flush failed: {what}", hint="open it again")

    def close(self) -> None:
        """Release the hold and close the store; what was not flushed is given up."""
        if self._hold is not None:
            self._hold.release()
        if self._local is not None:
            with suppress(StorageError):  # a cache that cannot be written is a cold cache
                self._local.flush()
        self._objects.store.close()


def _count(store: ObjectStore, runtime: Runtime) -> tuple[CountingStore, CellStore]:
    counting = CountingStore(store, Counts(), runtime.lock())
    return counting, CellStore(counting, "", runtime.random_bytes)
