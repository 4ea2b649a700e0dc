"""Records that the producer has put a short while ago, so that playback need not fetch what was just received.

They are kept beside what is on its way to the store (``uploads.MAX_PENDING_BYTES``); both together take at most 68 MiB.
Only this process sees them; readers read the store.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from replkit.contracts.savevolume import Partition
from replkit.objectstore.bundle import SMALL_RECORD_BYTES

LARGE_BYTES: Final = 24 << 20
"""At most so much of large records, as chunks are; the oldest go first."""
SMALL_BYTES: Final = 4 << 20
"""At most so much of small ones, as headers and block lists are, which are read more than once."""


class RecentRecords:
    """Records by key. The caller holds a lock.

    A large one is forgotten when it was taken: a chunk is played once.
    """

    def __init__(self, *, large_bytes: int = LARGE_BYTES, small_bytes: int = SMALL_BYTES) -> None:
        self._large, self._small = _Bounded(large_bytes), _Bounded(small_bytes)

    def add(self, key: str, data: bytes) -> None:
        """Keep a record of a set; before-images are seldom read."""
        if not key.startswith(f"{Partition.AREAS}/"):
            (self._small if len(data) <= SMALL_RECORD_BYTES else self._large).add(key, data)

    def take(self, key: str) -> bytes | None:
        """The record, if it is still here."""
        data = self.small(key)
        return self._large.remove(key) if data is None else data

    def small(self, key: str) -> bytes | None:
        """The same of a small one, of which nothing is forgotten."""
        return self._small.records.get(key)

    def remove(self, key: str) -> None:
        """The record was deleted."""
        self._small.remove(key)
        self._large.remove(key)


class _Bounded:
    def __init__(self, most_bytes: int) -> None:
        self.records: OrderedDict[str, bytes] = OrderedDict()
        self._most_bytes, self._size_bytes = most_bytes, 0

    def add(self, key: str, data: bytes) -> None:
        self.records[key] = data
        self._size_bytes += len(data)
        while self._size_bytes > self._most_bytes:
            self._size_bytes -= len(self.records.popitem(last=False)[1])

    def remove(self, key: str) -> bytes | None:
        data = self.records.pop(key, None)
        if data is not None:
            self._size_bytes -= len(data)
        return data
