"""Changing the size of a volume under its layers: what goes is kept for snapshots first, what is new is unused (X5).

At each line a crash leaves a stack that opens with the old size or with the new one. Growing: the intents of the new
blocks are durable before the volume has them, so a crash leaves them changed. Shrinking: what goes was discarded
like by any user, its before-images durable (invariant 4), before the volume loses it; the intents shrink last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from replkit.blocks.extent import Extent, union
from replkit.contracts.buffers import Buffer
from replkit.contracts.volume import Capability
from replkit.errors import InvalidArgumentError, UnsupportedError, WrongRoleError
from replkit.snapshot.saver import Full

if TYPE_CHECKING:
    from replkit.snapshot.snapped import SnappedVolume


class Resizable(Protocol):
    """The top of a volume stack; all but ``check_resize`` and ``discard`` are called with the gate held alone."""

    def check_resize(self) -> None:
        """Raise if the volume cannot be resized now."""
        ...

    def discard(self, start: int, count: int) -> None:
        """Discard like a user, in parts between which writers get their turn."""
        ...

    def discard_now(self, extent: Extent) -> None:
        """Discard at once. May raise ``Full``."""
        ...

    def write_now(self, start: int, buffer: Buffer) -> None:
        """Write at once. May raise ``Full``."""
        ...

    def follow_resize(self, old_block_count: int) -> None:
        """The layers below have the new size: follow."""
        ...


def resize_stack(top: Resizable, snapped: SnappedVolume, size_bytes: int) -> None:
    """Change the size of a stack; snapshots keep theirs.

    Raises:
        InvalidArgumentError: no size.
        UnsupportedError: the volume cannot be resized.
        WrongRoleError: writes are suspended, or the top refuses.
    """
    if size_bytes < 1:
        raise InvalidArgumentError(f"a volume cannot have {size_bytes} bytes")
    if size_bytes == snapped.size_bytes:
        return
    if snapped.resizes is Capability.NONE:
        raise UnsupportedError(
            f"the volume cannot be resized from {snapped.size_bytes} to {size_bytes} bytes: its backend cannot",
            hint="resize what it is stored in and open it again, or make a new copy in a larger one",
        )
    if snapped.gate.is_suspended:
        raise WrongRoleError("writes are suspended: the volume is not resized now", hint="see what status waits for")
    top.check_resize()
    for extent in _what_goes(snapped, size_bytes):
        top.discard(extent.start, extent.count)
    while True:
        try:
            with snapped.resizing():
                top.check_resize()
                _resize_now(top, snapped, size_bytes)
            return
        except Full as full:
            snapped.wait_for_room(full)


def _resize_now(top: Resizable, snapped: SnappedVolume, size_bytes: int) -> None:
    old_block_count = snapped.block_count
    for extent in _what_goes(snapped, size_bytes):  # once more: a writer may have come since, and a snapshot after it
        top.discard_now(extent)
    if size_bytes < snapped.size_bytes and size_bytes % snapped.block_size:
        _clear_tail(top, snapped, size_bytes)
    snapped.resize_inside(size_bytes)
    top.follow_resize(old_block_count)


def _what_goes(snapped: SnappedVolume, size_bytes: int) -> list[Extent]:
    """Blocks beyond a new end that hold data, or that a snapshot may still need."""
    start, stop, newest = -(-size_bytes // snapped.block_size), snapped.block_count, snapped.queue.newest
    if start >= stop:
        return []
    unsaved = newest.unsaved.runs(start, stop) if newest is not None else ()
    return union(snapped.in_use_between(start, stop), unsaved)


def _clear_tail(top: Resizable, snapped: SnappedVolume, size_bytes: int) -> None:
    """The last block loses its end: that is a write to it, which snapshots and members must see."""
    last, kept = divmod(size_bytes, snapped.block_size)
    block = bytearray(snapped.block_size)
    snapped.read_into(last, block)
    if any(block[kept:]):
        block[kept:] = bytes(len(block) - kept)
        top.write_now(last, block)
