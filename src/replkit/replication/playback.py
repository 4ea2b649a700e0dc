"""One playback pass: every block that its sets carry is written once, at its newest value (C2)."""

from __future__ import annotations

from collections.abc import Iterator

from replkit.blocks.bitmap import PagedBitmap
from replkit.blocks.extent import Extent
from replkit.contracts.runtime import Runtime
from replkit.contracts.volume import BlockVolume, Write
from replkit.deltaset.chunk import Chunk
from replkit.deltaset.pieces import Kind
from replkit.replication.set_reader import SetReader

_ZEROS = bytes(1 << 20)


class PlaybackPass:
    """Sets ``numbers``, ascending, on their way into a volume; newest set first, so that no block is written twice."""

    def __init__(self, reader: SetReader, volume: BlockVolume, numbers: list[int], runtime: Runtime) -> None:
        self.last = numbers[-1]
        self.set_count = len(numbers)
        self.blocks = 0
        self.started_s = runtime.monotonic()
        self.is_announced = self.is_expected = False
        self.numbers = numbers
        self._volume = volume
        header = reader.header(numbers[-1])
        self.volume_size_bytes = header.volume_size_bytes
        """Of every set of the pass: a pass does not go past a resize."""
        self._written = PagedBitmap(header.volume_block_count) if len(numbers) > 1 else None
        self._chunks = self._walk(reader, numbers)

    def advance(self, chunks: int) -> bool:
        """Write so many chunks; False when all are written (not flushed)."""
        for _ in range(chunks):
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self.blocks += write_chunk(self._volume, chunk, self._written)
        return True

    @staticmethod
    def _walk(reader: SetReader, numbers: list[int]) -> Iterator[Chunk]:
        for number in reversed(numbers):
            for index in range(reader.header(number).chunk_count):
                yield reader.chunk(number, index)


def write_chunk(volume: BlockVolume, chunk: Chunk, written: PagedBitmap | None = None) -> int:
    """Write the blocks of a chunk that are not in ``written`` yet, add them to it, and return how many they were."""
    block_size = chunk.head.block_size
    if written is None and all(kind is Kind.DATA for _, _, kind in chunk.pieces):
        return _write_data(volume, chunk, block_size)
    writes: list[Write] = []
    offset = blocks = 0
    for piece in chunk.pieces:
        extents = [Extent(piece.start, piece.count)]
        if written is not None:
            extents = list(written.gaps(piece.start, piece.start + piece.count))
            written.set_run(piece.start, piece.count)
        for extent in extents:
            blocks += extent.count
            if piece.kind is Kind.DATA:
                at = offset + (extent.start - piece.start) * block_size
                writes.append((extent.start, chunk.data[at : at + extent.count * block_size]))
            elif piece.kind is Kind.ZERO:
                writes.extend(_zero_writes(extent, block_size))
            else:
                volume.discard(extent.start, extent.count)
        if piece.kind is Kind.DATA:
            offset += piece.count * block_size
    if writes:
        volume.write_extents(writes)
    return blocks


def _write_data(volume: BlockVolume, chunk: Chunk, block_size: int) -> int:
    """The usual chunk: nothing but data, and nothing newer of it was written."""
    writes: list[Write] = []
    data, offset = chunk.data, 0
    for start, count, _kind in chunk.pieces:
        after = offset + count * block_size
        writes.append((start, data[offset:after]))
        offset = after
    volume.write_extents(writes)
    return offset // block_size


def _zero_writes(extent: Extent, block_size: int) -> Iterator[Write]:
    step = max(1, len(_ZEROS) // block_size)
    zeros = memoryview(_ZEROS if block_size <= len(_ZEROS) else bytes(block_size))
    for start in range(extent.start, extent.stop, step):
        yield start, zeros[: min(step, extent.stop - start) * block_size]
