"""The two trees of a bucket volume's map: lookups through a bounded cache of pages, and streaming rewrites.

A tree is immutable: whoever has its top (a dictionary of page references) reads one state of it, whatever happens
later. A rewrite takes changed leaves in ascending order, rewrites only the nodes above them and gives a new top.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Final

from replkit.objectstore.map_pages import (
    NODE_LEVELS,
    NODE_SHIFT,
    Columns,
    PageRef,
    decode_page,
    empty_columns,
    encode_page,
)
from replkit.objectstore.pack import PackWriter, PageName
from replkit.objectstore.volume_objects import Objects

Top = Mapping[int, PageRef]
TOP_SHIFT: Final = NODE_SHIFT * NODE_LEVELS
_NODE_MASK = (1 << NODE_SHIFT) - 1
_GAP_BYTES = 64 << 10
_RANGE_BYTES = 4 << 20
_PAGE_OVERHEAD_BYTES = 600


class PageCache:
    """Decoded pages, least recently used ones dropped; whoever changes columns copies them first."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._pages: OrderedDict[PageRef, Columns] = OrderedDict()
        self._size = 0
        self._lock = objects.runtime.lock()

    def get(self, name: PageName, ref: PageRef) -> Columns:
        """One page."""
        return self.get_many([(name, ref)])[0]

    def get_many(self, wanted: list[tuple[PageName, PageRef]]) -> list[Columns]:
        """Pages in the order asked for; those that are not cached are fetched, neighbours in one request."""
        found: dict[PageRef, Columns] = {}
        with self._lock:
            for _name, ref in wanted:
                page = self._pages.get(ref)
                if page is not None:
                    self._pages.move_to_end(ref)
                    found[ref] = page
        missing = sorted((ref.pack, ref.offset, ref.length, name) for name, ref in wanted if ref not in found)
        self._objects.run([partial(self._fetch, group, found) for group in _groups(missing)])
        return [found[ref] for _name, ref in wanted]

    def _fetch(self, group: list[tuple[int, int, int, PageName]], found: dict[PageRef, Columns]) -> None:
        pack, begin = group[0][0], group[0][1]
        data = self._objects.get("map", pack, begin, group[-1][1] + group[-1][2])
        for _pack, offset, length, name in group:
            what = f"{self._objects.place('map', pack)}, page at {offset}"
            columns = decode_page(*name, data[offset - begin : offset - begin + length], what)
            ref = PageRef(pack, offset, length)
            found[ref] = columns
            self.insert(ref, columns)

    def insert(self, ref: PageRef, columns: Columns) -> None:
        """Keep a page, and drop the oldest beyond the bound."""
        with self._lock:
            if ref in self._pages:
                return
            self._pages[ref] = columns
            self._size += _cost(columns)
            while self._size > self._objects.tuning.page_cache_bytes and len(self._pages) > 1:
                self._size -= _cost(self._pages.popitem(last=False)[1])


def _cost(columns: Columns) -> int:
    return _PAGE_OVERHEAD_BYTES + sum(len(column) * column.itemsize for column in columns)


def _groups(pages: list[tuple[int, int, int, PageName]]) -> Iterator[list[tuple[int, int, int, PageName]]]:
    """Ascending pages, cut where they are far apart or many."""
    group: list[tuple[int, int, int, PageName]] = []
    for page in pages:
        if group:
            pack, offset, length, _name = group[-1]
            is_near = page[0] == pack and page[1] - (offset + length) <= _GAP_BYTES
            if not is_near or page[1] + page[2] - group[0][1] > _RANGE_BYTES:
                yield group
                group = []
        group.append(page)
    if group:
        yield group


