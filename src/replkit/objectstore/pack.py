"""Packs: many pages of the map in one object, so that a checkpoint costs few requests (the source's staged bit maps).

A pack is its pages one after another, then an index that says which pages they are. Pages that are no longer named stay
until so few of a pack are left that those are rewritten and the pack is condemned.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from replkit.blocks.record import seal, unseal
from replkit.errors import CorruptRecordError
from replkit.objectstore.map_pages import PageRef
from replkit.objectstore.volume_format import PackRow
from replkit.objectstore.volume_objects import Objects

PACK_MAGIC: Final = b"RKVP"
PACK_VERSION: Final = 1
PACK_FIELDS: Final = (("number", "Q"), ("pages", "I"))
PACK_ENTRY_FIELDS: Final = (("tree", "B"), ("level", "B"), ("index", "Q"), ("length", "I"))
_HEAD = struct.Struct("<" + "".join(code for _, code in PACK_FIELDS))
_ENTRY = struct.Struct("<" + "".join(code for _, code in PACK_ENTRY_FIELDS))
_MAX_PAGES = 1 << 20
_PUT_AT_ONCE = 4


class PageName(NamedTuple):
    """Which page of which tree."""

    tree: int
    level: int
    page: int


def encode_pack_index(number: int, pages: Sequence[tuple[PageName, int]]) -> bytes:
    """The index at the end of a pack: names and lengths of its pages, in order."""
    entries = [_ENTRY.pack(*name, length) for name, length in pages]
    return seal(PACK_MAGIC, PACK_VERSION, _HEAD.pack(number, len(pages)) + b"".join(entries))


def decode_pack_index(number: int, record: memoryview, what: str) -> list[tuple[PageName, PageRef]]:
    """Pages of a pack and where they lie; ``CorruptRecordError`` for what ``encode_pack_index`` did not make."""
    most_bytes = _HEAD.size + _MAX_PAGES * _ENTRY.size
    plain = unseal(PACK_MAGIC, PACK_VERSION, record, max_plain_bytes=most_bytes, what=what)
    if len(plain) < _HEAD.size:
        raise CorruptRecordError(f"{what}: {len(plain)} bytes are too few for its head")
    found, count = _HEAD.unpack_from(plain)
    if found != number or len(plain) != _HEAD.size + count * _ENTRY.size:
        raise CorruptRecordError(f"{what}: {len(plain)} bytes with {count} pages of pack {found:x}")
    pages, offset = [], 0
    for tree, level, page, length in _ENTRY.iter_unpack(memoryview(plain)[_HEAD.size :]):
        pages.append((PageName(tree, level, page), PageRef(number, offset, length)))
        offset += length
    return pages


class PackWriter:
    """Gathers pages into packs and puts those; keeps the account of live bytes in ``packs``.

    Nothing it puts is named by a root before the next publication, so a crash leaves orphans only.
    """

    def __init__(self, objects: Objects, packs: dict[int, PackRow]) -> None:
        self._objects = objects
        self._packs = packs
        self._number: int | None = None
        self._pages: list[tuple[PageName, int]] = []
        self._records: list[bytes] = []
        self._size = 0
        self._waiting: list[Callable[[], None]] = []
        self.added = 0
        """Packs put so far."""

    def add(self, name: PageName, record: bytes) -> PageRef:
        """Put a page into the pack that is being filled; where it will lie."""
        if self._number is None:
            self._number = self._objects.allocate()
        ref = PageRef(self._number, self._size, len(record))
        self._pages.append((name, len(record)))
        self._records.append(record)
        self._size += len(record)
        if self._size >= self._objects.tuning.object_bytes:
            self._close_pack()
            if len(self._waiting) >= _PUT_AT_ONCE:
                self._put()
        return ref

    def drop(self, ref: PageRef) -> None:
        """A page of an earlier checkpoint is no longer named."""
        row = self._packs.get(ref.pack)
        if row is None or row.live_bytes < ref.length:
            raise CorruptRecordError(f"{self._objects.store.url}: page {ref} is of no pack that the root knows")
        self._packs[ref.pack] = PackRow(row.page_bytes, row.live_bytes - ref.length, row.index_bytes)

    def finish(self) -> None:
        """Put what is left; all packs are durable on return."""
        if self._pages:
            self._close_pack()
        self._put()

    def _close_pack(self) -> None:
        number = self._number
        if number is None:
            return
        index = encode_pack_index(number, self._pages)
        self._packs[number] = PackRow(self._size, self._size, len(index))
        self._waiting.append(partial(self._objects.put, "map", number, [*self._records, index]))
        self.added += 1
        self._number, self._pages, self._records, self._size = None, [], [], 0

    def _put(self) -> None:
        self._objects.run(self._waiting)
        self._waiting = []


def load_pack_index(objects: Objects, number: int, row: PackRow) -> list[tuple[PageName, PageRef]]:
    """The pages that a pack had when it was put."""
    record = objects.get("map", number, row.page_bytes, row.page_bytes + row.index_bytes)
    return decode_pack_index(number, record, objects.place("map", number))
