"""Find the segments and records of a partition file again, without believing anything that is not checked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from replkit.backends.file.layout import (
    END,
    LIVE,
    RECORD_MAGIC,
    SECTOR_BYTES,
    SEGMENT_HEAD_BYTES,
    PartitionLayout,
    RecordHead,
    decode_record_head,
    decode_segment_head,
    span_bytes,
)

_WINDOW_BYTES = 1 << 18


@dataclass(eq=False)
class Segment:
    """A run of slots. ``tail`` is where its next record would begin, ``stop`` where its slots end."""

    start: int
    stop: int
    generation: int
    tail: int
    live_count: int = 0
    live_bytes: int = 0
    """Bytes of live records, with heads and padding."""

    def add(self, size: int) -> None:
        """Count a live record with ``size`` bytes of data."""
        self.live_count += 1
        self.live_bytes += span_bytes(size)

    def remove(self, size: int) -> None:
        """Count a live record less."""
        self.live_count -= 1
        self.live_bytes -= span_bytes(size)


class Entry(NamedTuple):
    """Where a live record is; ``segment`` is None at a reader."""

    offset: int
    size: int
    checksum: int
    sequence: int
    segment: Segment | None


@dataclass
class Scan:
    """What a partition file holds. ``damaged``: where a record head had to be and none was readable."""

    segments: list[Segment] = field(default_factory=list)
    live: list[tuple[RecordHead, Segment]] = field(default_factory=list)
    sequence: int = 0
    """The highest sequence number or generation that was met."""
    synced: int = 0
    """The highest sequence number that is known to have been durable."""
    damaged: list[tuple[Segment, int]] = field(default_factory=list)
    unsure: list[RecordHead] = field(default_factory=list)
    """Live records behind an unreadable head that were not known to be durable."""
    unclosed: list[Segment] = field(default_factory=list)
    """Segments without an end mark where it had to be: they were in use when the producer died."""


class Window:
    """Reads small pieces through a buffer, because most record heads lie near each other."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._data = b""
        self._begin = 0

    def read(self, offset: int, size: int) -> bytes:
        """At most ``size`` bytes at ``offset``; fewer at the end of the file."""
        at = offset - self._begin
        if at < 0 or at + size > len(self._data):
            self._data = os.pread(self._fd, max(size, _WINDOW_BYTES), offset)
            self._begin, at = offset, 0
        return self._data[at : at + size]


class _Scanner:
    """One pass over a partition file, newest segment first, so that remains of older ones are known as such."""

    def __init__(self, fd: int, layout: PartitionLayout, identity: int) -> None:
        self._fd, self._layout, self._identity = fd, layout, identity
        self._window = Window(fd)
        self._claimed = bytearray(layout.slot_count + 1)  # slots of segments seen so far
        self._gaps: list[tuple[Segment, int, list[RecordHead]]] = []
        self.scan = Scan()

    def run(self) -> Scan:
        """Find every live record, then decide what the unreadable heads mean."""
        heads = []
        for offset in range(0, min(self._layout.size_bytes, os.fstat(self._fd).st_size), self._layout.slot_bytes):
            head = os.pread(self._fd, SEGMENT_HEAD_BYTES, offset)
            generation = decode_segment_head(head, offset, self._identity)
            if generation is not None:
                heads.append((generation, offset))
        for generation, offset in sorted(heads, reverse=True):
            self.scan.sequence = max(self.scan.sequence, generation)
            self._scan_segment(Segment(offset, offset, generation, offset + SEGMENT_HEAD_BYTES))
        for segment, gap, behind in self._gaps:
            if any(record.sequence <= self.scan.synced for record in behind):
                self.scan.damaged.append((segment, gap))
            self.scan.unsure += [record for record in behind if record.sequence > self.scan.synced]
        return self.scan

    def _scan_segment(self, segment: Segment) -> None:
        scan, slot = self.scan, self._layout.slot_bytes
        behind: list[RecordHead] | None = None
        for record, gap in self._chain(segment):
            if record is None:
                behind = []
                self._gaps.append((segment, gap, behind))
                continue
            scan.sequence = max(scan.sequence, record.sequence)
            scan.synced = max(scan.synced, record.synced)
            segment.tail = record.next_offset
            if record.state == LIVE:
                scan.live.append((record, segment))
                segment.add(record.size)
                if behind is not None:
                    behind.append(record)
        segment.stop = min(self._layout.size_bytes, -(-segment.tail // slot) * slot)
        for claimed in range(segment.start // slot, segment.stop // slot):
            self._claimed[claimed] = 1
        scan.segments.append(segment)

    def _chain(self, segment: Segment) -> Iterator[tuple[RecordHead | None, int]]:
        """Yield the records; where a head is unreadable, yield (None, its offset), then those behind it."""
        offset = segment.tail
        while offset + SECTOR_BYTES <= self._layout.size_bytes and not self._is_claimed(offset):
            record = decode_record_head(self._window.read(offset, SECTOR_BYTES), offset, self._identity)
            if record is not None and record.generation == segment.generation and record.state == END:
                self.scan.synced = max(self.scan.synced, record.synced)
                return
            if record is None or not self._belongs(record, segment):
                behind = self._find_behind(offset, segment)
                if behind is None:
                    self.scan.unclosed.append(segment)  # only here: elsewhere its tail may lie in a newer segment
                    return
                yield None, offset
                offset = behind
            else:
                yield record, 0
                offset = record.next_offset

    def _is_claimed(self, offset: int) -> bool:
        return bool(self._claimed[offset // self._layout.slot_bytes])

    def _belongs(self, record: RecordHead, segment: Segment) -> bool:
        return record.generation == segment.generation and record.next_offset <= self._layout.size_bytes

    def _find_behind(self, offset: int, segment: Segment) -> int | None:
        """Where the next record begins behind an unreadable head, as far as the segment could reach."""
        reach = max(segment.start + self._layout.segment_bytes, offset) + 2 * self._layout.segment_bytes
        at, limit = offset + SECTOR_BYTES, min(self._layout.size_bytes, reach)
        while at < limit and not self._is_claimed(at):
            room = self._layout.slot_bytes - at % self._layout.slot_bytes
            data = self._window.read(at, min(room, limit - at))
            found = data.find(RECORD_MAGIC)
            while found >= 0:
                head = decode_record_head(data[found : found + SECTOR_BYTES], at + found, self._identity)
                if head is not None and self._belongs(head, segment) and head.state != END:
                    return at + found
                found = data.find(RECORD_MAGIC, found + 1)
            at += room
        return None


def scan_partition(fd: int, layout: PartitionLayout, identity: int) -> Scan:
    """Find every segment, also those without a live record, and every live record."""
    return _Scanner(fd, layout, identity).run()
