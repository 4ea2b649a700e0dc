"""Checkpoint of a bucket volume: enter the overlay into the pages of the map, count live blocks, collect garbage.

The source stages bit maps and block maps to the save volume when a snapshot is made (FIG. 43, 44); here the map goes
into packs beside the data. Nothing that a checkpoint puts can be seen before the next publication: a crash leaves
orphans.
"""

from __future__ import annotations

import heapq
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import NamedTuple

from replkit.blocks.blockmap import BlockMap
from replkit.errors import CorruptRecordError
from replkit.objectstore.map_pages import (
    BLOCK_TREE,
    LEAF_SHIFT,
    NODE_SHIFT,
    OBJECT_TREE,
    SLOT_BITS,
    Columns,
    LeafRuns,
    PageRef,
)
from replkit.objectstore.map_tree import PageCache, Top, Tree, TreeWriter
from replkit.objectstore.pack import PackWriter, load_pack_index
from replkit.objectstore.volume_buffer import ZERO
from replkit.objectstore.volume_collect import Collector, Move
from replkit.objectstore.volume_format import DataRow, PackRow
from replkit.objectstore.volume_objects import Objects

_BATCH = 256
_FEW_PACKS = 32
_LEAF = 1 << LEAF_SHIFT[BLOCK_TREE]


class Change(NamedTuple):
    """A change of one leaf: blocks to a new place, or to none; only where they are at ``old`` if that is given."""

    start: int
    blocks: int
    place: int | None
    old: int | None = None


class Outcome(NamedTuple):
    """What the next root has to say."""

    block_top: dict[int, PageRef]
    object_top: dict[int, PageRef]
    packs: dict[int, PackRow]
    dead_objects: list[int]
    dead_packs: list[int]
    stored_blocks: int
    live_blocks: int


