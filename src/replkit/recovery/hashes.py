"""XXH3-128 digests of ranges of a volume and of single blocks, 16 bytes each (R4, R9).

Both sides of a comparison make them with these functions. Blocks that are not in use count as zeros and are not read.
"""

from __future__ import annotations

from typing import Final

from xxhash import xxh3_128_digest

from replkit.blocks.bitmap import PagedBitmap
from replkit.contracts.volume import BlockVolume
from replkit.errors import InvalidArgumentError
from replkit.snapshot.snapshot import zero_gaps

HASH_BYTES: Final = 16
STRETCH_BYTES: Final = 1 << 20
"""At least so much is read at once, however small the ranges are."""


def range_hashes(
    volume: BlockVolume, start: int, count: int, range_blocks: int, ranges: PagedBitmap | None = None
) -> bytes:
    """The digests of the ranges of ``range_blocks`` blocks from ``start`` on, ascending.

    The last may be shorter. Only those in ``ranges`` where that is given: bit ``i`` is the range that begins at
    ``start + i * range_blocks``.
    """
    if range_blocks < 1 or count < 0 or start < 0 or start + count > volume.block_count:
        raise InvalidArgumentError(f"hashes of {count} blocks from {start}, {range_blocks} a range, cannot be")
    stop = start + count
    if ranges is None:
        runs = [(start, stop)]
    else:
        check_ranges(ranges, count, range_blocks)
        runs = [(start + run.start * range_blocks, min(start + run.stop * range_blocks, stop)) for run in ranges.runs()]
    size = volume.block_size
    stretch = range_blocks * max(1, STRETCH_BYTES // (range_blocks * size))
    buffer = memoryview(bytearray(min(stretch, max(count, 1)) * size))
    digests: list[bytes] = []
    for low, high in runs:
        for first in range(low, high, stretch):
            part = _read(volume, first, min(first + stretch, high), buffer)
            step = range_blocks * size
            digests += [xxh3_128_digest(part[at : at + step]) for at in range(0, len(part), step)]
    return b"".join(digests)


def check_ranges(ranges: PagedBitmap, count: int, range_blocks: int) -> None:
    """``InvalidArgumentError`` where a map of ranges is not one of ``count`` blocks, ``range_blocks`` a range."""
    if ranges.block_count != -(-count // range_blocks):
        raise InvalidArgumentError(f"a map of {ranges.block_count} ranges for {count} blocks, {range_blocks} a range")


def block_hashes(volume: BlockVolume, start: int, blocks: PagedBitmap) -> bytes:
    """The digests of single blocks: those in ``blocks``, which is numbered from ``start``, ascending.

    What lies between two of them is read with them where both are in one stretch: a read costs more than the bytes.
    """
    size = volume.block_size
    stretch = max(1, STRETCH_BYTES // size)
    if blocks and start + blocks.block_count > volume.block_count:
        raise InvalidArgumentError(f"hashes of {blocks.block_count} blocks from {start} cannot be")
    buffer = memoryview(bytearray(min(stretch, blocks.block_count) * size))
    digests: list[bytes] = []
    for first in range(0, blocks.block_count, stretch):
        runs = list(blocks.runs(first, min(first + stretch, blocks.block_count)))
        if not runs:
            continue
        low = runs[0].start
        part = _read(volume, start + low, start + runs[-1].stop, buffer)
        for run in runs:
            digests += [
                xxh3_128_digest(part[at : at + size])
                for at in range((run.start - low) * size, (run.stop - low) * size, size)
            ]
    return b"".join(digests)


def _read(volume: BlockVolume, start: int, stop: int, buffer: memoryview) -> memoryview:
    """Blocks ``[start, stop)`` at the beginning of ``buffer``."""
    size = volume.block_size
    part = buffer[: (stop - start) * size]
    used = list(volume.in_use_between(start, stop))
    zero_gaps(start, stop, used, part, size)
    for extent in used:
        volume.read_into(extent.start, part[(extent.start - start) * size : (extent.stop - start) * size])
    return part
