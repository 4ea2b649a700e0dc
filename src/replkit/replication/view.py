"""Views of a secondary: read-only volumes that always stand at a boundary of the primary's history (C3, FIG. 6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from replkit.blocks.extent import Extent
from replkit.contracts.buffers import Buffer
from replkit.contracts.position import Position
from replkit.contracts.volume import BlockVolume
from replkit.errors import InconsistentError, ReadOnlyError, RecordMissingError
from replkit.replication.accumulated import Accumulated
from replkit.replication.index import Place
from replkit.replication.set_reader import BlockReader


class View(BlockVolume):
    """The newest received boundary: each read looks in the index of accumulated sets first, then in the volume.

    Two reads may see two boundaries; for one that stays, ``pin``. ``InconsistentError`` while a new copy runs.
    """

    read_only = True

    def __init__(self, volume: BlockVolume, sets: Accumulated, check: Callable[[], None]) -> None:
        self._volume = volume
        self._sets = sets
        self._check = check
        self.block_size = volume.block_size
        self.size_bytes = volume.size_bytes

    @property
    def boundary(self) -> Position:
        """The position that a read which begins now sees."""
        return self._sets.boundary

    def read_into(self, start: int, buffer: Buffer) -> None:
        """Fill ``buffer`` with blocks of one boundary."""
        out = memoryview(buffer).cast("B")
        ticket, places = self._sets.begin_read(start, len(out) // self.block_size)
        try:
            self._check()  # after the ticket: a copy that begins now waits for the read
            with trimmed_is_told(self.boundary):
                read_places(self._volume, self._sets.blocks, places, out)
        finally:
            self._sets.end(ticket)

    def write(self, start: int, buffer: Buffer) -> None:
        """Refused: a secondary changes by playback only."""
        raise ReadOnlyError(
            f"a view cannot be written (block {start}, {memoryview(buffer).nbytes} bytes)",
            hint="promote the secondary first",
        )

    def discard(self, start: int, count: int) -> None:
        """Refused, as ``write``."""
        raise ReadOnlyError(
            f"a view cannot be discarded ({count} blocks from {start})", hint="promote the secondary first"
        )

    def flush(self) -> None:
        """Nothing to flush."""


class PinnedView(View):
    """A view that stays at one boundary until ``close``; the player goes on as soon as it could make a snapshot.

    ``rebase`` replaces index and volume by a snapshot of the very boundary, which the player makes when it gets
    there; until then, and where the volume makes no snapshots, the player waits (invariant 11: status says so).
    """

    def __init__(
        self, volume: BlockVolume, sets: Accumulated, check: Callable[[], None], on_close: Callable[[PinnedView], None]
    ) -> None:
        super().__init__(volume, sets, check)
        self._generation = sets.generation
        self._key, self._ticket, self._boundary, self._index = sets.pin()
        self._on_close = on_close
        self.snapshot_name: str | None = None
        self._snapshot: BlockVolume | None = None

    @property
    def boundary(self) -> Position:
        """The position at which the view stays."""
        return self._boundary

    def read_into(self, start: int, buffer: Buffer) -> None:
        """Fill ``buffer`` with blocks of the boundary; ``InconsistentError`` once a new copy has replaced it."""
        out = memoryview(buffer).cast("B")
        key = self._sets.begin_pinned_read(self._ticket)
        try:
            self._check()
            if self._generation != self._sets.generation:
                raise InconsistentError(f"boundary {self._boundary} was replaced by a new copy", hint="open a new view")
            if self._snapshot is not None:
                self._snapshot.read_into(start, out)
            else:
                places = self._index.find(start, len(out) // self.block_size)
                with trimmed_is_told(self._boundary):
                    read_places(self._volume, self._sets.blocks, places, out)
        finally:
            self._sets.end(key)

    def rebase(self, name: str, snapshot: BlockVolume) -> None:
        """Read the snapshot from now on; the player is free to go on once reads under way are done."""
        self.snapshot_name = name
        self._snapshot = snapshot
        self._sets.end(self._key)

    def close(self) -> None:
        """Release the boundary."""
        self._sets.end(self._key)
        self._on_close(self)


@contextmanager
def trimmed_is_told(boundary: Position) -> Iterator[None]:
    """Say what a missing record means to a reader: data of its boundary was given up, or nobody holds it any more."""
    try:
        yield
    except RecordMissingError as error:
        message = f"boundary {boundary} was trimmed while it was read: {error.message}"
        raise RecordMissingError(message, hint="open a new view") from error


def read_places(volume: BlockVolume, blocks: BlockReader, places: list[Place], out: memoryview) -> None:
    """Fill ``out`` from the places, in order."""
    offset = 0
    for extent, number, chunk in places:
        size = extent.count * volume.block_size
        target = out[offset : offset + size]
        if number is None:
            inside = max(0, min(extent.count, volume.block_count - extent.start)) * volume.block_size
            if inside:
                volume.read_into(extent.start, target[:inside])
            if inside < size:  # the volume has shrunk under the view
                target[inside:] = bytes(size - inside)
        else:
            blocks.fill(number, chunk, Extent(*extent), target)
        offset += size


def consistency_check(name: str, is_inconsistent: Callable[[], bool]) -> Callable[[], None]:
    """A check that refuses reads of a volume that stands at no boundary (invariant 6)."""

    def check() -> None:
        if is_inconsistent():
            raise InconsistentError(
                f"{name}: a new copy is being made, so there is no boundary to read", hint="wait for it to finish"
            )

    return check
