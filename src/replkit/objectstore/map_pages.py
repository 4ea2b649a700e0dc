"""Pages of a bucket volume's map: leaves and nodes of two sparse trees, each page an immutable checksummed record.

The *block tree* says in which data object and slot a block lies; the *object tree* says how many blocks of each data
object are still named. A leaf covers 4,096 blocks, or 1,024 objects; a node has 1,024 children. The field tables are in
``docs/reference/bucket-formats.md``; a test compares them with ``PAGE_FIELDS`` and ``COLUMNS``.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice
from operator import le, lt
from typing import Final

import msgspec

from replkit.blocks.record import seal, unseal
from replkit.errors import CorruptRecordError

PAGE_MAGIC: Final = b"RKVM"
PAGE_VERSION: Final = 1
PAGE_FIELDS: Final = (("tree", "B"), ("level", "B"), ("index", "Q"), ("entries", "I"))
BLOCK_TREE: Final = 0
OBJECT_TREE: Final = 1
LEAF_SHIFT: Final = (12, 10)
"""By tree: one leaf covers ``1 << LEAF_SHIFT[tree]`` blocks or objects."""
NODE_SHIFT: Final = 10
NODE_LEVELS: Final = 2
"""Levels of nodes that are pages; above them is the top, which the root holds."""
SLOT_BITS: Final = 16
MAX_VALUE: Final = 1 << 62
COLUMNS: Final = {
    "block leaf": (("first block", "H"), ("blocks", "H"), ("place", "Q")),
    "object leaf": (("object", "H"), ("blocks", "I"), ("live blocks", "I"), ("index bytes", "I")),
    "node": (("child", "H"), ("pack", "Q"), ("offset", "I"), ("length", "I")),
}
_FIXED = struct.Struct("<" + "".join(code for _, code in PAGE_FIELDS))
_KINDS = ("block leaf", "object leaf", "node")
_CODES = {kind: "".join(code for _, code in columns) for kind, columns in COLUMNS.items()}
_MAX_PLAIN_BYTES = _FIXED.size + (1 << LEAF_SHIFT[BLOCK_TREE]) * 18

Columns = tuple["array[int]", ...]


class PageRef(msgspec.Struct, frozen=True, array_like=True):
    """Where a page lies: a range of bytes of a pack."""

    pack: int
    offset: int
    length: int


def page_kind(tree: int, level: int) -> str:
    """Which columns a page has."""
    return _KINDS[tree if level == 0 else 2]


def encode_page(tree: int, level: int, index: int, columns: Sequence[array[int]]) -> bytes:
    """The record of a page whose entries are ascending; ``columns`` as ``COLUMNS`` says."""
    packed = [_little(column).tobytes() for column in columns]
    return seal(PAGE_MAGIC, PAGE_VERSION, _FIXED.pack(tree, level, index, len(columns[0])) + b"".join(packed))


def decode_page(tree: int, level: int, index: int, record: memoryview, what: str) -> Columns:
    """Columns of a page made by ``encode_page`` for this place; ``CorruptRecordError`` for anything else."""
    plain = memoryview(unseal(PAGE_MAGIC, PAGE_VERSION, record, max_plain_bytes=_MAX_PLAIN_BYTES, what=what))
    if len(plain) < _FIXED.size:
        raise CorruptRecordError(f"{what}: {len(plain)} bytes are too few for its head")
    found_tree, found_level, found_index, entries = _FIXED.unpack_from(plain)
    if (found_tree, found_level, found_index) != (tree, level, index):
        raise CorruptRecordError(
            f"{what}: is page {found_index} of level {found_level} of tree {found_tree}, "
            f"not page {index} of level {level} of tree {tree}"
        )
    columns = empty_columns(tree, level)
    if len(plain) != _FIXED.size + entries * sum(column.itemsize for column in columns):
        raise CorruptRecordError(f"{what}: {entries} entries do not fill {len(plain)} bytes")
    at = _FIXED.size
    for column in columns:
        size = entries * column.itemsize
        column.frombytes(plain[at : at + size])
        at += size
    columns = tuple(_little(column) for column in columns)
    _check(tree, level, columns, what)
    return columns


def empty_columns(tree: int, level: int) -> Columns:
    """Columns of a page without an entry."""
    return tuple(array(code) for code in _CODES[page_kind(tree, level)])


def _little(column: array[int]) -> array[int]:
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column


def _check(tree: int, level: int, columns: Columns, what: str) -> None:
    first = columns[0]
    if not first:
        return
    span = 1 << (NODE_SHIFT if level else LEAF_SHIFT[tree])
    is_good = first[-1] < span and all(map(lt, first, islice(first, 1, None)))
    if is_good and level == 0 and tree == BLOCK_TREE:
        stops = [start + count for start, count in zip(first, columns[1], strict=True)]
        is_good = stops[-1] <= span and min(columns[1]) > 0 and all(map(le, stops, islice(first, 1, None)))
        is_good = is_good and max(columns[2]) < MAX_VALUE - (1 << SLOT_BITS)
    elif is_good and level == 0:
        is_good = all(map(le, columns[2], columns[1])) and max(columns[1]) < 1 << SLOT_BITS
    if not is_good:
        raise CorruptRecordError(f"{what}: its entries are not ascending and within its {span}")


class LeafRuns:
    """The runs of one leaf of the block tree, to be changed: blocks are counted from the leaf's first."""

    __slots__ = ("columns",)

    def __init__(self, columns: Columns | None = None) -> None:
        self.columns = tuple(column[:] for column in columns) if columns else empty_columns(BLOCK_TREE, 0)

    def replace(self, start: int, count: int, value: int | None) -> list[tuple[int, int, int]]:
        """Map the blocks to ``value`` onward, or to nothing; what they were mapped to, as (start, count, value)."""
        stop = start + count
        first, after = _span(self.columns, start, stop)
        starts, counts, values = self.columns
        old = list(zip(starts[first:after], counts[first:after], values[first:after], strict=True))
        fresh: list[tuple[int, int, int]] = []
        if old and old[0][0] < start:
            fresh.append((old[0][0], start - old[0][0], old[0][2]))
        if value is not None:
            fresh.append((start, count, value))
        if old and old[-1][0] + old[-1][1] > stop:
            skip = stop - old[-1][0]
            fresh.append((stop, old[-1][1] - skip, old[-1][2] + skip))
        for column, place in zip(self.columns, range(3), strict=True):
            column[first:after] = array(column.typecode, [run[place] for run in fresh])
        return list(_clip(old, start, stop))

    def find(self, start: int, count: int) -> list[tuple[int, int, int]]:
        """Mapped pieces of the range, ascending, as (start, count, value)."""
        return find_runs(self.columns, start, start + count)

    def joined(self) -> Columns:
        """The columns, with neighbours joined where one continues the other."""
        starts, counts, values = self.columns
        out = empty_columns(BLOCK_TREE, 0)
        out_starts, out_counts, out_values = out
        for start, count, value in zip(starts, counts, values, strict=True):
            if out_starts and out_starts[-1] + out_counts[-1] == start and out_values[-1] + out_counts[-1] == value:
                out_counts[-1] += count
            else:
                out_starts.append(start)
                out_counts.append(count)
                out_values.append(value)
        return out


def find_runs(columns: Columns, start: int, stop: int) -> list[tuple[int, int, int]]:
    """Mapped pieces of ``[start, stop)`` of a leaf of the block tree, ascending, as (start, count, value)."""
    first, after = _span(columns, start, stop)
    starts, counts, values = columns
    return list(_clip(zip(starts[first:after], counts[first:after], values[first:after], strict=True), start, stop))


def _span(columns: Columns, start: int, stop: int) -> tuple[int, int]:
    """Indexes of the runs that overlap ``[start, stop)``."""
    starts, counts, _values = columns
    first = max(0, bisect_right(starts, start) - 1)
    if first < len(starts) and starts[first] + counts[first] <= start:
        first += 1
    return first, max(first, bisect_left(starts, stop))


def _clip(
    runs: Iterator[tuple[int, int, int]] | list[tuple[int, int, int]], start: int, stop: int
) -> Iterator[tuple[int, int, int]]:
    for run_start, count, value in runs:
        low, high = max(run_start, start), min(run_start + count, stop)
        if low < high:
            yield low, high - low, value + low - run_start
