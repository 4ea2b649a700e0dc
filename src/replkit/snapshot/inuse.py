"""The in-use map: which blocks hold data, written and not discarded (the source's meta bit map, FIG. 41-46; P2, P3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Self

import msgspec

from replkit.blocks.bitmap import PagedBitmap
from replkit.blocks.extent import Extent
from replkit.contracts.savevolume import SaveVolume
from replkit.errors import AlreadyExistsError, CorruptRecordError
from replkit.snapshot.owned import OwnedCell
from replkit.snapshot.records import IN_USE


class InUseMap:
    """A set of blocks kept at ``1 << shift`` blocks a bit: a bit is set if any of its blocks is in use (FIG. 46).

    In doubt a block is in use: ``set`` takes all bits that the blocks touch, ``clear`` only those they fill.
    """

    __slots__ = ("bits", "block_count", "shift")

    def __init__(self, block_count: int, *, shift: int = 0, bits: PagedBitmap | None = None) -> None:
        self.block_count = block_count
        self.shift = shift
        self.bits = PagedBitmap(-(-block_count >> shift)) if bits is None else bits

    def set(self, start: int, count: int) -> None:
        """Put the blocks in use."""
        first = start >> self.shift
        self.bits.set_run(first, -(-(start + count) >> self.shift) - first)

    def clear(self, start: int, count: int) -> None:
        """Take the blocks out of use, as far as they fill bits. The gate is held alone."""
        first = -(-start >> self.shift)
        stop = start + count
        after = self.bits.block_count if stop == self.block_count else stop >> self.shift
        if first < after:
            self.bits.clear_run(first, after - first)

    def runs(self, start: int = 0, stop: int | None = None) -> Iterator[Extent]:
        """Yield what of ``[start, stop)`` may hold data, ascending."""
        stop = self.block_count if stop is None else min(stop, self.block_count)
        for first, count in self.bits.runs(start >> self.shift, -(-stop >> self.shift)):
            low, high = max(start, first << self.shift), min(stop, (first + count) << self.shift)
            if low < high:
                yield Extent(low, high - low)

    def blocks(self) -> PagedBitmap:
        """The same as a bit map of blocks, which may be changed without changing this one."""
        if not self.shift:
            return self.bits.copy()
        blocks = PagedBitmap(self.block_count)
        for start, count in self.runs():
            blocks.set_run(start, count)
        return blocks

    def copy(self) -> Self:
        """The map as it is now, cheaply. The gate is held alone."""
        return type(self)(self.block_count, shift=self.shift, bits=self.bits.copy())

    def resize(self, block_count: int) -> None:
        """Follow a resize: blocks that are new are not in use. The gate is held alone."""
        self.bits.resize(-(-block_count >> self.shift))
        self.block_count = block_count


def put_map(save: SaveVolume, key: str, in_use: InUseMap) -> None:
    """Put a map as a record: the byte of its shift, then the bit map's own record. The caller syncs."""
    save.put(key, [bytes((in_use.shift,)), in_use.bits.to_bytes()])


def get_map(save: SaveVolume, key: str, block_count: int) -> InUseMap:
    """The map of a record made by ``put_map``."""
    data = save.get(key)
    if not len(data) or data[0] > 40:
        raise CorruptRecordError(f"{key}: no in-use map")
    shift = data[0]
    return InUseMap(block_count, shift=shift, bits=PagedBitmap.from_bytes(-(-block_count >> shift), data[1:]))


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Cell ``in_use``: the newest durable map, and whether nothing was written since (the volume was closed)."""

    key: str
    block_count: int
    clean: bool


class InUseCheckpoints:
    """Keeps the in-use map of a volume: a record, and the cell that names the newest one.

    The map after a crash is the record and every region with an intent (invariant 4).
    """

    def __init__(self, save: SaveVolume, *, shift: int, cell: str = "in_use") -> None:
        self._save = save
        self._shift = shift
        self._cell = OwnedCell(save, cell)
        value = self._cell.value
        try:
            self._last = msgspec.json.decode(value, type=Checkpoint) if value else None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CorruptRecordError(f"cell {cell} names no in-use map: {error}") from error
        # A crash leaves records that the cell does not name; their numbers are not used again.
        keys = save.list(f"{IN_USE}live-")
        self._number = max((int(key.rpartition("-")[2], 16) for key in keys), default=0)
        save.delete([key for key in keys if key != self.live_key])

    def open(self, block_count: int, seed: Iterable[Extent], intents: Iterable[Extent]) -> InUseMap:
        """The map as it must be believed now; ``seed`` is asked once in the life of the volume."""
        last = self._last
        if last is None:
            in_use = InUseMap(block_count, shift=self._shift)
            for start, count in seed:
                in_use.set(start, count)
            return in_use
        in_use = get_map(self._save, last.key, last.block_count)
        if in_use.block_count != block_count:
            in_use.resize(block_count)
        if not last.clean:
            for start, count in intents:
                in_use.set(start, count)
        return in_use

    @property
    def live_key(self) -> str:
        """Key of the newest record; empty before the first."""
        return self._last.key if self._last else ""

    def store(self, in_use: InUseMap, *, clean: bool = False) -> None:
        """Make a map durable, taken before a flush of the volume that has returned since (invariant 4)."""
        old, key = self._last, self._put(in_use)
        self._save.sync()
        self._swap(Checkpoint(key=key, block_count=in_use.block_count, clean=clean))
        if old is not None:
            self._save.delete([old.key])

    def _put(self, in_use: InUseMap) -> str:
        """A new record, under a number that no producer from before has taken since this one opened."""
        while True:
            self._number += 1
            key = f"{IN_USE}live-{self._number:016x}"
            try:
                put_map(self._save, key, in_use)
            except AlreadyExistsError:
                continue
            return key

    def begin_writing(self) -> None:
        """Durably take back that the volume was closed, before the first write."""
        if self._last is not None and self._last.clean:
            self._swap(msgspec.structs.replace(self._last, clean=False))

    def _swap(self, checkpoint: Checkpoint) -> None:
        self._cell.swap_or_fence(msgspec.json.encode(checkpoint))
        self._last = checkpoint
