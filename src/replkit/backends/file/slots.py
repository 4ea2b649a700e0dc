"""The slots of a partition file: which are free, and the segments that are made of them."""

from __future__ import annotations

import os
from collections.abc import Iterable

from bitarray import bitarray

from replkit.backends.file.layout import (
    END,
    SECTOR_BYTES,
    SEGMENT_HEAD_BYTES,
    PartitionLayout,
    RecordHead,
    encode_record_head,
    encode_segment_head,
)
from replkit.backends.file.scan import Segment
from replkit.backends.file.syscalls import write_full

_ZERO_STEP_BYTES, _SPACE_STEP_BYTES = 1 << 20, 16 << 20


class Slots:
    """Hands out runs of neighbouring slots, lowest first. Used under the partition's lock.

    Lowest first, because an overwrite is several times as fast as the first write to a place of the disk.

    A part of about a segment is kept back for compaction, which must copy before it can give anything back.
    """

    def __init__(self, fd: int, layout: PartitionLayout, identity: int, *, writes_zeros: bool) -> None:
        self._fd, self._layout, self._identity, self._writes_zeros = fd, layout, identity, writes_zeros
        self._free = bitarray(layout.slot_count)
        self._free.setall(1)
        self._reserve = max(2, layout.segment_bytes // layout.slot_bytes)
        self._allocated = os.fstat(fd).st_size

    @property
    def used_bytes(self) -> int:
        """Bytes of slots that are not free."""
        return self._free.count(0) * self._layout.slot_bytes

    def _set(self, segment: Segment, value: int) -> None:
        self._free[segment.start // self._layout.slot_bytes : segment.stop // self._layout.slot_bytes] = value

    def claim(self, segment: Segment) -> None:
        """The slots of a segment that a scan found are not free."""
        self._set(segment, 0)

    def release(self, segments: Iterable[Segment]) -> None:
        """Let slots be used again. Their marks of deletion are durable, so nothing in them can come back."""
        for segment in segments:
            self._set(segment, 1)

    def _take(self, first: int, count: int, *, from_reserve: bool) -> bool:
        slot = self._layout.slot_bytes
        if first + count > self._layout.slot_count or not self._free[first : first + count].all():
            return False
        if not from_reserve and self._free.count() - count < self._reserve:
            return False
        if (first + count) * slot > self._allocated:
            self._allocate((first + count) * slot)
        self._free[first : first + count] = 0
        return True

    def _allocate(self, stop: int) -> None:
        """Let the file grow beyond ``stop``, by a step at a time.

        Before-images wait for their sync, and a sync is quicker where the file system need not turn unwritten space
        into written space; so small records get zeros before them. Chunks get space only.
        """
        step = _ZERO_STEP_BYTES if self._writes_zeros else _SPACE_STEP_BYTES
        stop = min(self._layout.size_bytes, max(stop, self._allocated + step))
        if self._writes_zeros:
            zeros = memoryview(bytes(min(stop - self._allocated, _ZERO_STEP_BYTES)))
            for offset in range(self._allocated, stop, _ZERO_STEP_BYTES):
                write_full(self._fd, [zeros[: stop - offset]], offset)
        else:
            os.posix_fallocate(self._fd, self._allocated, stop - self._allocated)
        self._allocated = stop

    def new_segment(self, size: int, generation: int, *, from_reserve: bool = False) -> Segment | None:
        """A segment with room for ``size`` bytes of records and an end mark."""
        slot = self._layout.slot_bytes
        count = -(-(SEGMENT_HEAD_BYTES + size + SECTOR_BYTES) // slot)
        wanted = bitarray(count)
        wanted.setall(1)
        first = self._free.find(wanted)
        if first < 0 or not self._take(first, count, from_reserve=from_reserve):
            return None
        start = first * slot
        segment = Segment(start, start + count * slot, generation, start + SEGMENT_HEAD_BYTES)
        try:
            write_full(self._fd, [memoryview(encode_segment_head(generation, start, self._identity))], start)
        except OSError:
            self._set(segment, 1)
            raise
        return segment

    def make_room(self, segment: Segment, size: int, *, from_reserve: bool = False) -> bool:
        """Whether ``size`` more bytes and an end mark fit into a segment, perhaps with the slots behind it."""
        missing = segment.tail + size + SECTOR_BYTES - segment.stop
        if missing <= 0:
            return True
        if segment.stop - segment.start >= self._layout.segment_bytes:
            return False
        slot = self._layout.slot_bytes
        count = -(-missing // slot)
        if not self._take(segment.stop // slot, count, from_reserve=from_reserve):
            return False
        segment.stop += count * slot
        return True

    def end(self, segment: Segment, synced: int) -> None:
        """Put an end mark behind a segment, so that a later scan knows that nothing is missing there.

        It also tells up to which sequence number records are durable: what is unreadable of those is damage, not torn.
        """
        head = RecordHead(END, "", 0, segment.generation, synced, segment.tail, 0, 0)
        write_full(self._fd, [memoryview(encode_record_head(head, self._identity))], segment.tail)
