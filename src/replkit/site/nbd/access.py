"""Byte ranges of a client, whatever their alignment, as calls on the whole blocks of a volume.

Ranges are checked by the caller. A range that ends within a block is read, changed and written with every other writer
of the volume kept out; the write itself is one call, so a cut has all of it or none.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

from replkit.contracts.volume import BlockVolume, Capability
from replkit.errors import (
    FencedError,
    InvalidArgumentError,
    OutOfSpaceError,
    ReadOnlyError,
    SaveVolumeFullError,
    UnsupportedError,
    WrongRoleError,
)
from replkit.site.nbd import protocol as p
from replkit.site.nbd.exports import WriterLocks

_ZEROS = memoryview(bytes(1 << 20))
_ERRNO_OF: tuple[tuple[tuple[type[Exception], ...], int], ...] = (
    ((OutOfSpaceError, SaveVolumeFullError), p.ENOSPC),
    ((ReadOnlyError, WrongRoleError, FencedError), p.EPERM),
    ((InvalidArgumentError,), p.EINVAL),
    ((UnsupportedError,), p.ENOTSUP),
)


def errno_of(error: Exception) -> int:
    """The NBD error number that tells a client as much of ``error`` as it can understand."""
    for kinds, number in _ERRNO_OF:
        if isinstance(error, kinds):
            return number
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return p.ENOSPC
    return p.EIO


class ByteAccess:
    """One connection's access to a volume by bytes."""

    def __init__(self, volume: BlockVolume, writers: WriterLocks) -> None:
        self.volume = volume
        self.block_size = volume.block_size
        self.shift = volume.block_size.bit_length() - 1
        self.mask = volume.block_size - 1
        self.shared = writers.join()
        """Held during a write of whole blocks."""
        self._writers = writers
        self._run_alone: Callable[[Callable[[], None]], None] = getattr(volume, "run_alone", self._lock_others_out)

    def close(self) -> None:
        """Leave the writers of the volume; the volume stays open."""
        self._writers.leave(self.shared)

    def read(self, offset: int, view: memoryview) -> None:
        """Fill ``view`` with the bytes from ``offset``."""
        stop = offset + len(view)
        if not (offset | stop) & self.mask:
            self.volume.read_into(offset >> self.shift, view)
            return
        first = offset >> self.shift
        bounce = bytearray((self._blocks_to(stop) - first) << self.shift)
        self.volume.read_into(first, bounce)
        skipped = offset & self.mask
        view[:] = memoryview(bounce)[skipped : skipped + len(view)]

    def write(self, offset: int, data: memoryview) -> None:
        """Write the bytes of ``data`` from ``offset``."""
        stop = offset + len(data)
        if not (offset | stop) & self.mask:
            with self.shared:
                self.volume.write(offset >> self.shift, data)
        elif not offset & self.mask and stop == self.volume.size_bytes:
            padded = bytearray(self._blocks_to(stop) - (offset >> self.shift) << self.shift)
            padded[: len(data)] = data
            with self.shared:  # what lies beyond the end of the volume is dropped: nothing has to be kept
                self.volume.write(offset >> self.shift, padded)
        else:
            self._run_alone(lambda: self._read_modify_write(offset, data))

    def _lock_others_out(self, work: Callable[[], None]) -> None:
        with self._writers.exclusive():
            work()

    def _read_modify_write(self, offset: int, data: memoryview) -> None:
        first, last = offset >> self.shift, self._blocks_to(offset + len(data)) - 1
        blocks = bytearray((last - first + 1) << self.shift)
        view = memoryview(blocks)
        self.volume.read_into(first, view[: self.block_size])
        if last > first:
            self.volume.read_into(last, view[-self.block_size :])
        skipped = offset & self.mask
        view[skipped : skipped + len(data)] = data
        self.volume.write(first, view)

    def trim(self, offset: int, length: int) -> None:
        """Discard the whole blocks of the range; the parts of blocks at its ends keep their data, as a hint may."""
        first, stop = self._whole_blocks(offset, offset + length)
        if stop > first:
            with self.shared:
                self.volume.discard(first, stop - first)

    def zero(self, offset: int, length: int, *, keep_space: bool) -> None:
        """Make the range read as zeros; with ``keep_space`` by writing them, else by discarding whole blocks."""
        end = offset + length
        first, stop = self._whole_blocks(offset, end)
        if stop <= first:
            self._write_zeros(offset, end)
            return
        self._write_zeros(offset, first << self.shift)
        if keep_space:
            self._write_zeros(first << self.shift, min(end, stop << self.shift))
        else:
            with self.shared:
                self.volume.discard(first, stop - first)
        self._write_zeros(stop << self.shift, end)

    def _write_zeros(self, offset: int, end: int) -> None:
        while offset < end:
            # Pieces end on a block boundary, so that only the ends of the whole range are read first.
            stop = min(end, (offset + len(_ZEROS)) & ~self.mask)
            self.write(offset, _ZEROS[: stop - offset])
            offset = stop

    def cache(self, offset: int, length: int) -> None:
        """Read the range and forget it, so that what lies beneath keeps it near."""
        first, stop = offset >> self.shift, self._blocks_to(offset + length)
        step = max(1, len(_ZEROS) >> self.shift)
        bounce = memoryview(bytearray(step << self.shift))
        for start in range(first, stop, step):
            self.volume.read_into(start, bounce[: min(step, stop - start) << self.shift])

    def status(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield ``(length_bytes, state)`` from ``offset`` on; blocks not in use are holes that read as zeros."""
        end = offset + length
        at = offset
        for extent in self.volume.in_use_between(offset >> self.shift, self._blocks_to(end)):
            used_from = max(offset, extent.start << self.shift)
            if used_from > at:
                yield used_from - at, p.STATE_HOLE | p.STATE_ZERO
            at = min(end, extent.stop << self.shift)
            yield at - used_from, 0
        if at < end:
            yield end - at, p.STATE_HOLE | p.STATE_ZERO

    @property
    def zeroes_fast(self) -> bool:
        """Whether zeroing is quicker than writing zeros."""
        return self.volume.discards is Capability.NATIVE

    def _blocks_to(self, end: int) -> int:
        """The number of blocks that cover the bytes before ``end``."""
        return (end + self.mask) >> self.shift

    def _whole_blocks(self, offset: int, end: int) -> tuple[int, int]:
        """First and stop of the blocks that lie wholly in the range; a partial last block of the volume is whole."""
        stop = self._blocks_to(end) if end == self.volume.size_bytes else end >> self.shift
        return self._blocks_to(offset), stop
