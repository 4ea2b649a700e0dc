"""Data objects of a bucket volume: building them from written blocks, and reading blocks out of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

from replkit.blocks.extent import Extent
from replkit.objectstore.cache import LocalCache, MemoryCache
from replkit.objectstore.map_pages import SLOT_BITS
from replkit.objectstore.volume_format import (
    MAX_SLOTS,
    DataRow,
    Run,
    decode_index,
    encode_index,
    pack_blocks,
    stride,
    unpack_blocks,
)
from replkit.objectstore.volume_objects import Objects

_GAP_BYTES = 64 << 10
_RANGE_BYTES = 1 << 20  # larger ones are fetched in parts, at the same time
_CACHED_RUN_BYTES = 1 << 20
_MAX_INDEX_RUNS = 1 << 16


class Piece(NamedTuple):
    """A run of blocks to be read from consecutive slots of one data object into ``view``."""

    place: int
    block: int
    view: memoryview


class NewObject(NamedTuple):
    """A data object that was put: its row, and what it maps: (first block, count, place), place ``None`` = discard."""

    row: DataRow
    runs: list[tuple[int, int, int | None]]


class DataWriter:
    """Puts written blocks as data objects; nothing is visible before a root names them."""

    def __init__(self, objects: Objects, cache: MemoryCache) -> None:
        self._objects = objects
        self._cache = cache

    def put(self, blocks: Mapping[int, bytes], gone: Sequence[Extent] = (), *, keeps: bool = True) -> list[NewObject]:
        """Put all ``blocks``, ascending, and tell the discards ``gone`` in the indexes; durable on return.

        ``keeps`` says whether the blocks go into the cache, as what was just written does.
        """
        order = sorted(blocks)
        discards = [(start, count) for start, count in gone]
        room = self._objects.object_blocks
        made: list[tuple[NewObject, bytes]] = []
        for first in range(0, max(len(order), 1), room):
            part = order[first : first + room]
            own = discards[: max(0, _MAX_INDEX_RUNS - len(part))]
            discards = discards[len(own) :]
            if part or own:
                self._lay_out(part, own, made)
        while discards:
            own, discards = discards[:_MAX_INDEX_RUNS], discards[_MAX_INDEX_RUNS:]
            self._lay_out([], own, made)
        # The bytes of an object are made when it is put, so that only those in flight take memory twice.
        self._objects.run([partial(self._put, new, index, blocks, keeps) for new, index in made])
        return [new for new, _ in made]

    def _lay_out(self, part: list[int], discards: list[tuple[int, int]], made: list[tuple[NewObject, bytes]]) -> None:
        """Number, runs and index of one object."""
        number = self._objects.allocate()
        data_runs = list(_runs(part))
        runs: list[Run] = sorted([*data_runs, *((start, -count) for start, count in discards)])
        index = encode_index(number, self._objects.root.block_size, runs)
        mapped: list[tuple[int, int, int | None]] = [(start, count, None) for start, count in discards]
        place = number << SLOT_BITS
        for start, count in data_runs:
            mapped.append((start, count, place))
            place += count
        made.append((NewObject(DataRow(number, len(part), len(index)), mapped), index))

    def _put(self, new: NewObject, index: bytes, blocks: Mapping[int, bytes], keeps: bool) -> None:
        block_size = self._objects.root.block_size
        step = stride(block_size)
        body = bytearray(new.row.blocks * step + len(index))  # one piece: a store need not join it, in as much memory
        at = 0
        for start, count, place in new.runs:
            if place is None:
                continue
            data = [blocks[block] for block in range(start, start + count)]
            pack_blocks(memoryview(body)[at : at + count * step], block_size, start, place, data)
            if keeps:
                self._cache.add(place, data)
            at += count * step
        body[at:] = index
        self._objects.put("data", new.row.number, [body])


def _runs(order: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending block numbers as runs."""
    if not order:
        return
    start = before = order[0]
    for block in islice(order, 1, None):
        if block != before + 1:
            yield start, before + 1 - start
            start = block
        before = block
    yield start, before + 1 - start


