"""Bringing a past boundary, a snapshot or a view onto another volume: ``restore --at … --to URL`` (X2).

The target begins a lineage of its own. Nothing of the source changes, so a restore that broke off is begun again; what
it wrote already is written again.
"""

from __future__ import annotations

from collections.abc import Iterator

from replkit.blocks.extent import Extent, split, subtract, total
from replkit.contracts.volume import BlockVolume
from replkit.errors import InvalidArgumentError

STEP_BYTES = 4 << 20
FLUSH_BYTES = 256 << 20


class Restoration:
    """Copies what is in use of ``source`` to ``target`` and makes the rest of the target read as zeros.

    Args:
        source: what is restored; it must not change meanwhile.
        target: at least as large, with blocks of the same size; what it held is lost.
    """

    def __init__(self, source: BlockVolume, target: BlockVolume) -> None:
        if target.block_size != source.block_size or target.size_bytes < source.size_bytes:
            raise InvalidArgumentError(
                f"{source.size_bytes} bytes in blocks of {source.block_size} do not fit a target of "
                f"{target.size_bytes} bytes in blocks of {target.block_size}",
                hint="name a new file, or one of the same size",
            )
        self._source, self._target = source, target
        used = list(source.in_use())
        self.total_blocks = total(used)
        self.done_blocks = 0
        self._unflushed_bytes = 0
        blocks = max(1, STEP_BYTES // source.block_size)
        self._unused: Iterator[Extent] = split(subtract(list(target.in_use()), used), 1 << 20)
        self._used: Iterator[Extent] = split(used, blocks)
        self._buffer = memoryview(bytearray(blocks * source.block_size))

    def step(self) -> bool:
        """Make a stretch unused, or copy one; whether there is more. At the end the target is flushed."""
        gap = next(self._unused, None)
        if gap is not None:
            self._target.discard(gap.start, gap.count)
            return True
        extent = next(self._used, None)
        if extent is None:
            self._target.flush()
            return False
        part = self._buffer[: extent.count * self._source.block_size]
        self._source.read_into(extent.start, part)
        self._target.write(extent.start, part)
        self.done_blocks += extent.count
        self._unflushed_bytes += len(part)
        if self._unflushed_bytes >= FLUSH_BYTES:  # so that the flush at the end is short
            self._target.flush()
            self._unflushed_bytes = 0
        return True
