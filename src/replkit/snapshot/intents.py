"""The write-intent log: a durable map of the regions that may have been written (S5, invariant 2)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from bitarray import bitarray
from xxhash import xxh3_64

from replkit.blocks.extent import Extent, normalise
from replkit.contracts.runtime import Runtime
from replkit.contracts.savevolume import SaveVolume
from replkit.errors import CorruptRecordError
from replkit.snapshot.owned import OwnedCell

INTENTS_CELL: Final = "intents"
MAX_REGIONS: Final = 65_536
MIN_REGION_BYTES: Final = 1 << 20
_AHEAD_REGIONS: Final = 8
_LOOK_AT_REGIONS: Final = 1024
_MAGIC: Final = b"RKIN"
_VERSION: Final = 1
_HEAD = struct.Struct("<4sHHQQ")
"""Magic, version, log2 of blocks a region, block count of the volume, XXH3-64 of the map; the map follows."""


class IntentLog:
    """Which regions of a volume may hold blocks that a crash leaves in doubt.

    A region is a power of two of blocks, at least 1 MiB, so that a volume has at most 65,536. ``bits`` has the
    regions whose intent is durable and stays so while a writer is inside the gate; ``shift`` turns a block into a
    region. Setting is durable before ``ensure`` returns; callers that come together share one swap of the cell.
    Clearing goes in three steps (``take_idle``, then the caller makes durable what the intents stood for, then
    ``drop``), so a crash in between leaves too many intents, never too few.
    """

    def __init__(
        self, save: SaveVolume, runtime: Runtime, *, block_count: int, block_size: int, cell: str = INTENTS_CELL
    ) -> None:
        self._save = save
        self._cell = OwnedCell(save, cell)
        self._changed = runtime.condition()
        self._is_swapping = False
        self.block_count = block_count
        self.shift = region_shift(block_count, block_size)
        self.bits = bitarray(self.region_count, endian="little")
        self._kept = self.bits.copy()
        """Regions out of ``bits`` whose intents must stay durable until ``drop``."""
        self._wanted = self.bits.copy()
        if self._cell.value:
            for extent in _decode(self._cell.value, cell):
                self._set_regions(self.bits, extent)

    @property
    def region_count(self) -> int:
        """Number of regions of the volume."""
        return -(-self.block_count >> self.shift) if self.block_count else 0

    def covers(self, start: int, count: int) -> bool:
        """Whether every region of the blocks has a durable intent; true for no block."""
        return count <= 0 or self.bits.find(0, start >> self.shift, ((start + count - 1) >> self.shift) + 1) < 0

    def ensure(self, extents: Iterable[tuple[int, int]]) -> None:
        """Return when the intents of all blocks of ``extents`` are durable. Called inside the gate."""
        missing = [extent for extent in extents if not self.covers(*extent)]
        if missing:
            self._make_durable(missing)

    def _make_durable(self, extents: Sequence[tuple[int, int]]) -> None:
        while not all(self.covers(*extent) for extent in extents):
            with self._changed:
                for start, count in extents:
                    self._set_regions(self._wanted, Extent(start, count))
                    self._look_ahead(start, count)
            if self._lead():
                self._swap_wanted()

    def _look_ahead(self, start: int, count: int) -> None:
        """A writer that goes through the volume in order has the next regions set in the same swap."""
        first, after = start >> self.shift, ((start + count - 1) >> self.shift) + 1
        if first and self.bits[first - 1]:
            self._wanted[after : after + _AHEAD_REGIONS] = 1

    def _lead(self) -> bool:
        """Become the one that swaps; False after having waited for another one's swap."""
        with self._changed:
            if self._is_swapping:
                self._changed.wait()
                return False
            self._is_swapping = True
            return True

    def _swap_wanted(self) -> None:
        with self._changed:
            wanted, self._wanted = self._wanted, bitarray(self.region_count, endian="little")
        try:
            self._swap(self.bits | self._kept | wanted)
        except BaseException:
            self._follow(bitarray(len(wanted), endian="little"))
            raise
        self._follow(wanted)

    def _swap(self, regions: bitarray) -> None:
        self._cell.swap_or_fence(_encode(regions, self.shift, self.block_count))

    def _follow(self, durable: bitarray) -> None:
        with self._changed:
            self.bits |= durable
            self._is_swapping = False
            self._changed.notify_all()

    def idle_candidates(self, busy: Callable[[Extent], bool]) -> list[int]:
        """Some regions with intents that are not ``busy``; a cheap first look, outside the gate."""
        found: list[int] = []
        for region in (self.bits | self._kept).search(1):
            if not busy(self._extent(region)):
                found.append(region)
                if len(found) == _LOOK_AT_REGIONS:
                    break
        return found

    def take_idle(self, candidates: Iterable[int], busy: Callable[[Extent], bool]) -> list[int]:
        """Withdraw candidates that are still not busy: the next writer there must ensure again. Gate held alone."""
        taken = [region for region in candidates if not busy(self._extent(region))]
        with self._changed:
            for region in taken:
                self._kept[region] = 1
                self.bits[region] = 0
        return taken

    def put_back(self, taken: Iterable[int]) -> None:
        """Undo ``take_idle``, when what the intents stood for could not be made durable elsewhere."""
        with self._changed:
            for region in taken:
                self.bits[region] = 1
                self._kept[region] = 0

    def drop(self, taken: Sequence[int]) -> None:
        """Clear withdrawn intents durably: what they stood for is durable elsewhere."""
        if not taken:
            return
        while not self._lead():
            pass
        try:
            regions = self._kept.copy()
            for region in taken:
                regions[region] = 0
            with self._changed:
                wanted, self._wanted = self._wanted, bitarray(self.region_count, endian="little")
            self._swap(self.bits | regions | wanted)
            self._kept &= regions
        except BaseException:
            # Whether they are durable is open now: still kept by the next swap, but no writer may rely on them.
            self._follow(bitarray(self.region_count, endian="little"))
            raise
        self._follow(wanted)

    def dirty_extents(self) -> list[Extent]:
        """All blocks whose region has a durable intent, ascending."""
        return normalise(self._extent(region) for region in (self.bits | self._kept).search(1))

    def resize(self, block_count: int, dirty: Sequence[Extent] = ()) -> None:
        """Follow a resize of the volume, durably: same blocks and ``dirty``, perhaps other regions.

        Gate held alone, and nobody between ``take_idle`` and ``drop``.
        """
        extents = [*self.dirty_extents(), *dirty]
        while -(-block_count >> self.shift) > MAX_REGIONS:
            self.shift += 1
        self.block_count = block_count
        self.bits = bitarray(self.region_count, endian="little")
        self._kept, self._wanted = self.bits.copy(), self.bits.copy()
        for start, count in extents:
            if start < block_count:
                self._set_regions(self.bits, Extent(start, min(count, block_count - start)))
        self._swap(self.bits)

    def _extent(self, region: int) -> Extent:
        start = region << self.shift
        return Extent(start, min(1 << self.shift, self.block_count - start))

    def _set_regions(self, regions: bitarray, extent: Extent) -> None:
        if extent.start < self.block_count and extent.count > 0:
            regions[extent.start >> self.shift : ((extent.stop - 1) >> self.shift) + 1] = 1


