"""A volume in memory: pages in a dictionary, absent where nothing was written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

from replkit.blocks.extent import Extent
from replkit.contracts.buffers import Buffer
from replkit.contracts.registry import VolumeOptions
from replkit.contracts.volume import BlockVolume, Capability
from replkit.errors import InvalidArgumentError, NotFoundError

_PAGE_BYTES = 1 << 16


@dataclass
class _Store:
    """What all openers of a name share. One lock: a page is made, changed or dropped by one thread at a time."""

    size_bytes: int
    pages: dict[int, bytearray] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


_stores: dict[str, _Store] = {}
_stores_lock = threading.Lock()


def forget(name: str) -> None:
    """Drop the bytes of this name."""
    with _stores_lock:
        _stores.pop(name, None)


class MemoryVolume(BlockVolume):
    """Blocks in memory; ``flush`` has nothing to do."""

    discards = Capability.NATIVE
    tells_in_use = Capability.NATIVE
    resizes = Capability.NATIVE

    def __init__(self, size_bytes: int, *, block_size: int = 4096, read_only: bool = False) -> None:
        """A volume of its own, known to nobody by name."""
        self._attach(_Store(size_bytes), block_size, read_only)

    def _attach(self, store: _Store, block_size: int, read_only: bool) -> None:
        self._store = store
        self.size_bytes = store.size_bytes
        self.block_size = block_size
        self.read_only = read_only

    @classmethod
    def open(cls, url: str, options: VolumeOptions) -> Self:
        """Open or create the volume ``memory:NAME``."""
        name = url.partition(":")[2]
        with _stores_lock:
            store = _stores.get(name)
            if store is None:
                if not options.create:
                    raise NotFoundError(f"{url}: no such volume in this process", hint="open it with create")
                if options.size_bytes is None:
                    raise InvalidArgumentError(f"{url}: a new volume needs a size")
                store = _stores[name] = _Store(options.size_bytes)
        if options.size_bytes not in {None, store.size_bytes}:
            raise InvalidArgumentError(f"{url}: has {store.size_bytes} bytes, not {options.size_bytes}")
        volume = cls.__new__(cls)
        volume._attach(store, options.block_size, options.read_only)
        return volume

    def read_into(self, start: int, buffer: Buffer) -> None:
        """Copy from the pages; absent ones are zeros."""
        view = memoryview(buffer).cast("B")
        with self._store.lock:
            for page, first, stop, offset in _pieces(start * self.block_size, view.nbytes):
                held = self._store.pages.get(page)
                view[offset : offset + stop - first] = held[first:stop] if held else bytes(stop - first)

    def write(self, start: int, buffer: Buffer) -> None:
        """Copy into the pages; what lies beyond the end of the volume is dropped."""
        view = memoryview(buffer).cast("B")
        with self._store.lock:
            begin = start * self.block_size
            for page, first, stop, offset in _pieces(begin, min(view.nbytes, self.size_bytes - begin)):
                held = self._store.pages.get(page)
                if held is None:
                    held = self._store.pages[page] = bytearray(_PAGE_BYTES)
                held[first:stop] = view[offset : offset + stop - first]

    def discard(self, start: int, count: int) -> None:
        """Drop whole pages and zero the rest."""
        with self._store.lock:
            self._zero(start * self.block_size, count * self.block_size)

    def _zero(self, begin: int, size: int) -> None:
        for page, first, stop, _ in _pieces(begin, size):
            if stop - first == _PAGE_BYTES:
                self._store.pages.pop(page, None)
            elif page in self._store.pages:
                self._store.pages[page][first:stop] = bytes(stop - first)

    def in_use(self) -> Iterator[Extent]:
        """Yield the blocks of the pages that exist."""
        with self._store.lock:
            pages = sorted(self._store.pages)
        stop = 0
        for page in pages:
            first = max(stop, page * _PAGE_BYTES // self.block_size)
            stop = min(self.block_count, -(-(page + 1) * _PAGE_BYTES // self.block_size))
            if first < stop:
                yield Extent(first, stop - first)

    def flush(self) -> None:
        """Memory is as durable as this volume gets."""

    def resize(self, size_bytes: int) -> None:
        """Change the size; what is cut off reads as zeros when the volume grows again."""
        with self._store.lock:
            if size_bytes < self._store.size_bytes:
                held = max(self._store.pages, default=-1) + 1
                self._zero(size_bytes, max(0, held * _PAGE_BYTES - size_bytes))
            self._store.size_bytes = self.size_bytes = size_bytes


def _pieces(begin: int, size: int) -> Iterator[tuple[int, int, int, int]]:
    """Page, first and last byte in it, and offset in the request, for each page that ``size`` bytes touch."""
    offset = 0
    while offset < size:
        page, first = divmod(begin + offset, _PAGE_BYTES)
        stop = min(_PAGE_BYTES, first + size - offset)
        yield page, first, stop, offset
        offset += stop - first
