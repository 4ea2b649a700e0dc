"""The contract of a block volume on an NBD export."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Self

from replkit.blocks.extent import Extent
from replkit.contracts.buffers import Buffer
from replkit.contracts.registry import VolumeOptions
from replkit.contracts.volume import BlockVolume, Capability, Write
from replkit.errors import InvalidArgumentError, NotFoundError, ReadOnlyError, UnsupportedError, VolumeFailedError
from replkit_nbd import wire as w
from replkit_nbd.connection import Request
from replkit_nbd.pool import Pool

_ZERO_STEP_BYTES = 1 << 30
_STATUS_STEP_BYTES = 1 << 30


class NbdVolume(BlockVolume):
    """Blocks of an NBD export.

    A discard is NBD_CMD_WRITE_ZEROES, which may make a hole; NBD_CMD_TRIM does not promise zeros. Where the server
    lacks it, zeros are written.
    """

    def __init__(self, url: str, pool: Pool, options: VolumeOptions) -> None:
        """Take over ``pool``."""
        info = pool.info
        self._url = url
        self._pool = pool
        self.size_bytes = info.size_bytes
        self.block_size = options.block_size
        self.read_only = options.read_only
        if info.flags & w.CAN_READ_ONLY and not options.read_only:
            raise ReadOnlyError(f"{url}: the export is read-only")
        if not info.flags & w.CAN_FLUSH and not options.read_only:
            raise UnsupportedError(f"{url}: the server cannot flush, so nothing written would be durable")
        if options.size_bytes not in {None, info.size_bytes}:
            raise InvalidArgumentError(f"{url}: has {info.size_bytes} bytes, not {options.size_bytes}")
        if options.block_size % info.minimum_block_bytes or info.max_payload_bytes < options.block_size:
            raise InvalidArgumentError(
                f"{url}: the server wants requests of {info.minimum_block_bytes} to {info.max_payload_bytes} bytes, "
                f"a block has {options.block_size}"
            )
        self._max_payload_bytes = info.max_payload_bytes // options.block_size * options.block_size
        if info.flags & w.CAN_WRITE_ZEROES:
            self.discards = Capability.NATIVE
        if info.allocation_id is not None:
            self.tells_in_use = Capability.NATIVE

    @classmethod
    def open(cls, url: str, options: VolumeOptions) -> Self:
        """Connect to the server; NotFoundError where there is none, or where it has no such export."""
        try:
            pool = Pool(w.parse_url(url))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotFoundError(f"{url}: no server listens there: {error}") from error
        except OSError as error:
            raise VolumeFailedError(f"{url}: cannot be reached: {error}") from error
        try:
            return cls(url, pool, options)
        except BaseException:
            pool.close()
            raise

    def read_into(self, start: int, buffer: Buffer) -> None:
        """Read, several requests at a time where one is not enough; what lies beyond the end is zeros."""
        self._pool.run(list(self._reads(start, memoryview(buffer).cast("B"))))

    def read_extents(self, extents: Iterable[Extent], buffer: Buffer) -> None:
        """Read all extents with requests that are on the way together."""
        view, at, requests = memoryview(buffer).cast("B"), 0, list[Request]()
        for extent in extents:
            after = at + extent.count * self.block_size
            requests.extend(self._reads(extent.start, view[at:after]))
            at = after
        self._pool.run(requests)

    def write(self, start: int, buffer: Buffer) -> None:
        """Write; what lies beyond the end is dropped."""
        self.write_extents([(start, buffer)])

    def write_extents(self, writes: Sequence[Write]) -> None:
        """Write with requests that are on the way together."""
        if self.read_only:
            raise ReadOnlyError(f"{self._url}: was opened read-only")
        requests = []
        for start, buffer in writes:
            for offset, payload in self._pieces(start, memoryview(buffer).cast("B")):
                requests.append(Request(command=w.CMD_WRITE, offset=offset, length=len(payload), payload=payload))
        self._pool.run(requests)

    def discard(self, start: int, count: int) -> None:
        """Let the server zero the blocks, with holes where it can."""
        if self.read_only:
            raise ReadOnlyError(f"{self._url}: was opened read-only")
        if self.discards is not Capability.NATIVE:
            super().discard(start, count)
            return
        offset, end = start * self.block_size, min((start + count) * self.block_size, self.size_bytes)
        steps = range(offset, end, _ZERO_STEP_BYTES)
        self._pool.run(
            [Request(command=w.CMD_WRITE_ZEROES, offset=at, length=min(_ZERO_STEP_BYTES, end - at)) for at in steps]
        )

    def flush(self) -> None:
        """Flush; it covers the writes of all connections. Its failure is final."""
        if self.read_only:
            return
        try:
            self._pool.run([Request(command=w.CMD_FLUSH)])
        except Exception as error:
            self._pool.fail(f"{self._url}: a flush failed: {error}")
            raise

    def in_use(self) -> Iterator[Extent]:
        """Yield what the server does not know to be zeros."""
        yield from self.in_use_between(0, self.block_count)

    def in_use_between(self, start: int, stop: int) -> Iterator[Extent]:
        """Ask for the range only."""
        if self._pool.info.allocation_id is None:
            if start < stop:
                yield Extent(start, stop - start)
            return
        first = last = start  # the run found so far
        for offset, end in self._allocated(start * self.block_size, min(stop * self.block_size, self.size_bytes)):
            block, after = offset // self.block_size, -(-end // self.block_size)
            if block > last:
                if last > first:
                    yield Extent(first, last - first)
                first = block
            last = max(last, after)
        if last > first:
            yield Extent(first, last - first)

    def close(self) -> None:
        """Hang up; does not flush."""
        self._pool.close()

    def _allocated(self, offset: int, end: int) -> Iterator[tuple[int, int]]:
        """Byte ranges that may hold something else than zeros, ascending."""
        while offset < end:
            request = Request(command=w.CMD_BLOCK_STATUS, offset=offset, length=min(_STATUS_STEP_BYTES, end - offset))
            self._pool.run([request])
            before = offset
            for length, state in request.extents:
                after = min(end, offset + length)
                if not state & w.STATE_ZERO and after > offset:
                    yield offset, after
                offset = after
            if offset == before:
                raise VolumeFailedError(f"{self._url}: the server does not tell what is allocated at {offset}")

    def _reads(self, start: int, view: memoryview) -> Iterator[Request]:
        for offset, piece in self._pieces(start, view):
            yield Request(command=w.CMD_READ, offset=offset, length=len(piece), into=piece)
        beyond = start * self.block_size + len(view) - self.size_bytes
        if beyond > 0:
            view[len(view) - beyond :] = bytes(beyond)

    def _pieces(self, start: int, view: memoryview) -> Iterator[tuple[int, memoryview]]:
        """What of ``view`` lies within the volume, in pieces that one request may carry, with their offsets."""
        first = start * self.block_size
        inside = min(len(view), self.size_bytes - first)
        for at in range(0, inside, self._max_payload_bytes):
            yield first + at, view[at : min(inside, at + self._max_payload_bytes)]
