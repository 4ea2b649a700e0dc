"""The feed: a ring in shared memory by which a producer tells readers where it put or deleted a record.

It saves readers from looking through the partition files again and again. It is a hint only: a reader checks each
record where the feed points to, and looks through everything when it fell behind or a new producer came.

Header: magic, incarnation of the producer, number of events so far (each 8 bytes). Event: 16 bits of its number,
4 bits of kind and partition, 44 bits of the record's offset in sectors.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from pathlib import Path
from typing import NamedTuple

from replkit.backends.file.layout import SECTOR_BYTES
from replkit.contracts.savevolume import Partition

_MAGIC = b"RKFEED01"
_HEADER_BYTES = 24
_EVENTS = 1 << 15
FEED_BYTES = _HEADER_BYTES + 8 * _EVENTS
_HEADER = struct.Struct("<8sQQ")
_NUMBER = struct.Struct("<Q")
_PARTITIONS = tuple(Partition)
_DELETED = 4


class Event(NamedTuple):
    """A record head was put, or marked as deleted, at ``offset``."""

    partition: Partition
    offset: int
    is_deleted: bool


class FeedState(NamedTuple):
    """How far a reader has followed."""

    incarnation: int
    event_count: int


class FeedWriter:
    """The producer's side."""

    def __init__(self, path: Path, incarnation: int) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, FEED_BYTES)
            self._map = mmap.mmap(fd, FEED_BYTES)
        finally:
            os.close(fd)
        self._lock = threading.Lock()
        self._count = 0
        _HEADER.pack_into(self._map, 0, _MAGIC, incarnation, 0)

    def tell(self, partition: Partition, offset: int, *, is_deleted: bool) -> None:
        """Append an event; the count is raised after the event is there."""
        what = _PARTITIONS.index(partition) | (_DELETED if is_deleted else 0)
        with self._lock:
            number = self._count
            event = (number & 0xFFFF) << 48 | what << 44 | offset // SECTOR_BYTES
            _NUMBER.pack_into(self._map, _HEADER_BYTES + number % _EVENTS * 8, event)
            self._count = number + 1
            _NUMBER.pack_into(self._map, 16, self._count)

    def close(self) -> None:
        """Unmap."""
        self._map.close()


class FeedReader:
    """A reader's side."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._map = mmap.mmap(fd, FEED_BYTES, prot=mmap.PROT_READ)
        finally:
            os.close(fd)

    def state(self) -> FeedState:
        """How far the producer is."""
        _, incarnation, count = _HEADER.unpack_from(self._map)
        return FeedState(incarnation, count)

    def events(self, since: FeedState, until: FeedState) -> list[Event] | None:
        """Events between two states, or None where some are lost and everything must be looked through."""
        if since.incarnation != until.incarnation or not 0 <= until.event_count - since.event_count < _EVENTS // 2:
            return None
        events = []
        for number in range(since.event_count, until.event_count):
            (value,) = _NUMBER.unpack_from(self._map, _HEADER_BYTES + number % _EVENTS * 8)
            what = value >> 44 & 0xF
            if value >> 48 != number & 0xFFFF or what & 3 >= len(_PARTITIONS):
                return None  # overwritten meanwhile
            offset = (value & (1 << 44) - 1) * SECTOR_BYTES
            events.append(Event(_PARTITIONS[what & 3], offset, bool(what & _DELETED)))
        return events

    def close(self) -> None:
        """Unmap."""
        self._map.close()
