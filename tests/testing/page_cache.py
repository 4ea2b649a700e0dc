"""Backends that a crash can happen to: memory, with what was not made durable apart, as behind a page cache.

They are right; ``flawed_*.py`` make wrong ones of them. Each is opened by name, as ``kit:NAME``.
"""

from __future__ import annotations

import random
from collections import Counter

from replkit.backends.memory import MemorySaveVolume, MemoryVolume
from replkit.contracts.savevolume import Partition

_images: dict[str, tuple[MemoryVolume, bytes]] = {}
"""Of each volume one that was opened, and the content at the last flush."""
_failures: Counter[str] = Counter()
_records: dict[str, tuple[MemorySaveVolume, dict[str, bytes]]] = {}


class CachedVolume(MemoryVolume):
    """What was not flushed is in memory only."""

    @classmethod
    def open(cls, url, options):
        volume = super().open(url, options)
        volume.url = url
        _images.setdefault(url, (volume, bytes(volume.size_bytes)))
        return volume

    def content(self):
        buffer = bytearray(self.block_count * self.block_size)
        MemoryVolume.read_into(self, 0, buffer)
        return bytes(buffer[: self.size_bytes])

    def flush(self):
        _images[self.url] = (self, self.content())

    def resize(self, size_bytes):
        super().resize(size_bytes)
        image = _images[self.url][1]
        _images[self.url] = (self, image[:size_bytes].ljust(size_bytes, b"\0"))


class CachedSaveVolume(MemorySaveVolume):
    """What was not synced is in memory only."""

    @classmethod
    def open(cls, url, options):
        save = super().open(url, options)
        save.url = url
        _records.setdefault(url, (save, {}))
        return save

    def sync(self):
        super().sync()
        _records[self.url] = (self, dict(self._store.records))


def lose_power(url: str) -> None:
    """Of each sector and record that is not durable either state survives."""
    _failures[url] += 1
    chance = random.Random(_failures[url])  # the same in each run, whatever ran before
    if url in _images:
        volume, durable = _images[url]
        now = volume.content()
        kept = [
            (durable if chance.random() < 0.5 else now)[at : at + 512]
            for at in range(0, max(len(now), len(durable)), 512)
        ]
        held = MemoryVolume.open(url, _Plain(volume))
        held.block_size = 512
        MemoryVolume.write(held, 0, b"".join(kept).ljust(held.block_count * 512, b"\0"))
        _images[url] = (volume, b"".join(kept))
    if url in _records:
        save, durable = _records[url]
        store = save._store
        for key in sorted(set(durable) ^ set(store.records)):
            if chance.random() < 0.5:
                if key in durable:
                    store.records[key] = durable[key]
                else:
                    del store.records[key]
        store.used = {
            part: sum(len(data) for key, data in store.records.items() if key.startswith(f"{part}/"))
            for part in Partition
        }
        _records[url] = (save, dict(store.records))


class _Plain:
    """Options that open what is there."""

    create = read_only = False
    size_bytes = None

    def __init__(self, volume):
        self.block_size = volume.block_size
