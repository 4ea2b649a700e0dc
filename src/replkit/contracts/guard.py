"""The guard: checks arguments before, and results after, each call of a backend, so that backends can stay naive.

Whatever a backend raises leaves the guard as a typed error that names the volume. A flush or sync that failed poisons
the guard: every later write and flush fails until the volume is opened again (invariant 1), because a second fsync
after a failed one may report success for data that is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from replkit.blocks.extent import Extent
from replkit.contracts.buffers import Buffer
from replkit.contracts.savevolume import CellValue, Partition, SaveVolume
from replkit.contracts.translate import Translate
from replkit.contracts.volume import BlockVolume, Write
from replkit.errors import (
    CorruptRecordError,
    InvalidArgumentError,
    OutOfSpaceError,
    ReadOnlyError,
    SaveVolumeFailedError,
    SaveVolumeFullError,
    StorageError,
    VolumeFailedError,
)

MAX_RECORD_BYTES = 64 << 20
MAX_CELL_BYTES = 16 << 20
MAX_NAME_BYTES = 200
_PART = r"(?!\.{1,2}(?:/|$))[a-z0-9._-]+"
_KEY = re.compile(rf"(?:sets|areas|lists)(?:/{_PART}){{1,3}}")
_CELL = re.compile(rf"{_PART}(?:/{_PART}){{0,3}}")


class GuardedVolume(BlockVolume):
    """A volume whose every call is checked; ``inner`` is the backend's own object."""

    def __init__(self, inner: BlockVolume, name: str) -> None:
        size = inner.block_size
        if size < 512 or size & (size - 1) or inner.size_bytes < 0:
            raise VolumeFailedError(f"{name}: opened with block size {size} and {inner.size_bytes} bytes")
        self.inner, self.name = inner, name
        self.block_size, self.read_only = size, inner.read_only
        self.discards, self.tells_in_use, self.resizes = inner.discards, inner.tells_in_use, inner.resizes
        self._translate = Translate(name, VolumeFailedError, OutOfSpaceError)
        self._barrier = ""
        self._shift, self._mask = size.bit_length() - 1, size - 1
        self._take_size()

    @property
    def requests(self) -> Mapping[str, int]:
        """Pass on."""
        return self.inner.requests

    def _take_size(self) -> None:
        self.size_bytes = self.inner.size_bytes
        self._blocks = self.inner.block_count

    def _view(self, start: int, buffer: Buffer) -> memoryview:
        """The bytes of ``buffer``, which must be whole blocks inside the volume from block ``start``."""
        view = self._bytes(buffer)
        blocks, rest = divmod(view.nbytes, self.block_size)
        if rest:
            raise InvalidArgumentError(f"{self.name}: {view.nbytes} bytes are not whole blocks of {self.block_size}")
        if start < 0 or start + blocks > self._blocks or self._barrier:  # seldom: this is the hot path of every write
            self._check_range(start, blocks)
        return view

    def _bytes(self, buffer: Buffer) -> memoryview:
        try:
            return memoryview(buffer).cast("B")
        except TypeError as error:
            raise InvalidArgumentError(f"{self.name}: no contiguous buffer: {error}") from error

    def _check_range(self, start: int, count: int) -> None:
        if start < 0 or count < 0 or start + count > self._blocks:
            raise InvalidArgumentError(
                f"{self.name}: blocks {start} to {start + count} are outside its {self._blocks} blocks"
            )
        if self._barrier == "closed":
            raise InvalidArgumentError(f"{self.name}: is closed")

    def _check_writable(self) -> None:
        if self.read_only:
            raise ReadOnlyError(f"{self.name}: is read-only")
        if self._barrier == "closed":
            raise InvalidArgumentError(f"{self.name}: is closed")
        if self._barrier:
            raise VolumeFailedError(f"{self.name}: an earlier flush failed: {self._barrier}", hint="open it again")

    def _writable_view(self, start: int, buffer: Buffer) -> memoryview:
        view = self._view(start, buffer)
        if view.readonly:
            raise InvalidArgumentError(f"{self.name}: cannot read into a read-only buffer")
        return view

    def read_into(self, start: int, buffer: Buffer) -> None:
        """Fill ``buffer`` with whole blocks from ``start``."""
        view = self._writable_view(start, buffer)
        if view.nbytes:
            try:
                self.inner.read_into(start, view)
            except Exception as error:
                self._translate.reraise(error)

    def read_extents(self, extents: Iterable[Extent], buffer: Buffer) -> None:
        """Fill ``buffer`` with the blocks of ``extents``; it must have exactly their size."""
        checked = list(extents)
        for start, count in checked:
            self._check_range(start, count)
        view = self._bytes(buffer)
        if view.nbytes != sum(count for _, count in checked) * self.block_size or (checked and view.readonly):
            raise InvalidArgumentError(f"{self.name}: a buffer of {view.nbytes} bytes does not fit the extents")
        if checked:
            with self._translate:
                self.inner.read_extents(checked, view)

    def write(self, start: int, buffer: Buffer) -> None:
        """Write whole blocks from ``start``."""
        view = self._view(start, buffer)
        self._check_writable()
        if view.nbytes:
            with self._translate:
                self.inner.write(start, view)

    def write_extents(self, writes: Sequence[Write]) -> None:
        """Write each buffer at its block; the writes must not overlap."""
        if self._barrier or self.read_only:
            self._check_writable()
        shift, blocks, stop, is_ascending = self._shift, self._blocks, 0, True
        checked = []
        for start, buffer in writes:
            view = memoryview(buffer)
            after = start + (view.nbytes >> shift)
            if view.format != "B" or view.ndim != 1 or view.nbytes & self._mask or start < 0 or after > blocks:
                view = self._view(start, buffer)  # says what is wrong, or makes plain bytes of it
            if start < stop:
                is_ascending = False
            stop = after
            checked.append((start, view))
        if not is_ascending:
            self._check_disjoint(checked)
        if checked:
            try:
                self.inner.write_extents(checked)
            except Exception as error:
                self._translate.reraise(error)

    def _check_disjoint(self, writes: list[tuple[int, memoryview]]) -> None:
        stop = 0
        for start, view in sorted(writes, key=_first):
            if start < stop:
                raise InvalidArgumentError(f"{self.name}: writes of one call overlap at block {start}")
            stop = start + (view.nbytes >> self._shift)

    def discard(self, start: int, count: int) -> None:
        """Make blocks read as zeros."""
        self._check_range(start, count)
        self._check_writable()
        if count:
            with self._translate:
                self.inner.discard(start, count)

    def flush(self) -> None:
        """Make completed writes durable; a failure poisons the volume (invariant 1)."""
        if self.read_only:
            return
        self._check_writable()
        try:
            with self._translate:
                self.inner.flush()
        except StorageError as error:
            self._barrier = error.message
            raise

    def in_use(self) -> Iterator[Extent]:
        """Yield the backend's extents, refusing what is not ascending, disjoint and inside the volume."""
        return self._checked(self.inner.in_use(), 0, self._blocks)

    def in_use_between(self, start: int, stop: int) -> Iterator[Extent]:
        """The same for a part of the volume."""
        self._check_range(start, stop - start)
        return self._checked(self.inner.in_use_between(start, stop), start, stop)

    def _checked(self, extents: Iterator[Extent], start: int, stop: int) -> Iterator[Extent]:
        before = start
        with self._translate:
            for extent in extents:
                if extent.start < before or extent.count <= 0 or extent.stop > stop:
                    raise VolumeFailedError(f"{self.name}: in_use gave {extent} after block {before} of {stop}")
                before = extent.stop
                yield extent

    def resize(self, size_bytes: int) -> None:
        """Change the size, and check that the backend did."""
        self._check_writable()
        if size_bytes < 0:
            raise InvalidArgumentError(f"{self.name}: cannot have {size_bytes} bytes")
        with self._translate:
            self.inner.resize(size_bytes)
        self._take_size()
        if self.size_bytes != size_bytes:
            raise VolumeFailedError(f"{self.name}: resize to {size_bytes} left {self.size_bytes} bytes")

    def refresh(self) -> None:
        """See what another process has flushed; it may have changed the size too."""
        self._check_range(0, 0)
        with self._translate:
            self.inner.refresh()
        self._take_size()

    def close(self) -> None:
        """Close the backend once; later calls do nothing."""
        if self._barrier != "closed":
            self._barrier = "closed"
            with self._translate:
                self.inner.close()


