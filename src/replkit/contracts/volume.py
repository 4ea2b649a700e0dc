"""The contract of a block volume: anything that can be read, and perhaps written, in blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from types import TracebackType
from typing import Self

from replkit.blocks.extent import Extent
from replkit.contracts.buffers import Buffer
from replkit.errors import UnsupportedError

Write = tuple[int, Buffer]
"""One write: the first block, and a buffer of a whole number of blocks."""


class Capability(Enum):
    """How a backend does an optional thing: not at all, by other means, or by itself."""

    NONE = "none"
    EMULATED = "emulated"
    NATIVE = "native"


class BlockVolume(ABC):
    """A run of ``block_count`` blocks of ``block_size`` bytes; everything that is read or written is one.

    Calls come from several threads at once; calls on disjoint blocks must not disturb each other, and the order of
    overlapping calls that run at the same time is open. Buffers always hold whole blocks: where ``size_bytes`` is
    not a multiple of ``block_size``, the bytes of the last block beyond the end read as zeros and are dropped when
    written. A block never written, or discarded, reads as zeros.

    Errors: ``VolumeFailedError`` for I/O errors, ``OutOfSpaceError`` when the store under it is full,
    ``ReadOnlyError`` where ``read_only``. After a failed ``flush`` every later write and flush fails until the
    volume is opened again (invariant 1). Arguments are checked by the guard that ``Registry.open_volume`` puts
    around a backend, so an author need not check them.
    """

    block_size: int
    """Bytes of a block, a power of two of at least 512."""
    size_bytes: int
    """Size of the volume in bytes; its last block may be partial."""
    read_only: bool = False
    discards: Capability = Capability.EMULATED
    """NATIVE gives space back on discard; EMULATED writes zeros."""
    tells_in_use: Capability = Capability.NONE
    """NATIVE: ``in_use`` knows which blocks hold data; NONE: it answers with the whole volume."""
    resizes: Capability = Capability.NONE

    @property
    def block_count(self) -> int:
        """Number of blocks, the partial last one included."""
        return -(-self.size_bytes // self.block_size)

    @abstractmethod
    def read_into(self, start: int, buffer: Buffer) -> None:
        """Fill ``buffer`` (writable, whole blocks) with the blocks from ``start``."""

    @abstractmethod
    def write(self, start: int, buffer: Buffer) -> None:
        """Write the whole blocks of ``buffer`` from block ``start``; durable after the next ``flush``."""

    @abstractmethod
    def flush(self) -> None:
        """Return when all writes and discards completed before the call are durable."""

    def discard(self, start: int, count: int) -> None:
        """Make ``count`` blocks from ``start`` read as zeros; the default writes zeros."""
        step = max(1, (1 << 20) // self.block_size)
        zeros = bytes(min(count, step) * self.block_size)
        for first in range(start, start + count, step):
            blocks = min(step, start + count - first)
            self.write(first, memoryview(zeros)[: blocks * self.block_size])

    def in_use(self) -> Iterator[Extent]:
        """Yield, in ascending order, extents that cover every block that may hold data; in doubt, in use."""
        if self.block_count:
            yield Extent(0, self.block_count)

    def in_use_between(self, start: int, stop: int) -> Iterator[Extent]:
        """Yield what ``in_use`` says of the blocks ``[start, stop)``; the default looks through all of it."""
        for extent in self.in_use():
            if extent.start >= stop:
                return
            first, last = max(start, extent.start), min(stop, extent.stop)
            if last > first:
                yield Extent(first, last - first)

    def read_extents(self, extents: Iterable[Extent], buffer: Buffer) -> None:
        """Fill ``buffer`` with the blocks of ``extents`` one after another; the default loops over ``read_into``."""
        view = memoryview(buffer).cast("B")
        offset = 0
        for extent in extents:
            size = extent.count * self.block_size
            self.read_into(extent.start, view[offset : offset + size])
            offset += size

    def write_extents(self, writes: Sequence[Write]) -> None:
        """Carry out all ``writes``, which do not overlap; the default loops over ``write``."""
        for start, buffer in writes:
            self.write(start, buffer)

    def resize(self, size_bytes: int) -> None:
        """Change the size; blocks that are new read as zeros."""
        raise UnsupportedError(f"{type(self).__name__} cannot be resized to {size_bytes} bytes")

    def refresh(self) -> None:  # noqa: B027 - most see it at once
        """At a reader beside a writer in another process: see all that was flushed before the call.

        A backend whose reader stays at the state that it met, as one in a bucket does, is opened anew instead; it is
        known by the ``requests`` that it counts.
        """

    @property
    def requests(self) -> Mapping[str, int]:
        """Requests and bytes by kind since it was opened, where its store is paid by them; else empty."""
        return {}

    def close(self) -> None:  # noqa: B027 - nothing to close is a fine default
        """Give back what the volume holds; a closed volume is not used again. Does not flush."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