class Checkpointer:
    """Makes checkpoints. One at a time; ``overlay`` must not change meanwhile."""

    def __init__(self, objects: Objects, pages: PageCache, collector: Collector) -> None:
        self._objects = objects
        self._pages = pages
        self._collector = collector
        self._blocks = Tree(BLOCK_TREE, pages)
        self._table = Tree(OBJECT_TREE, pages)

    def run(self, overlay: BlockMap, recent: Sequence[DataRow], *, thorough: bool = False) -> Outcome:
        """Put new pages for all changes since the last checkpoint; ``thorough`` looks at every object for garbage."""
        root = self._objects.root
        moved = self._collector.move(overlay, thorough=thorough)
        packs = dict(root.packs)
        writer = PackWriter(self._objects, packs)
        again = self._pages_of_worn_packs(packs, thorough=thorough)
        live: dict[int, int] = defaultdict(int)
        block_top = self._rewrite_blocks(self._changes(overlay, moved.moves, again[BLOCK_TREE]), writer, live)
        new = {row.number: row for row in (*recent, *moved.rows)}
        object_top, dead, stored = self._rewrite_objects(new, live, again[OBJECT_TREE], writer)
        writer.finish()
        dead_packs = [number for number, row in packs.items() if not row.live_bytes]
        for number in dead_packs:
            del packs[number]
        self._objects.counts.checkpoints += 1
        return Outcome(
            block_top, object_top, packs, dead, dead_packs,
            root.stored_blocks + stored, root.live_blocks + sum(live.values()),
        )  # fmt: skip

    # --- the block tree -------------------------------------------------------------------------------------------

    def _changes(
        self, overlay: BlockMap, moves: Sequence[Move], again: set[int]
    ) -> Iterator[tuple[int, Change | None]]:
        """All changes by leaf, ascending; in one leaf those of the overlay come first."""
        moved = _by_leaf((start, count, new, old) for start, count, old, new in moves)
        untouched: Iterator[tuple[int, Change | None]] = ((leaf, None) for leaf in sorted(again))
        return heapq.merge(self._overlay_changes(overlay), moved, untouched, key=itemgetter(0))

    def _overlay_changes(self, overlay: BlockMap) -> Iterator[tuple[int, Change | None]]:
        shift, top = LEAF_SHIFT[BLOCK_TREE], self._objects.root.block_top
        for (start, count), value in overlay.runs():
            if value < ZERO:
                yield from _by_leaf([(start, count, value, None)])
                continue
            stop = start + count
            for leaf, _ref in self._blocks.leaves(top, start >> shift, (stop - 1 >> shift) + 1):
                first, after = max(start, leaf << shift), min(stop, (leaf + 1) << shift)
                yield leaf, Change(first & (_LEAF - 1), after - first, None)

    def _rewrite_blocks(
        self, changes: Iterator[tuple[int, Change | None]], packs: PackWriter, live: dict[int, int]
    ) -> dict[int, PageRef]:
        top = self._objects.root.block_top
        writer = TreeWriter(self._blocks, self._pages, top, packs)
        for batch in _batches(changes):
            for leaf, old, columns in self._load(self._blocks, top, list(batch)):
                runs = LeafRuns(columns)
                for change in batch[leaf]:
                    _apply(runs, change, live)
                writer.set(leaf, old, runs.joined())
        return writer.finish()

    def _load(self, tree: Tree, top: Top, leaves: list[int]) -> Iterator[tuple[int, PageRef | None, Columns | None]]:
        refs = {leaf: tree.find(top, 0, leaf) for leaf in leaves}
        pages = dict(tree.load((leaf, ref) for leaf, ref in refs.items() if ref is not None))
        for leaf in leaves:
            yield leaf, refs[leaf], pages.get(leaf)

    # --- the object tree ------------------------------------------------------------------------------------------

    def _rewrite_objects(
        self, new: dict[int, DataRow], live: dict[int, int], again: set[int], packs: PackWriter
    ) -> tuple[dict[int, PageRef], list[int], int]:
        """New top, objects of which nothing is left, and by how many blocks the stored ones grew."""
        shift, top = LEAF_SHIFT[OBJECT_TREE], self._objects.root.object_top
        writer = TreeWriter(self._table, self._pages, top, packs)
        touched = sorted({number for number in live if live[number]} | set(new))
        by_leaf = {leaf: list(numbers) for leaf, numbers in groupby(touched, lambda number: number >> shift)}
        leaves = sorted(again | set(by_leaf))
        dead: list[int] = []
        stored = sum(row.blocks for row in new.values())
        for at in range(0, len(leaves), _BATCH):
            for leaf, old, columns in self._load(self._table, top, leaves[at : at + _BATCH]):
                rows = dict(zip(columns[0], zip(*columns[1:], strict=True), strict=True)) if columns else {}
                for number in by_leaf.get(leaf, []):
                    slot = number & ((1 << shift) - 1)
                    blocks, left, index_bytes = self._count(number, rows.get(slot), new.get(number), live[number])
                    if left:
                        rows[slot] = (blocks, left, index_bytes)
                        self._collector.look_at(number, blocks, left)
                    else:
                        rows.pop(slot, None)
                        dead.append(number)
                        self._collector.forget(number)
                        stored -= blocks
                writer.set(leaf, old, _object_columns(rows))
        return writer.finish(), dead, stored

    def _count(
        self, number: int, row: tuple[int, ...] | None, new: DataRow | None, change: int
    ) -> tuple[int, int, int]:
        """Blocks, live blocks and index bytes of an object after the checkpoint."""
        if new is not None:
            row = (new.blocks, 0, new.index_bytes)
        if row is None or not 0 <= row[1] + change <= row[0]:
            raise CorruptRecordError(
                f"{self._objects.store.url}: the map and the table of objects disagree about object {number:x}: "
                f"{row} and {change:+}"
            )
        return row[0], row[1] + change, row[2]

    # --- packs ----------------------------------------------------------------------------------------------------

    def _pages_of_worn_packs(self, packs: dict[int, PackRow], *, thorough: bool) -> tuple[set[int], set[int]]:
        """Leaves of the two trees to be written again, so that packs of which little is named become free."""
        again: tuple[set[int], set[int]] = (set(), set())
        tops = (self._objects.root.block_top, self._objects.root.object_top)
        for number in self._worn_packs(packs, thorough=thorough):
            for name, ref in load_pack_index(self._objects, number, packs[number]):
                tree = self._blocks if name.tree == BLOCK_TREE else self._table
                if tree.find(tops[name.tree], name.level, name.page) == ref:
                    shift = NODE_SHIFT * name.level
                    # A node is written again with any leaf below it.
                    below = tree.leaves(tops[name.tree], name.page << shift, (name.page + 1) << shift)
                    again[name.tree].update(leaf for leaf, _ in islice(below, 1))
        return again

    def _worn_packs(self, packs: dict[int, PackRow], *, thorough: bool) -> list[int]:
        tuning = self._objects.tuning
        by_live = sorted(packs, key=lambda number: packs[number].live_bytes)
        worn = [n for n in by_live if packs[n].live_bytes * 100 < packs[n].page_bytes * tuning.live_percent]
        most = _FEW_PACKS + 2 * sum(row.live_bytes for row in packs.values()) // tuning.object_bytes
        if len(packs) > most:
            worn = list(dict.fromkeys([*worn, *by_live[: len(packs) - most + _FEW_PACKS // 4]]))
        room = tuning.object_bytes if not thorough else 1 << 62
        chosen: list[int] = []
        for number in worn:
            room -= packs[number].live_bytes
            if room < 0 and chosen:
                break
            chosen.append(number)
        return chosen


def _apply(runs: LeafRuns, change: Change, live: dict[int, int]) -> None:
    """Change a leaf, and count what its objects win and lose."""
    pieces = [(change.start, change.blocks, change.place)]
    if change.old is not None and change.place is not None:
        at_old, place = change.old - change.start, change.place - change.start
        pieces = [
            (start, count, place + start)
            for start, count, value in runs.find(change.start, change.blocks)
            if value == at_old + start
        ]
    for start, count, new in pieces:
        for _start, lost, value in runs.replace(start, count, new):
            live[value >> SLOT_BITS] -= lost
        if new is not None:
            live[new >> SLOT_BITS] += count


def _by_leaf(runs: Iterable[tuple[int, int, int, int | None]]) -> Iterator[tuple[int, Change | None]]:
    """Ascending runs (start, count, place, old place), cut at the ends of leaves."""
    for start, count, place, old in runs:
        at, stop = start, start + count
        while at < stop:
            after = min(stop, (at & -_LEAF) + _LEAF)
            skip = at - start
            yield (
                at >> LEAF_SHIFT[BLOCK_TREE],
                Change(at & (_LEAF - 1), after - at, place + skip, None if old is None else old + skip),
            )
            at = after


def _batches(changes: Iterator[tuple[int, Change | None]]) -> Iterator[dict[int, list[Change]]]:
    """Changes by leaf, so many leaves at a time as are loaded at once."""
    groups = groupby(changes, itemgetter(0))
    while True:
        batch = {leaf: [change for _, change in group if change is not None] for leaf, group in islice(groups, _BATCH)}
        if not batch:
            return
        yield batch


def _object_columns(rows: dict[int, tuple[int, ...]]) -> Columns:
    slots = sorted(rows)
    return (
        array("H", slots),
        *(array("I", [rows[slot][place] for slot in slots]) for place in range(3)),
    )