def _first(write: tuple[int, memoryview]) -> int:
    return write[0]


class GuardedSaveVolume(SaveVolume):
    """A save volume whose every call is checked; ``inner`` is the backend's own object."""

    def __init__(self, inner: SaveVolume, name: str) -> None:
        self.inner, self.name = inner, name
        self.read_only = inner.read_only
        self._translate = Translate(name, SaveVolumeFailedError, SaveVolumeFullError)
        self._barrier = ""

    @property
    def requests(self) -> Mapping[str, int]:
        """Pass on."""
        return self.inner.requests

    def _check_key(self, key: str) -> None:
        if len(key) > MAX_NAME_BYTES or not _KEY.fullmatch(key):
            raise InvalidArgumentError(f"{self.name}: {key[:MAX_NAME_BYTES]!r} is no key of a record")
        self._check_open()

    def _check_cell(self, cell: str) -> None:
        if len(cell) > MAX_NAME_BYTES or not _CELL.fullmatch(cell):
            raise InvalidArgumentError(f"{self.name}: {cell[:MAX_NAME_BYTES]!r} is no name of a cell")
        self._check_open()

    def _check_open(self) -> None:
        if self._barrier == "closed":
            raise InvalidArgumentError(f"{self.name}: is closed")

    def _check_writable(self) -> None:
        if self.read_only:
            raise ReadOnlyError(f"{self.name}: a reader does not put, delete or sync")
        if self._barrier:
            raise SaveVolumeFailedError(f"{self.name}: an earlier sync failed: {self._barrier}", hint="open it again")

    def capacity_bytes(self, partition: Partition) -> int:
        """Quota of the partition in bytes."""
        self._check_open()
        with self._translate:
            return self.inner.capacity_bytes(partition)

    def used_bytes(self, partition: Partition) -> int:
        """Bytes of the quota that are not free for new records."""
        self._check_open()
        with self._translate:
            return self.inner.used_bytes(partition)

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Store a record under a new key."""
        self._check_key(key)
        self._check_writable()
        if isinstance(parts, bytes | bytearray | memoryview):
            raise InvalidArgumentError(f"{self.name}: {key}: parts are a sequence of buffers, not one buffer")
        views = [memoryview(part).cast("B") for part in parts]
        if (size := sum(view.nbytes for view in views)) > MAX_RECORD_BYTES:
            raise InvalidArgumentError(f"{self.name}: {key} has {size} bytes; a record has at most {MAX_RECORD_BYTES}")
        with self._translate:
            self.inner.put(key, views)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> memoryview:
        """Bytes of a record; a range that reaches beyond its end is refused."""
        self._check_key(key)
        if start < 0 or (stop is not None and stop < start):
            raise InvalidArgumentError(f"{self.name}: {key}: bytes {start} to {stop} are no range")
        with self._translate:
            result = self.inner.get(key, start, stop)
            if (stop is not None and result.nbytes != stop - start) or (stop is None and start and not result.nbytes):
                size = self.inner.size_bytes(key)
                if start > size or (stop is not None and stop > size):
                    raise InvalidArgumentError(f"{self.name}: {key} has {size} bytes, not {start} to {stop}")
                if stop is not None:
                    raise CorruptRecordError(f"{self.name}: {key}: {result.nbytes} bytes came for {start} to {stop}")
        return result

    def recall(self, key: str) -> memoryview | None:
        """A record that was put a short while ago, if it is still in memory."""
        self._check_key(key)
        with self._translate:
            return self.inner.recall(key)

    def size_bytes(self, key: str) -> int:
        """Length of a record."""
        self._check_key(key)
        with self._translate:
            return self.inner.size_bytes(key)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove records."""
        if isinstance(keys, str):
            raise InvalidArgumentError(f"{self.name}: delete takes several keys, not the string {keys!r}")
        checked = list(keys)
        for key in checked:
            self._check_key(key)
        self._check_writable()
        with self._translate:
            self.inner.delete(checked)

    def list(self, prefix: str) -> Sequence[str]:
        """Keys that begin with ``prefix``; an answer that is not sorted or does not fit is refused."""
        self._check_open()
        with self._translate:
            keys = self.inner.list(prefix)
        return self._check_names(keys, prefix)

    def _check_names(self, names: Sequence[str], prefix: str) -> Sequence[str]:
        before = ""
        for name in names:
            if name <= before or not name.startswith(prefix):
                raise SaveVolumeFailedError(f"{self.name}: listing of {prefix!r} gave {name!r} after {before!r}")
            before = name
        return names

    def sync(self) -> None:
        """Make every earlier put durable; a failure poisons the save volume (invariant 1)."""
        self._check_open()
        self._check_writable()
        try:
            with self._translate:
                self.inner.sync()
        except StorageError as error:
            self._barrier = error.message
            raise

    def load(self, cell: str) -> CellValue:
        """Value and version of a cell."""
        self._check_cell(cell)
        with self._translate:
            return self.inner.load(cell)

    def swap(self, cell: str, value: bytes, expected_version: int) -> int:
        """Compare and swap a cell; the new version must be one more than the expected one."""
        self._check_cell(cell)
        if len(value) > MAX_CELL_BYTES or expected_version < 0:
            raise InvalidArgumentError(
                f"{self.name}: cell {cell}: {len(value)} bytes at version {expected_version}; a cell has at most "
                f"{MAX_CELL_BYTES} bytes"
            )
        if self._barrier:  # a swap publishes records; after a failed sync they may be lost
            raise SaveVolumeFailedError(f"{self.name}: an earlier sync failed: {self._barrier}", hint="open it again")
        with self._translate:
            version = self.inner.swap(cell, bytes(value), expected_version)
        if version != expected_version + 1:
            raise SaveVolumeFailedError(f"{self.name}: cell {cell} went from {expected_version} to {version}")
        return version

    def cells(self, prefix: str = "") -> Sequence[str]:
        """Names of cells that begin with ``prefix``."""
        self._check_open()
        with self._translate:
            names = self.inner.cells(prefix)
        return self._check_names(names, prefix)

    def close(self) -> None:
        """Close the backend once; later calls do nothing."""
        if self._barrier != "closed":
            self._barrier = "closed"
            with self._translate:
                self.inner.close()