def region_shift(block_count: int, block_size: int) -> int:
    """Log2 of the blocks of a region: at least 1 MiB, at most 65,536 regions a volume."""
    shift = max(0, (MIN_REGION_BYTES // block_size).bit_length() - 1)
    while -(-block_count >> shift) > MAX_REGIONS:
        shift += 1
    return shift


def _encode(regions: bitarray, shift: int, block_count: int) -> bytes:
    plain = regions.tobytes().rstrip(b"\0")
    return _HEAD.pack(_MAGIC, _VERSION, shift, block_count, xxh3_64(plain).intdigest()) + plain


def _decode(value: bytes, cell: str) -> list[Extent]:
    if len(value) < _HEAD.size:
        raise CorruptRecordError(f"cell {cell}: {len(value)} bytes are too few for an intent map")
    magic, version, shift, block_count, checksum = _HEAD.unpack_from(value)
    plain = value[_HEAD.size :]
    if magic != _MAGIC or version != _VERSION or shift > 40 or len(plain) > MAX_REGIONS // 8:
        raise CorruptRecordError(f"cell {cell}: no intent map of version {_VERSION}, it begins with {magic!r}")
    if xxh3_64(plain).intdigest() != checksum:
        raise CorruptRecordError(f"cell {cell}: checksum of the intent map is wrong")
    regions = bitarray(endian="little")
    regions.frombytes(plain)
    return normalise(
        Extent(region << shift, min(1 << shift, block_count - (region << shift)))
        for region in regions.search(1)
        if region << shift < block_count
    )
