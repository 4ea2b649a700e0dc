"""One partition of a file save volume at its producer: slots, segments, and the index of records."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from xxhash import xxh3_64, xxh3_64_intdigest

from replkit.backends.file.layout import (
    DEAD,
    END,
    LIVE,
    SECTOR_BYTES,
    STATE_OFFSET,
    PartitionLayout,
    RecordHead,
    decode_record_head,
    encode_record_head,
    span_bytes,
)
from replkit.backends.file.records import read_record
from replkit.backends.file.scan import Entry, Scan, Segment, scan_partition
from replkit.backends.file.slots import Slots
from replkit.backends.file.syscalls import FULL, WRITEBACK_BYTES, begin_writeback, read_full, sync_data, write_full
from replkit.errors import AlreadyExistsError, CorruptRecordError, SaveVolumeFullError

_MAX_COMPACTIONS = 16

Tell = Callable[[int, bool], None]
"""Tells readers of a record at an offset: put (False) or deleted (True)."""


def group_of(key: str) -> str:
    """The first two parts of a key: a set, or the save area of a snapshot."""
    return "/".join(key.split("/", 2)[:2])


class Partition:
    """Records in segments. A put appends to the open segment of its group; each save area has a segment of its own.

    ``lock`` covers the slots, the segments and changes of the index; ``get`` needs none. OSErrors pass through.
    """

    def __init__(
        self,
        path: Path,
        layout: PartitionLayout,
        identity: int,
        tell: Tell,
        *,
        own_segments: bool,
        first_sequence: int,
        writes_zeros: bool,
    ) -> None:
        """Open and recover.

        Args:
            path: the partition file.
            layout: its slots.
            identity: of the save volume.
            tell: called after each put and delete.
            own_segments: records of different groups never share a segment.
            first_sequence: larger than any that an earlier producer can have used. What the scan finds does not tell:
                remains of a segment whose head was lost in a crash must not fit into a new one.
            writes_zeros: see ``Slots``.
        """
        self._path, self._layout, self._identity, self._tell = path, layout, identity, tell
        self._own_segments = own_segments
        self.lock = threading.Lock()
        self._freed: list[Segment] = []  # without live records; their slots are free after the next sync
        self._open: dict[str, Segment] = {}
        self._segments: set[Segment] = set()
        self.groups: dict[str, dict[str, Entry]] = {}
        self.dropped: list[str] = []
        """Keys of records that were put, but not synced, when the last producer died, and are not whole."""
        self.damaged: dict[Segment, str] = {}
        """Segments that hold a record which was durable once and cannot be found any more, and what is known of it."""
        self.is_dirty = False
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._slots = Slots(self.fd, layout, identity, writes_zeros=writes_zeros)
        try:
            self._recover(scan_partition(self.fd, layout, identity), first_sequence)
        except BaseException:
            os.close(self.fd)
            raise

    # -- recovery --

    def _recover(self, scan: Scan, first_sequence: int) -> None:
        self._sequence = max(scan.sequence, first_sequence)
        for segment, offset in scan.damaged:
            self.damaged[segment] = f"{self._path}: the record head at byte {offset} is damaged"
        unsure = {record.offset for record in scan.unsure}
        for record, segment in sorted(scan.live, key=lambda pair: pair[0].sequence):
            # What may not have been durable when the producer died must be whole, or it was never there (torn tail).
            if record.offset in unsure or (record.sequence > scan.synced and not self._is_whole(record)):
                self._mark(record.offset, DEAD)
                segment.remove(record.size)
                self.dropped.append(record.key)
                continue
            group = self.groups.setdefault(group_of(record.key), {})
            moved = group.get(record.key)  # compaction died between copy and mark: the later copy counts
            if moved is not None and moved.segment is not None:
                self._mark(moved.offset, DEAD)
                moved.segment.remove(moved.size)
            group[record.key] = Entry(record.offset, record.size, record.checksum, record.sequence, segment)
        for segment in scan.segments:
            if segment.live_count:
                self._segments.add(segment)
                self._slots.claim(segment)
        os.fsync(self.fd)  # what is listed from now on is durable
        self._synced = self._sequence
        for segment in scan.unclosed:
            self._slots.end(segment, self._synced)

    def _is_whole(self, record: RecordHead) -> bool:
        data = bytearray(record.size)
        done = read_full(self.fd, memoryview(data), record.offset + SECTOR_BYTES)
        return done == record.size and xxh3_64_intdigest(data) == record.checksum

    # -- segments; the lock is held --

    def _new_segment(self, size: int, *, from_reserve: bool = False) -> Segment | None:
        segment = self._slots.new_segment(size, self._sequence + 1, from_reserve=from_reserve)
        if segment is not None:
            self._sequence += 1
            self._segments.add(segment)
        return segment

    def _drop_if_empty(self, segment: Segment) -> None:
        if segment.live_count:
            return
        for group, candidate in list(self._open.items()):
            if candidate is segment:
                self._slots.end(self._open.pop(group), self._synced)
        self._segments.discard(segment)
        self.damaged.pop(segment, None)
        self._freed.append(segment)

    def _segment_for(self, key: str, size: int) -> Segment:
        """The open segment of the key's group, or a new one; room is looked for in earnest before it is full."""
        group = group_of(key) if self._own_segments else ""
        segment = self._open.get(group)
        if segment is not None:
            if self._slots.make_room(segment, size):
                return segment
            self._slots.end(self._open.pop(group), self._synced)
        segment = self._new_segment(size)
        if segment is None and self._freed:
            self._release_freed()
            segment = self._new_segment(size)
        for _ in range(_MAX_COMPACTIONS):
            if segment is not None or not self._compact():
                break
            segment = self._new_segment(size)
        if segment is None:
            raise SaveVolumeFullError(
                f"{self._path}: no room for the {size} bytes of {key}; "
                f"{self.used_bytes} of {self._layout.size_bytes} bytes are in use"
            )
        self._open[group] = segment
        return segment

    def _release_freed(self) -> None:
        sync_data(self.fd)
        self._slots.release(self._freed)
        self._freed = []

    # -- compaction; the lock is held --

    def _compact(self) -> bool:
        """Copy the live records of the emptiest segments together, and free those; False if that gives nothing.

        The copies are durable before their originals are marked as deleted, and the marks before the place is reused:
        a crash in between leaves a record twice, and recovery takes the later one.
        """
        victims = self._victims()
        moves = [
            (key, entry, read_record(self.fd, entry, 0, None))
            for group in self.groups.values()
            for key, entry in group.items()
            if entry.segment in victims
        ]
        moved = [(key, entry, copy) for key, entry, data in moves if (copy := self._copy(key, data)) is not None]
        if not moved:
            return False
        sync_data(self.fd)
        for key, entry, copy in moved:
            self.groups[group_of(key)][key] = copy
            self._tell(copy.offset, False)
            self._mark(entry.offset, DEAD)
            self._tell(entry.offset, True)
            if entry.segment is not None:
                entry.segment.remove(entry.size)
                self._drop_if_empty(entry.segment)
        has_freed = bool(self._freed)
        self._release_freed()
        return has_freed

    def _victims(self) -> set[Segment]:
        """Segments of which at most half is live, emptiest first, as many as fit into one segment together."""
        busy = {*self._open.values(), *self.damaged}
        sparse = [s for s in self._segments if s not in busy and s.live_bytes * 2 <= s.stop - s.start]
        victims: set[Segment] = set()
        total = 0
        for segment in sorted(sparse, key=lambda s: (s.live_bytes / (s.stop - s.start), s.start)):
            total += segment.live_bytes
            if victims and total > self._layout.segment_bytes // 2:
                break
            victims.add(segment)
        return victims

    def _copy(self, key: str, data: memoryview | None) -> Entry | None:
        """Put a record again, into a segment for what lives long; None if it is damaged or there is no room.

        A lack of room must not end the compaction: a copy that stays behind its original would outlive it.
        """
        if data is None:
            return None
        try:
            return self._copy_whole(key, data)
        except OSError as error:
            if error.errno not in FULL:
                raise
            return None

    def _copy_whole(self, key: str, data: memoryview) -> Entry | None:
        name = f"{group_of(key) if self._own_segments else ''}*"
        size = span_bytes(data.nbytes)
        segment = self._open.get(name)
        if segment is not None and not self._slots.make_room(segment, size, from_reserve=True):
            self._slots.end(self._open.pop(name), self._synced)
            segment = None
        if segment is None:
            segment = self._new_segment(size, from_reserve=True)
            if segment is None:
                return None
            self._open[name] = segment
        return self._append(segment, key, [data], data.nbytes, xxh3_64_intdigest(data))

    # -- records --

    @property
    def used_bytes(self) -> int:
        """Bytes of slots that hold records or a segment that is still written."""
        return self._slots.used_bytes - sum(segment.stop - segment.start for segment in self._freed)

    def find(self, key: str) -> Entry | None:
        """Where a record is."""
        group = self.groups.get(group_of(key))
        return None if group is None else group.get(key)

    def put(self, key: str, parts: Sequence[memoryview]) -> None:
        """Append a record with one ``pwritev``."""
        digest = xxh3_64()
        size = 0
        for part in parts:
            digest.update(part)
            size += part.nbytes
        checksum = digest.intdigest()
        with self.lock:
            if self.find(key) is not None:
                raise AlreadyExistsError(f"{self._path}: {key} is already there")
            entry = self._append(self._segment_for(key, span_bytes(size)), key, parts, size, checksum)
            self.groups.setdefault(group_of(key), {})[key] = entry
        self._tell(entry.offset, False)
        if size >= WRITEBACK_BYTES:  # a chunk: the disk is busy with it while the next one is made or received
            begin_writeback(self.fd, entry.offset, size)

    def _append(self, segment: Segment, key: str, parts: Sequence[memoryview], size: int, checksum: int) -> Entry:
        self._sequence += 1
        offset = segment.tail
        head = RecordHead(LIVE, key, self._sequence, segment.generation, self._synced, offset, size, checksum)
        sector = memoryview(encode_record_head(head, self._identity))
        padding = memoryview(bytes(-size % SECTOR_BYTES))
        try:
            segment.tail = write_full(self.fd, [sector, *parts, padding], offset)
        except OSError:
            self._give_up(segment)
            raise
        self.is_dirty = True
        segment.add(size)
        return Entry(offset, size, checksum, self._sequence, segment)

    def _give_up(self, segment: Segment) -> None:
        """After a failed write nothing more goes into the segment, and an end mark takes the place of what was begun.

        Else recovery would find its head and, once a later sync has passed its number, take it for a durable record.
        Where there is no room for the mark there was none for the head. Any other error is final: no sync follows.
        """
        self.is_dirty = True
        try:
            self._slots.end(segment, self._synced)
        except OSError as error:
            if error.errno not in FULL or self._has_head(segment.tail):
                raise OSError(errno.EIO, f"remains of a failed write at {segment.tail} cannot be taken back") from error
        for group, candidate in list(self._open.items()):
            if candidate is segment:
                del self._open[group]
        self._drop_if_empty(segment)

    def _has_head(self, offset: int) -> bool:
        head = decode_record_head(os.pread(self.fd, SECTOR_BYTES, offset), offset, self._identity)
        return head is not None and head.state != END

    def delete(self, keys: Sequence[str]) -> None:
        """Mark records as deleted in place; a segment without live records gives its slots back."""
        for key in keys:
            with self.lock:
                group = self.groups.get(group_of(key), {})
                entry = group.get(key)
                if entry is None:
                    continue
                self._mark(entry.offset, DEAD)
                self._forget(key, entry)
            self._tell(entry.offset, True)

    def _forget(self, key: str, entry: Entry) -> None:
        group = self.groups[group_of(key)]
        del group[key]
        if not group:
            del self.groups[group_of(key)]
        if entry.segment is not None:
            entry.segment.remove(entry.size)
            self._drop_if_empty(entry.segment)

    def _mark(self, offset: int, state: bytes) -> None:
        self.is_dirty = True
        if os.pwrite(self.fd, state, offset + STATE_OFFSET) != 1:
            raise OSError(errno.EIO, f"{self._path}: cannot mark the record at {offset}")

    def list(self, prefix: str) -> list[str]:
        """Sorted keys; refused for a save area that is known to lack a record (invariant 4: never partly wrong)."""
        with self.lock:
            keys = list_keys(self.groups, prefix)
            if self.damaged and self._own_segments and prefix.count("/") >= 2:
                for key in keys:
                    entry = self.find(key)
                    if entry is not None and entry.segment in self.damaged:
                        raise CorruptRecordError(f"{self.damaged[entry.segment]}; a record like {key} is lost")
            return keys

    def sync(self) -> None:
        """Make what was put and deleted before the call durable."""
        with self.lock:
            if not self.is_dirty:
                return
            self.is_dirty = False
            target, freed, self._freed = self._sequence, self._freed, []
        sync_data(self.fd)
        with self.lock:
            self._synced = max(self._synced, target)
            self._slots.release(freed)

    def close(self) -> None:
        """Put end marks behind open segments and close the file."""
        with self.lock:
            try:
                for segment in self._open.values():
                    self._slots.end(segment, self._synced)
            finally:
                self._open.clear()
                os.close(self.fd)


def list_keys(groups: dict[str, dict[str, Entry]], prefix: str) -> list[str]:
    """Sorted keys with a prefix, looking only into groups that can have some."""
    if prefix.count("/") >= 2:
        return sorted(key for key in groups.get(group_of(prefix), ()) if key.startswith(prefix))
    keys = [key for name, group in groups.items() if name.startswith(prefix) for key in group]
    return sorted(keys)
