"""Hashes of a volume compared with those of a snapshot of the peer, a bounded piece at a time (FIG. 28, R4)."""

from __future__ import annotations

from typing import Final

from replkit.blocks.bitmap import PagedBitmap
from replkit.blocks.extent import Extent
from replkit.contracts.volume import BlockVolume
from replkit.errors import ProtocolError
from replkit.recovery.peer import Peer, Prepared
from replkit.recovery.verify import HASH_BYTES, block_hashes, range_hashes

RANGE_BYTES: Final = 64 << 10
"""Of what hashes are compared first; in a range that differs the blocks are compared one by one."""
COMPARE_BYTES: Final = 64 << 20
"""How much is compared in one step, ..."""
COMPARE_BLOCKS: Final = 1 << 15
"""... and how many blocks at most."""


class Comparison:
    """What differs so far.

    Args:
        prepared: the snapshot of the peer; blocks that it does not have count as different.
        block_count: blocks of the volume here.
        blocks: which are compared; all where it is ``None``.
    """

    def __init__(self, prepared: Prepared, block_count: int, blocks: PagedBitmap | None = None) -> None:
        self.snapshot, self.stamp = prepared.snapshot, prepared.stamp
        self.blocks = blocks
        self.differs = PagedBitmap(block_count)
        self._stop = min(block_count, prepared.block_count)
        self.differs.set_run(self._stop, block_count - self._stop)
        self.next_block = 0

    def advance(self, volume: BlockVolume, peer: Peer) -> bool:
        """Compare the next part of the volume; false when nothing is left."""
        run = self._next_run()
        if run is None:
            return False
        range_blocks = max(1, RANGE_BYTES // volume.block_size)
        most = min(COMPARE_BYTES // volume.block_size, COMPARE_BLOCKS)
        start, count = run.start, min(run.count, max(range_blocks, most))
        suspects = PagedBitmap(count)
        mine = range_hashes(volume, start, count, range_blocks)
        for place in _unequal(mine, peer.hashes(self.snapshot, start, count, range_blocks)):
            first = place * range_blocks
            suspects.set_run(first, min(range_blocks, count - first))
        if suspects:
            blocks = [block for extent in suspects.runs() for block in range(extent.start, extent.stop)]
            mine = block_hashes(volume, start, suspects)
            for place in _unequal(mine, peer.block_hashes(self.snapshot, start, suspects)):
                self.differs.set_run(start + blocks[place], 1)
        self.next_block = start + count
        return True

    def _next_run(self) -> Extent | None:
        if self.next_block >= self._stop:
            return None
        if self.blocks is None:
            return Extent(self.next_block, self._stop - self.next_block)
        return next(iter(self.blocks.runs(self.next_block, self._stop)), None)


def _unequal(mine: bytes, theirs: bytes) -> list[int]:
    """Places of the digests that differ."""
    if len(mine) != len(theirs):
        raise ProtocolError(f"{len(theirs)} bytes of hashes instead of {len(mine)}")
    places = range(0, len(mine), HASH_BYTES)
    return [at // HASH_BYTES for at in places if mine[at : at + HASH_BYTES] != theirs[at : at + HASH_BYTES]]
