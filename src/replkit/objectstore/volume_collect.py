"""Garbage collection of a bucket volume: live blocks of worn data objects move to new ones; the old are condemned."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

from replkit.blocks.blockmap import BlockMap
from replkit.errors import CorruptRecordError, RecordMissingError
from replkit.objectstore.map_pages import BLOCK_TREE, LEAF_SHIFT, OBJECT_TREE, find_runs
from replkit.objectstore.map_tree import PageCache, Tree
from replkit.objectstore.volume_data import DataReader, DataWriter, Piece, map_runs
from replkit.objectstore.volume_format import DataRow
from replkit.objectstore.volume_objects import Objects

_SMALL_AT_LEAST = 8
_LEAVES_A_PASS = 4
_MANY_CONDEMNED = 1 << 16

Move = tuple[int, int, int, int]
"""First block, count, old place, new place."""


class Moved(NamedTuple):
    """New data objects, and which blocks went where."""

    rows: list[DataRow]
    moves: list[Move]


class Collector:
    """Remembers objects of which little is live, finds more by looking through the table, and moves what lives.

    Each checkpoint moves a bounded number of blocks, and each object at most once.
    """

    def __init__(self, objects: Objects, pages: PageCache, reader: DataReader, writer: DataWriter) -> None:
        self._objects = objects
        self._reader, self._writer = reader, writer
        self._blocks, self._table = Tree(BLOCK_TREE, pages), Tree(OBJECT_TREE, pages)
        self._sparse: dict[int, int] = {}
        self._small: dict[int, int] = {}
        self._damaged: set[int] = set()
        self._next_leaf = 0

    def look_at(self, number: int, blocks: int, live: int) -> None:
        """Judge an object by what is live of it."""
        self.forget(number)
        tuning = self._objects.tuning
        if number in self._damaged:
            return
        if live * 100 < blocks * tuning.live_percent:
            self._sparse[number] = live
        elif blocks * self._objects.root.block_size < tuning.small_bytes:
            self._small[number] = live

    def forget(self, number: int) -> None:
        """The object is gone, or is judged anew."""
        self._sparse.pop(number, None)
        self._small.pop(number, None)

    @property
    def has_work(self) -> bool:
        """Whether the next checkpoint would move something."""
        return bool(self._sparse) or len(self._small) >= _SMALL_AT_LEAST

    def scan(self, leaves: int | None = None) -> None:
        """Look through a part of the table of objects, going on where the last scan ended; ``None``: all of it."""
        top, shift = self._objects.root.object_top, LEAF_SHIFT[OBJECT_TREE]
        first, stop = (0, 1 << 62) if leaves is None else (self._next_leaf, 1 << 62)
        found = list(islice(self._table.leaves(top, first, stop), leaves))
        for leaf, columns in self._table.load(found):
            for slot, blocks, live, _index_bytes in zip(*columns, strict=True):
                self.look_at(leaf << shift | slot, blocks, live)
        self._next_leaf = found[-1][0] + 1 if found else 0

    def move(self, overlay: BlockMap, *, thorough: bool) -> Moved:
        """Copy what lives of the most worn objects into new ones, verified on the way; ``overlay`` is newer."""
        self.scan(None if thorough else _LEAVES_A_PASS)
        if sum(len(entry.numbers) for entry in self._objects.root.condemned) > _MANY_CONDEMNED:
            return Moved([], [])  # holds keep what would become free
        rows = self._choose()
        results: list[tuple[dict[int, bytes], BlockMap]] = []
        self._objects.run([partial(self._read, row, overlay, results) for row in rows])
        blocks: dict[int, bytes] = {}
        old = BlockMap()
        for data, places in results:
            blocks.update(data)
            for extent, place in places.runs():
                old.add(extent.start, extent.count, place)
        moved = Moved([], [])
        for new in self._writer.put(blocks, keeps=False) if blocks else []:
            moved.rows.append(new.row)
            for start, count, new_place in new.runs:
                if new_place is not None:
                    moved.moves.extend(_moves(old, start, count, new_place))
        moved.moves.sort()
        self._objects.counts.moved_blocks += len(blocks)
        return moved

    def _choose(self) -> list[DataRow]:
        """The objects with the fewest live blocks, as many as one pass may move."""
        room = self._objects.tuning.moved_bytes // self._objects.root.block_size
        wanted = sorted(self._sparse, key=lambda number: self._sparse[number])
        if len(self._small) >= _SMALL_AT_LEAST:
            wanted += sorted(self._small, key=lambda number: self._small[number])
        rows: list[DataRow] = []
        for number in wanted:
            row, live = self._row(number)
            room -= live
            if room < 0 and rows:
                break
            rows.append(row)
        return rows

    def _row(self, number: int) -> tuple[DataRow, int]:
        shift = LEAF_SHIFT[OBJECT_TREE]
        columns = self._table.leaf(self._objects.root.object_top, number >> shift)
        if columns is not None:
            for slot, blocks, live, index_bytes in zip(*columns, strict=True):
                if slot == number & ((1 << shift) - 1):
                    return DataRow(number, blocks, index_bytes), live
        raise CorruptRecordError(f"{self._objects.store.url}: object {number:x} is not in the table of objects")

    def _read(self, row: DataRow, overlay: BlockMap, results: list[tuple[dict[int, bytes], BlockMap]]) -> None:
        """Blocks of one object that are still named, and their places. A damaged object stays as it is."""
        size = self._objects.root.block_size
        try:
            extents = self._live(row, overlay)
            data = bytearray(sum(count for _, count, _ in extents) * size)
            pieces, places, at = [], BlockMap(), 0
            for start, count, place in extents:
                pieces.append(Piece(place, start, memoryview(data)[at : at + count * size]))
                places.add(start, count, place)
                at += count * size
            self._reader.fetch(self._reader.from_caches(pieces), keeps=False)
        except (CorruptRecordError, RecordMissingError):
            self._damaged.add(row.number)
            self.forget(row.number)
            self._objects.counts.damaged_objects += 1
            return
        blocks: dict[int, bytes] = {}
        for _place, block, view in pieces:
            for index in range(view.nbytes // size):
                blocks[block + index] = bytes(view[index * size : (index + 1) * size])
        results.append((blocks, places))

    def _live(self, row: DataRow, overlay: BlockMap) -> list[tuple[int, int, int]]:
        """Runs of an object that the map names and the overlay does not replace: start, count, place."""
        found: list[tuple[int, int, int]] = []
        for start, count, place in map_runs(row, self._reader.index(row)):
            if place is None:
                continue
            for piece_start, piece_count, value in self._mapped(start, count):
                if value == place + piece_start - start:
                    for extent, newer in overlay.find(piece_start, piece_count):
                        if newer is None:
                            found.append((extent.start, extent.count, value + extent.start - piece_start))
        return found

    def _mapped(self, start: int, count: int) -> list[tuple[int, int, int]]:
        shift, stop = LEAF_SHIFT[BLOCK_TREE], start + count
        found = []
        for leaf in range(start >> shift, (stop - 1 >> shift) + 1):
            columns = self._blocks.leaf(self._objects.root.block_top, leaf)
            if columns is not None:
                base = leaf << shift
                for first, run, value in find_runs(columns, max(start - base, 0), min(stop - base, 1 << shift)):
                    found.append((base + first, run, value))
        return found


def _moves(old: BlockMap, start: int, count: int, place: int) -> Sequence[Move]:
    found = []
    for extent, before in old.find(start, count):
        if before is not None:
            found.append((extent.start, extent.count, before, place + extent.start - start))
    return found
