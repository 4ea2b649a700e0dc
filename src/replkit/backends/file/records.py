"""Read a record through its entry in the index."""

from __future__ import annotations

from xxhash import xxh3_64_intdigest

from replkit.backends.file.layout import SECTOR_BYTES
from replkit.backends.file.scan import Entry
from replkit.backends.file.syscalls import read_full


def read_record(fd: int, entry: Entry, start: int, stop: int | None) -> memoryview | None:
    """Bytes ``[start, stop)``; None where they are not whole, or a whole record does not have its checksum."""
    stop = entry.size if stop is None else min(stop, entry.size)
    buffer = bytearray(max(0, stop - start))
    if buffer and read_full(fd, memoryview(buffer), entry.offset + SECTOR_BYTES + start) != len(buffer):
        return None
    if len(buffer) == entry.size and xxh3_64_intdigest(buffer) != entry.checksum:
        return None
    return memoryview(buffer)
