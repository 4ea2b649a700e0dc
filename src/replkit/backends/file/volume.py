"""A volume in a file or on a block device."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn, Self

from replkit.backends.file.bulk import ALIGNMENT, BulkWriter
from replkit.backends.file.syscalls import (
    FULL,
    begin_writeback,
    path_of,
    punch_hole,
    read_full,
    reserve,
    sync_data,
    sync_directory,
    write_full,
)
from replkit.blocks.extent import Extent
from replkit.contracts.buffers import Buffer
from replkit.contracts.registry import VolumeOptions
from replkit.contracts.volume import BlockVolume, Capability, Write
from replkit.errors import (
    InvalidArgumentError,
    NotFoundError,
    OutOfSpaceError,
    ReadOnlyError,
    ReplkitError,
    UnsupportedError,
    VolumeFailedError,
)

_BLKGETSIZE64 = 0x80081272
_BULK_BYTES = 2 << 20
"""Together, in one call: more than a user of a volume asks for, so these are chunks of a copy or of a delta set."""
_BULK_RUN_BYTES = 256 << 10
_MANY_WRITES = 256


class FileVolume(BlockVolume):
    """Blocks of a regular file (sparse where nothing was written) or of a block device.

    A ``flush`` is one ``fdatasync``. Once it failed, the kernel may have dropped dirty pages and marked them clean, so
    that the next one would report success for lost data: the volume stays failed until opened again (invariant 1).
    The long runs of a large call go past the page cache (``BulkWriter``); whatever touches the same blocks after that,
    and every flush, waits for them.
    """

    def __init__(self, path: Path, fd: int, options: VolumeOptions) -> None:
        """Take over ``fd``, which is open at ``path``."""
        self._path = path
        self._fd = fd
        self._failure = ""
        self._flushing = threading.Lock()
        self._bulk: BulkWriter | None = None
        self._can_bulk = not options.read_only
        self.block_size = options.block_size
        self.read_only = options.read_only
        mode = os.fstat(fd).st_mode
        self._is_device = stat.S_ISBLK(mode)
        if self._is_device:
            (self.size_bytes,) = struct.unpack("=Q", fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)))
        elif stat.S_ISREG(mode):
            self.size_bytes = os.fstat(fd).st_size
            self.discards = self.tells_in_use = self.resizes = Capability.NATIVE
        else:
            raise InvalidArgumentError(f"{path}: is neither a file nor a block device")
        if options.size_bytes not in {None, self.size_bytes}:
            raise InvalidArgumentError(f"{path}: has {self.size_bytes} bytes, not {options.size_bytes}")

    @classmethod
    def open(cls, url: str, options: VolumeOptions) -> Self:
        """Open ``file:///path``; ``create`` makes a sparse file where there is none."""
        path = path_of(url)
        if options.create and not options.read_only and _is_absent(path, options):
            _create(path, options)
        flags = os.O_RDONLY if options.read_only else os.O_RDWR
        if path.is_block_device() and not options.read_only:
            flags |= os.O_EXCL  # the kernel then refuses a device that is mounted or part of another one
        try:
            fd = os.open(path, flags | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFoundError(f"{url}: no such file", hint="open it with create and a size") from None
        except PermissionError as error:
            raise ReadOnlyError(f"{url}: {error.strerror}") from error
        except OSError as error:
            raise VolumeFailedError(f"{url}: cannot be opened: {error.strerror}") from error
        try:
            return cls(path, fd, options)
        except BaseException:
            os.close(fd)
            raise

    def _fail(self, what: str, error: OSError) -> NoReturn:
        message = f"{self._path}: {what}: {error.strerror}"
        kind: type[ReplkitError] = OutOfSpaceError if error.errno in FULL else VolumeFailedError
        raise kind(message) from error

    def _check(self) -> None:
        if self._failure:
            raise VolumeFailedError(self._failure, hint="open the volume again and check it")

    def read_into(self, start: int, buffer: Buffer) -> None:
        """Read with ``preadv``; what lies beyond the end of the file is zeros."""
        view = memoryview(buffer).cast("B")
        offset = start * self.block_size
        if self._bulk is not None:
            self._settle(offset, offset + view.nbytes)
        try:
            if (done := os.preadv(self._fd, (view,), offset)) < view.nbytes:
                done = read_full(self._fd, view, offset)
        except OSError as error:
            self._fail(f"reading {view.nbytes} bytes at {offset}", error)
        if done < view.nbytes:
            if offset + done < self.size_bytes:
                end = offset + done
                raise VolumeFailedError(f"{self._path}: ends at byte {end}, before its size {self.size_bytes}")
            view[done:] = bytes(view.nbytes - done)

    def read_extents(self, extents: Iterable[Extent], buffer: Buffer) -> None:
        """Read each run of neighbouring extents with one call."""
        view = memoryview(buffer).cast("B")
        offset = 0
        first = stop = -1
        for start, count in extents:
            if start != stop:
                offset = self._read_run(first, stop, view, offset)
                first = start
            stop = start + count
        self._read_run(first, stop, view, offset)

    def _read_run(self, first: int, stop: int, view: memoryview, offset: int) -> int:
        after = offset + (stop - first) * self.block_size
        if stop > first:
            self.read_into(first, view[offset:after])
        return after

    def write(self, start: int, buffer: Buffer) -> None:
        """Write with ``pwrite``; what lies beyond the end of the volume is dropped."""
        self.write_extents([(start, buffer)])

    def write_extents(self, writes: Sequence[Write]) -> None:
        """Write each run of neighbouring blocks with one call."""
        if self._failure:
            self._check()
        block_size = self.block_size
        run: list[memoryview] = []
        begin = end = -1
        for start, buffer in writes:
            view = memoryview(buffer)
            offset = start * block_size
            if offset != end:
                if run:
                    self._write_run(run, begin, end, writes)
                run, begin = [view], offset
            else:
                run.append(view)
            end = offset + view.nbytes
        if run:
            self._write_run(run, begin, end, writes)
        if len(writes) >= _MANY_WRITES:
            self._begin_writeback(writes)

    def _begin_writeback(self, writes: Sequence[Write]) -> None:
        """Let the disk begin with scattered blocks of playback, while the next chunk is read and before the flush."""
        if sum(memoryview(buffer).nbytes for _, buffer in writes) >= _BULK_BYTES:
            first, last = min(start for start, _ in writes), max(start for start, _ in writes)
            begin_writeback(self._fd, first * self.block_size, (last - first + 1) * self.block_size)

    def _write_run(self, run: list[memoryview], begin: int, end: int, writes: Sequence[Write]) -> None:
        try:
            if end > self.size_bytes:
                last = run.pop().cast("B")
                run.append(last[: last.nbytes - (end - self.size_bytes)])
                end = self.size_bytes
            if end - begin >= _BULK_RUN_BYTES and self._write_bulk(run, begin, end, writes):
                return
            if self._bulk is not None:
                self._settle(begin, end)
            # After a short write all of it is written again, which changes nothing.
            if len(run) > 1 or os.pwrite(self._fd, run[0], begin) != end - begin:
                write_full(self._fd, [view.cast("B") for view in run], begin)
        except OSError as error:
            self._fail(f"writing {end - begin} bytes at {begin}", error)

    def _write_bulk(self, run: list[memoryview], begin: int, end: int, writes: Sequence[Write]) -> bool:
        """Hand a run to the bulk writer, its space reserved; False where it is not for that. OSErrors pass through."""
        if not self._can_bulk or begin % ALIGNMENT or end % ALIGNMENT:
            return False
        if sum(memoryview(buffer).nbytes for _, buffer in writes) < _BULK_BYTES:
            return False
        if not self._is_device and not reserve(self._fd, begin, end - begin):
            self._can_bulk = False
            return False
        if self._bulk is None:
            self._bulk = BulkWriter.open(self._fd)
        if self._bulk is None:
            self._can_bulk = False
            return False
        if (error := self._bulk.write([view.cast("B") for view in run], begin)) is not None:
            self._poison(error)
        return True

    def _settle(self, begin: int, end: int) -> None:
        """Wait until no bulk write of these bytes is under way; one that failed has poisoned the volume."""
        if self._bulk is not None and (error := self._bulk.wait(begin, end)) is not None:
            self._poison(error)

    def _poison(self, error: OSError) -> NoReturn:
        self._failure = f"{self._path}: {error.strerror}"
        raise VolumeFailedError(self._failure, hint="open the volume again and check it") from error

    def discard(self, start: int, count: int) -> None:
        """Punch a hole; write zeros where that cannot be done."""
        self._check()
        offset = start * self.block_size
        size = min(count * self.block_size, self.size_bytes - offset)
        self._settle(offset, offset + size)
        try:
            if punch_hole(self._fd, offset, size):
                return
        except OSError as error:
            self._fail(f"discarding {size} bytes at {offset}", error)
        super().discard(start, count)

    def flush(self) -> None:
        """One ``fdatasync``; its failure is final. One at a time: the kernel tells a lost write to one caller only."""
        with self._flushing:
            self._check()
            self._settle(0, self.size_bytes)
            try:
                sync_data(self._fd)
            except OSError as error:
                self._poison(error)

    def in_use(self) -> Iterator[Extent]:
        """Yield what the file system has data for (``SEEK_DATA``); a block device is in use as a whole."""
        return self.in_use_between(0, self.block_count)

    def in_use_between(self, start: int, stop: int) -> Iterator[Extent]:
        """Ask the file system about this part only."""
        if self._is_device:
            if start < stop:
                yield Extent(start, stop - start)
            return
        offset, end = start * self.block_size, min(stop * self.block_size, self.size_bytes)
        self._settle(offset, end)
        before = start
        while offset < end:
            try:
                data = os.lseek(self._fd, offset, os.SEEK_DATA)
                offset = os.lseek(self._fd, data, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:  # no data after here
                    return
                if error.errno != errno.EINVAL:
                    self._fail(f"looking for data from {offset}", error)
                data, offset = offset, end  # cannot tell: in doubt, in use
            first = max(before, data // self.block_size)
            before = min(stop, -(-offset // self.block_size))
            if first < before:
                yield Extent(first, before - first)

    def resize(self, size_bytes: int) -> None:
        """Truncate or extend the file, durably."""
        self._check()
        if self._is_device:
            raise UnsupportedError(f"{self._path}: a block device cannot be resized from here")
        self._settle(0, self.size_bytes)
        try:
            os.ftruncate(self._fd, size_bytes)
        except OSError as error:
            self._fail(f"resizing to {size_bytes} bytes", error)
        try:
            os.fsync(self._fd)
        except OSError as error:
            self._poison(error)
        self.size_bytes = size_bytes

    def close(self) -> None:
        """Close the file, once."""
        bulk, self._bulk = self._bulk, None
        if bulk is not None:
            bulk.close()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _is_absent(path: Path, options: VolumeOptions) -> bool:
    """Also a file without a byte is none: creating it died between making it and giving it its size."""
    return not path.exists() or (path.is_file() and not path.stat().st_size and bool(options.size_bytes))


def _create(path: Path, options: VolumeOptions) -> None:
    if options.size_bytes is None:
        raise InvalidArgumentError(f"{path}: a new volume needs a size")
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise VolumeFailedError(f"{path}: cannot be created: {error.strerror}") from error
    try:
        os.ftruncate(fd, options.size_bytes)
        os.fsync(fd)
    except OSError as error:
        path.unlink(missing_ok=True)  # it is empty
        raise VolumeFailedError(f"{path}: cannot be given {options.size_bytes} bytes: {error.strerror}") from error
    finally:
        os.close(fd)
    sync_directory(path.parent)