class Tree:
    """Lookups in one of the trees."""

    def __init__(self, tree: int, cache: PageCache) -> None:
        self.tree = tree
        self._cache = cache

    def name(self, level: int, index: int) -> PageName:
        """A page of this tree."""
        return PageName(self.tree, level, index)

    def find(self, top: Top, level: int, index: int) -> PageRef | None:
        """Where the page of this level and index lies; ``None`` if there is none."""
        ref = top.get(index >> (NODE_SHIFT * (NODE_LEVELS - level)))
        for above in range(NODE_LEVELS, level, -1):
            if ref is None:
                return None
            node = self._cache.get(self.name(above, index >> (NODE_SHIFT * (above - level))), ref)
            ref = _child(node, (index >> (NODE_SHIFT * (above - 1 - level))) & _NODE_MASK)
        return ref

    def leaf(self, top: Top, index: int) -> Columns | None:
        """A leaf; ``None`` where there is none."""
        ref = self.find(top, 0, index)
        return None if ref is None else self._cache.get(self.name(0, index), ref)

    def leaves(self, top: Top, first: int, stop: int) -> Iterator[tuple[int, PageRef]]:
        """Yield the leaves of ``[first, stop)`` that exist, ascending, without a look at what does not."""
        for slot in sorted(top):
            yield from self._below(NODE_LEVELS, slot, top[slot], first, stop)

    def _below(self, level: int, index: int, ref: PageRef, first: int, stop: int) -> Iterator[tuple[int, PageRef]]:
        shift = NODE_SHIFT * level
        if (index + 1) << shift <= first or index << shift >= stop:
            return
        if level == 0:
            yield index, ref
            return
        children, packs, offsets, lengths = self._cache.get(self.name(level, index), ref)
        low = bisect_left(children, (first - (index << shift)) >> (shift - NODE_SHIFT))
        for place in range(low, len(children)):
            child = index << NODE_SHIFT | children[place]
            if child << (shift - NODE_SHIFT) >= stop:
                return
            below = PageRef(packs[place], offsets[place], lengths[place])
            yield from self._below(level - 1, child, below, first, stop)

    def load(self, wanted: Iterable[tuple[int, PageRef]]) -> list[tuple[int, Columns]]:
        """Several leaves at once."""
        named = [(self.name(0, index), ref) for index, ref in wanted]
        return [(name.page, page) for (name, _), page in zip(named, self._cache.get_many(named), strict=True)]


def _child(node: Columns, slot: int) -> PageRef | None:
    children, packs, offsets, lengths = node
    place = bisect_left(children, slot)
    if place == len(children) or children[place] != slot:
        return None
    return PageRef(packs[place], offsets[place], lengths[place])


class TreeWriter:
    """Rewrites a tree: ``set`` takes new leaves in ascending order, ``finish`` gives the new top."""

    def __init__(self, tree: Tree, cache: PageCache, top: Top, packs: PackWriter) -> None:
        self._tree, self._cache, self._packs = tree, cache, packs
        self._old_top = top
        self._top = dict(top)
        self._open: list[tuple[int, PageRef | None, dict[int, PageRef]] | None] = [None] * (NODE_LEVELS + 1)

    def set(self, index: int, old: PageRef | None, columns: Columns | None) -> None:
        """Put a leaf in place of ``old``; ``None`` where it has become empty."""
        self._set(0, index, old, columns)

    def _set(self, level: int, index: int, old: PageRef | None, columns: Columns | None) -> None:
        ref = None
        if columns is not None and columns[0]:
            ref = self._packs.add(self._tree.name(level, index), encode_page(self._tree.tree, level, index, columns))
            self._cache.insert(ref, columns)
        if old is not None:
            self._packs.drop(old)
        children = self._top if level == NODE_LEVELS else self._node(level + 1, index >> NODE_SHIFT)
        slot = index if level == NODE_LEVELS else index & _NODE_MASK
        if ref is None:
            children.pop(slot, None)
        else:
            children[slot] = ref

    def _node(self, level: int, index: int) -> dict[int, PageRef]:
        """Children of the node that is being rewritten at this level; the one before it is closed."""
        now = self._open[level]
        if now is not None and now[0] == index:
            return now[2]
        self._close(level)
        ref = self._tree.find(self._old_top, level, index)
        children: dict[int, PageRef] = {}
        if ref is not None:
            for slot, pack, offset, length in zip(*self._cache.get(self._tree.name(level, index), ref), strict=True):
                children[slot] = PageRef(pack, offset, length)
        self._open[level] = (index, ref, children)
        return children

    def _close(self, level: int) -> None:
        """Write the node that is open at this level, the ones below it first."""
        if level > 1:
            self._close(level - 1)
        now = self._open[level]
        if now is None:
            return
        self._open[level] = None
        index, old, children = now
        columns = empty_columns(self._tree.tree, level)
        slots = sorted(children)
        fields: tuple[Callable[[int], int], ...] = (
            int,
            lambda slot: children[slot].pack,
            lambda slot: children[slot].offset,
            lambda slot: children[slot].length,
        )
        filled = tuple(array(c.typecode, map(field, slots)) for c, field in zip(columns, fields, strict=True))
        self._set(level, index, old, filled)

    def finish(self) -> dict[int, PageRef]:
        """Write the nodes that are still open; the new top."""
        self._close(NODE_LEVELS)
        return self._top
