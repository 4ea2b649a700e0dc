"""Paged bit maps: sets of blocks, in memory in proportion to what they hold (P4, FIG. 10, 43)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Self

from bitarray import bitarray

from replkit.blocks.extent import Extent
from replkit.blocks.maprecord import decode_pages, encode_pages
from replkit.blocks.pages import FULL, PAGE_BLOCKS, PAGE_MASK, PAGE_SHIFT, empty_page
from replkit.errors import InvalidArgumentError

_FEW_PAGES: Final = 64


class PagedBitmap:
    """A set of the block numbers below ``block_count``, as a dictionary of pages of 32,768 bits.

    An all-zero page is absent, a full page is the shared ``FULL``. A page is *owned* by this map, or *frozen*:
    shared with copies of the map, and copied when it is first changed.

    Threads: ``add``, ``set_run``, ``clear_run``, ``update`` and ``subtract`` may run at the same time as each other
    and as readers, without a lock, and lose no mark: each change of an owned page is one C call, and a page enters
    the dictionary by ``setdefault``. Who clears blocks while another sets the same ones must order the two himself.
    ``copy``, ``compact``, ``clear`` and ``resize`` need the map alone (callers hold the gate).
    """

    __slots__ = ("_block_count", "_frozen", "_owned")

    def __init__(self, block_count: int) -> None:
        if block_count < 0:
            raise InvalidArgumentError(f"bit map of {block_count} blocks")
        self._block_count = block_count
        self._owned: dict[int, bitarray] = {}
        self._frozen: dict[int, bitarray] = {}

    @property
    def block_count(self) -> int:
        """One more than the greatest block number that the map can hold."""
        return self._block_count

    # --- changing -----------------------------------------------------------------------------------------------

    def add(self, block: int) -> None:
        """Put one block in."""
        if not 0 <= block < self._block_count:
            raise self._outside(block, 1)
        number = block >> PAGE_SHIFT
        page = self._owned.get(number)
        if page is None:
            if self._frozen.get(number) is FULL:
                return
            page = self._own(number)
        page[block & PAGE_MASK] = 1

    def set_run(self, start: int, count: int) -> None:
        """Put the blocks ``[start, start + count)`` in."""
        if start < 0 or count < 0 or start + count > self._block_count:
            raise self._outside(start, count)
        offset = start & PAGE_MASK
        if offset + count < PAGE_BLOCKS:
            self._set_in_page(start >> PAGE_SHIFT, offset, offset + count)
            return
        stop = start + count
        first_whole, after_whole = -(-start // PAGE_BLOCKS), stop >> PAGE_SHIFT
        if offset:
            self._set_in_page(start >> PAGE_SHIFT, offset, PAGE_BLOCKS)
        self._set_pages(first_whole, after_whole)
        self._set_in_page(after_whole, 0, stop & PAGE_MASK)

    def clear_run(self, start: int, count: int) -> None:
        """Take the blocks ``[start, start + count)`` out."""
        if start < 0 or count < 0 or start + count > self._block_count:
            raise self._outside(start, count)
        stop = start + count
        first_whole, after_whole = -(-start // PAGE_BLOCKS), stop >> PAGE_SHIFT
        if first_whole > after_whole:
            self._clear_in_page(after_whole, start & PAGE_MASK, stop & PAGE_MASK)
            return
        self._clear_in_page(first_whole - 1, PAGE_BLOCKS - (first_whole * PAGE_BLOCKS - start), PAGE_BLOCKS)
        for number in self._numbers(first_whole, after_whole):
            self._frozen.pop(number, None)
            self._owned.pop(number, None)
        self._clear_in_page(after_whole, 0, stop & PAGE_MASK)

    def update(self, other: PagedBitmap) -> None:
        """Put every block of ``other`` in."""
        self._same_size(other)
        for number, page in other._pages():
            if page is FULL:
                self._set_pages(number, number + 1)
            elif self._page(number) is not FULL:
                self._own(number).__ior__(page)

    def subtract(self, other: PagedBitmap) -> None:
        """Take every block of ``other`` out."""
        self._same_size(other)
        for number, page in other._pages():
            if page is FULL:
                self.clear_run(number << PAGE_SHIFT, PAGE_BLOCKS)
            elif self._page(number) is not None:
                self._own(number).__iand__(~page)

    def clear(self) -> None:
        """Take every block out."""
        self._owned, self._frozen = {}, {}

    def compact(self) -> None:
        """Drop pages that have become empty, and replace those that have become full by ``FULL``."""
        for number, page in list(self._owned.items()):
            if not page.any():
                del self._owned[number]
                self._frozen.pop(number, None)
            elif page.all():
                self._frozen[number] = FULL
                del self._owned[number]

    def copy(self) -> Self:
        """A map with the same blocks that shares every page until one of the two changes it."""
        self.compact()
        self._frozen.update(self._owned)
        self._owned = {}
        twin = type(self)(self._block_count)
        twin._frozen = self._frozen.copy()
        return twin

    def resize(self, block_count: int) -> None:
        """Change ``block_count``; blocks beyond it are taken out, new ones are not in."""
        if block_count < 0:
            raise InvalidArgumentError(f"bit map of {block_count} blocks")
        if block_count < self._block_count:
            self.clear_run(block_count, self._block_count - block_count)
            for number in self._numbers(-(-block_count // PAGE_BLOCKS), (self._block_count >> PAGE_SHIFT) + 1):
                self._frozen.pop(number, None)
                self._owned.pop(number, None)
        self._block_count = block_count

    # --- asking -------------------------------------------------------------------------------------------------

    def __contains__(self, block: int) -> bool:
        page = self._page(block >> PAGE_SHIFT)
        return page is not None and 0 <= block < self._block_count and page[block & PAGE_MASK] == 1

    def __bool__(self) -> bool:
        return any(page.any() for _, page in self._pages())

    def any_in(self, start: int, count: int) -> bool:
        """Whether at least one block of ``[start, start + count)`` is in."""
        low = start & PAGE_MASK
        if low + count <= PAGE_BLOCKS:
            page = self._page(start >> PAGE_SHIFT)
            return page is not None and page.find(1, low, low + count) >= 0
        stop = start + count
        for number in self._numbers(start >> PAGE_SHIFT, -(-stop // PAGE_BLOCKS)):
            page, base = self._page(number), number << PAGE_SHIFT
            if page is not None and page.find(1, max(0, start - base), min(PAGE_BLOCKS, stop - base)) >= 0:
                return True
        return False

    def all_in(self, start: int, count: int) -> bool:
        """Whether every block of ``[start, start + count)`` is in; true for no block."""
        low = start & PAGE_MASK
        if low + count <= PAGE_BLOCKS:
            page = self._page(start >> PAGE_SHIFT)
            return not count or (page is not None and page.find(0, low, low + count) < 0)
        stop = start + count
        for number in range(start >> PAGE_SHIFT, -(-stop // PAGE_BLOCKS)):
            page, base = self._page(number), number << PAGE_SHIFT
            if page is None:
                return False
            if page is not FULL and page.find(0, max(0, start - base), min(PAGE_BLOCKS, stop - base)) >= 0:
                return False
        return True

    def count(self) -> int:
        """Number of blocks that are in."""
        return sum(PAGE_BLOCKS if page is FULL else page.count() for _, page in self._pages())

    def runs(self, start: int = 0, stop: int | None = None) -> Iterator[Extent]:
        """Yield what is in ``[start, stop)`` as the longest runs, ascending.

        Each page is looked at when the iteration comes to it: what changes behind it is not seen, what changes
        before it is, except pages that were not there when it began.
        """
        stop = self._block_count if stop is None else min(stop, self._block_count)
        run_start = run_stop = -1
        for number in self._numbers(start >> PAGE_SHIFT, -(-stop // PAGE_BLOCKS)):
            page, base = self._page(number), number << PAGE_SHIFT
            if page is None:
                continue
            limit = min(PAGE_BLOCKS, stop - base)
            at = page.find(1, max(0, start - base), limit)
            while at >= 0:
                end = page.find(0, at, limit)
                if end < 0:
                    end = limit
                if base + at != run_stop:
                    if run_stop > run_start:
                        yield Extent(run_start, run_stop - run_start)
                    run_start = base + at
                run_stop = base + end
                at = page.find(1, end, limit) if end < limit else -1
        if run_stop > run_start:
            yield Extent(run_start, run_stop - run_start)

    def gaps(self, start: int, stop: int) -> Iterator[Extent]:
        """Yield what of ``[start, stop)`` is not in, as the longest runs, ascending."""
        at = start
        for run_start, count in self.runs(start, stop):
            if run_start > at:
                yield Extent(at, run_start - at)
            at = run_start + count
        if at < stop:
            yield Extent(at, stop - at)

    # --- as a record --------------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """The map as a record, compressed and with a checksum."""
        return encode_pages(self._block_count, self._pages())

    @classmethod
    def from_bytes(cls, block_count: int, data: bytes | bytearray | memoryview) -> Self:
        """The map of a record made by ``to_bytes`` of a map of as many blocks; else ``CorruptRecordError``."""
        bitmap = cls(block_count)
        bitmap._frozen = decode_pages(block_count, memoryview(data))
        return bitmap

    # --- pages --------------------------------------------------------------------------------------------------

    def _page(self, number: int) -> bitarray | None:
        page = self._owned.get(number)
        return self._frozen.get(number) if page is None else page

    def _pages(self) -> Iterator[tuple[int, bitarray]]:
        for number in self._numbers(0, -(-self._block_count // PAGE_BLOCKS)):
            page = self._page(number)
            if page is not None:
                yield number, page

    def _numbers(self, first: int, after: int) -> list[int] | range:
        """Ascending numbers of pages of ``[first, after)`` that may be there."""
        if after - first <= _FEW_PAGES:
            return range(first, after)
        numbers = set(self._owned)
        numbers.update(self._frozen)
        return sorted(number for number in numbers if first <= number < after)

    def _own(self, number: int) -> bitarray:
        base = self._frozen.get(number)
        fresh = empty_page() if base is None else bitarray(base)
        page = self._owned.setdefault(number, fresh)
        later = self._frozen.get(number)
        if later is not base and later is not None:
            page |= later  # another thread filled the page meanwhile; see _set_pages
        return page

    def _set_in_page(self, number: int, low: int, high: int) -> None:
        page = self._owned.get(number)
        if page is None:
            if low == high or self._frozen.get(number) is FULL:
                return
            page = self._own(number)
        page[low:high] = 1

    def _set_pages(self, first: int, after: int) -> None:
        """Fill whole pages. First the frozen side, then pages owned: ``_own`` looks in the other order."""
        if first >= after:
            return
        self._frozen.update(dict.fromkeys(range(first, after), FULL))
        for number in self._numbers(first, after) if self._owned else ():
            page = self._owned.get(number)
            if page is not None:
                page.setall(1)

    def _clear_in_page(self, number: int, low: int, high: int) -> None:
        page = self._owned.get(number)
        if page is None:
            if low == high or number not in self._frozen:
                return
            page = self._own(number)
        page[low:high] = 0

    def _same_size(self, other: PagedBitmap) -> None:
        if other._block_count != self._block_count:
            raise InvalidArgumentError(f"bit maps of {self._block_count} and {other._block_count} blocks do not mix")

    def _outside(self, start: int, count: int) -> InvalidArgumentError:
        return InvalidArgumentError(f"blocks [{start}, {start + count}) are outside a map of {self._block_count}")
