"""Large buffers that are used again, since new memory costs a page fault for every 4 KiB of it."""

from __future__ import annotations

from typing import Final

_KEPT: Final = 3
"""One that is filled, one that is sent, one that somebody may hold a moment longer."""


class BufferPool:
    """Hands out writable views. A buffer is used again when nobody holds a view of it, or of a part of it, any more.

    So a view may be passed on by reference like any other. For one task at a time.
    """

    def __init__(self) -> None:
        self._buffers: list[bytearray] = []

    def take(self, size_bytes: int) -> memoryview:
        """A view of this many bytes, with any content."""
        for buffer in self._buffers:
            if len(buffer) >= size_bytes and _is_unused(buffer):
                return memoryview(buffer)[:size_bytes]
        buffer = bytearray(size_bytes)
        held = [each for each in self._buffers if len(each) >= size_bytes or not _is_unused(each)]
        self._buffers = [buffer, *held][:_KEPT]
        return memoryview(buffer)

    def clear(self) -> None:
        """Give all of them back."""
        self._buffers = []


def _is_unused(buffer: bytearray) -> bool:
    """Python refuses to resize a bytearray while there is a view of it."""
    try:
        buffer.append(0)
    except BufferError:
        return False
    del buffer[-1]
    return True