class DataReader:
    """Reads blocks out of data objects, through the caches; every block is verified."""

    def __init__(self, objects: Objects, cache: MemoryCache, local: LocalCache | None = None) -> None:
        self._objects = objects
        self._cache = cache
        self._local = local
        self._block_size = objects.root.block_size

    def from_caches(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Fill what is cached; the pieces that are left."""
        left = self._from(self._cache.get, pieces)
        if left and self._local is not None:
            left = self._from(self._local.get, left)
        if not left:
            self._objects.counts.cache_hits += 1
        return left

    def _from(self, get: Callable[[int, int], list[bytes | None]], pieces: Sequence[Piece]) -> list[Piece]:
        size = self._block_size
        left: list[Piece] = []
        for place, block, view in pieces:
            begin = None
            for index, data in enumerate([*get(place, view.nbytes // size), b""]):
                if data is None:
                    begin = index if begin is None else begin
                    continue
                if begin is not None:
                    left.append(Piece(place + begin, block + begin, view[begin * size : index * size]))
                    begin = None
                view[index * size : index * size + len(data)] = data
        return left

    def fetch(self, pieces: Sequence[Piece], *, keeps: bool = True) -> None:
        """Fill pieces from the bucket: neighbours in one ranged request, requests at the same time.

        ``keeps`` says whether they go into the caches, as what is read for somebody does.
        """
        self._objects.run([partial(self._fetch, group, keeps) for group in self._groups(pieces)])

    def _groups(self, pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
        step = stride(self._block_size)
        most = max(1, _RANGE_BYTES // step)
        group: list[Piece] = []
        for piece in sorted(self._cut(pieces, most), key=lambda piece: piece.place):
            if group:
                last = group[-1]
                gap = piece.place - last.place - last.view.nbytes // self._block_size
                span = piece.place - group[0].place + piece.view.nbytes // self._block_size
                is_other = piece.place >> SLOT_BITS != last.place >> SLOT_BITS
                if is_other or gap * step > _GAP_BYTES or span > most:
                    yield group
                    group = []
            group.append(piece)
        if group:
            yield group

    def _cut(self, pieces: Sequence[Piece], most: int) -> Iterator[Piece]:
        for place, block, view in pieces:
            for first in range(0, view.nbytes // self._block_size, most):
                part = view[first * self._block_size : (first + most) * self._block_size]
                yield Piece(place + first, block + first, part)

    def _fetch(self, group: list[Piece], keeps: bool) -> None:
        step, size = stride(self._block_size), self._block_size
        number, begin = group[0].place >> SLOT_BITS, group[0].place & MAX_SLOTS
        stop = max((piece.place & MAX_SLOTS) + piece.view.nbytes // size for piece in group)
        raw = self._objects.get("data", number, begin * step, stop * step)
        what = self._objects.place("data", number)
        for place, block, view in group:
            at = ((place & MAX_SLOTS) - begin) * step
            unpack_blocks(raw[at:], size, block, place, out=view, what=what)
            if keeps and view.nbytes <= _CACHED_RUN_BYTES:
                blocks = [bytes(view[first : first + size]) for first in range(0, view.nbytes, size)]
                self._cache.add(place, blocks)
                if self._local is not None:
                    self._local.add(place, blocks)

    def index(self, row: DataRow) -> list[Run]:
        """The runs of a data object."""
        begin = row.blocks * stride(self._block_size)
        record = self._objects.get("data", row.number, begin, begin + row.index_bytes)
        return decode_index(row, self._block_size, record, f"{self._objects.place('data', row.number)}, index")


def map_runs(row: DataRow, runs: Sequence[Run]) -> list[tuple[int, int, int | None]]:
    """What a data object maps, as in ``NewObject.runs``."""
    mapped: list[tuple[int, int, int | None]] = []
    place = row.number << SLOT_BITS
    for start, count in runs:
        if count < 0:
            mapped.append((start, -count, None))
        else:
            mapped.append((start, count, place))
            place += count
    return mapped
