"""Any boundary that is still kept, as a read-only volume: kept sets over the newest snapshot before them (X2, C3).

``Boundary(q)`` looks for a block in the sets after its base up to ``q``, newest first, then in the base: a snapshot
that is stamped at or before ``q``. While one is open, the trimmer keeps what it names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from replkit.blocks.extent import Extent, normalise
from replkit.contracts.buffers import Buffer
from replkit.contracts.position import Position
from replkit.contracts.runtime import Runtime
from replkit.contracts.savevolume import SaveVolume
from replkit.contracts.volume import BlockVolume, Capability
from replkit.deltaset.keys import parse_set_tag
from replkit.deltaset.pieces import Kind
from replkit.errors import NotFoundError, ReadOnlyError, RecordMissingError
from replkit.replication.branches import identity_of, is_compared
from replkit.replication.cells import Playing, Root
from replkit.replication.directory import DIFFERENCE_WRITER, epoch_at, numbers_between, span_of, tag_of
from replkit.replication.index import SetIndex
from replkit.replication.set_reader import BlockReader, SetReader
from replkit.replication.view import read_places
from replkit.snapshot.records import SnapshotRecord


class Moment(NamedTuple):
    """A boundary that can be opened, and when its newest write was made (seconds since 1970)."""

    position: Position
    created_s: float
    is_snapshot: bool
    """Whether a snapshot of just this boundary is there."""


class Boundary(BlockVolume):
    """A volume as it was at ``position``; open until ``close``."""

    read_only = True
    tells_in_use = Capability.NATIVE
    discards = Capability.NONE

    def __init__(
        self, position: Position, base: BlockVolume, reader: SetReader, numbers: list[int], runtime: Runtime
    ) -> None:
        self.position = position
        self.block_size = base.block_size
        self.size_bytes = reader.header(numbers[-1]).volume_size_bytes if numbers else base.size_bytes
        self._blocks = BlockReader(reader, runtime)
        self._base = base
        self._reader = reader
        self._index = SetIndex(reader)
        self.numbers = numbers
        for number in numbers:
            self._index.add(number, self._index.load(number))
        self.on_close: Callable[[Boundary], None] = lambda _boundary: None

    def read_into(self, start: int, buffer: Buffer) -> None:
        """Fill ``buffer`` with the blocks as they were."""
        out = memoryview(buffer).cast("B")
        places = self._index.find(start, out.nbytes // self.block_size)
        try:
            read_places(self._base, self._blocks, places, out)
        except RecordMissingError as error:
            raise RecordMissingError(f"boundary {self.position} was trimmed: {error.message}") from error

    def in_use(self) -> Iterator[Extent]:
        """Yield the blocks that may hold data: in use in the base, or written by a set since."""
        written = [
            Extent(piece.start, piece.count)
            for number in self.numbers
            for piece in self._reader.block_list(number)
            if piece.kind is Kind.DATA
        ]
        yield from normalise([*self._base.in_use(), *written])

    def write(self, start: int, buffer: Buffer) -> None:
        """Refused: the past does not change."""
        size_bytes = memoryview(buffer).nbytes
        raise ReadOnlyError(f"boundary {self.position} is read-only: {size_bytes} bytes at block {start} not written")

    def discard(self, start: int, count: int) -> None:
        """Refused, as ``write``."""
        raise ReadOnlyError(f"boundary {self.position} is read-only: {count} blocks from {start} stay")

    def flush(self) -> None:
        """Nothing to flush."""

    def close(self) -> None:
        """Let go of what the boundary names."""
        self.on_close(self)


class Standing(NamedTuple):
    """Where the volume of a secondary stands without its services: it was ``position`` once, and the sets that are
    kept after that make it each boundary from ``first`` on; in a pass of playback it is none before the pass's end.
    """

    position: Position
    first: int


def standing_of(root: Root, playing: Playing | None) -> Standing | None:
    """By what its cells say; ``None`` in a new copy or a resync, when it stands at no boundary."""
    base = root.base
    if base is None or not root.is_at_boundary:
        return None
    if playing is None or playing.copy_id != base.copy_id:
        return Standing(base.position, max(base.position.number, base.until))
    number = playing.position.number
    return Standing(playing.position, max(number if playing.target is None else playing.target, base.until))


TRANSIENT = ("copy.", "resync.", "verify.", "view.")
"""Names of snapshots that go when the service is done that made them; nothing may stand on one."""


def is_lasting(record: SnapshotRecord) -> bool:
    """Whether boundaries can stand on a snapshot."""
    at_boundary = record.valid and record.at_boundary and record.stamp is not None
    return at_boundary and not record.name.startswith(TRANSIENT)


class Boundaries:
    """Finds and opens the boundaries that one replica still has.

    Args:
        save: its save volume.
        root: gives its newest root.
        open_snapshot: opens a snapshot of its volume by name.
        delete_snapshot: deletes one.
        make_base: makes a held snapshot of this name of the volume as it stands, at a boundary; ``None`` while it
            stands between two (a pass of playback is under way): to be asked again.
        runtime: locks and randomness.
        block_count: of the volume.
    """

    def __init__(  # noqa: PLR0917 - what a replica has
        self,
        save: SaveVolume,
        root: Callable[[], Root],
        open_snapshot: Callable[[str], BlockVolume],
        delete_snapshot: Callable[[str], None],
        make_base: Callable[[str], SnapshotRecord | None],
        runtime: Runtime,
        block_count: int,
    ) -> None:
        self._root, self._runtime = root, runtime
        self._open_snapshot, self._delete_snapshot, self._make_base = open_snapshot, delete_snapshot, make_base
        self._save, self._block_count = save, block_count
        self._reader = SetReader(save, root, block_count)
        self._lock = runtime.lock()
        self._open: dict[Boundary, tuple[int, str, bool]] = {}
        self._opening: dict[int, int] = {}

    # --- what is there ------------------------------------------------------------------------------------------

    def moments(self) -> list[Moment]:
        """All boundaries that can be opened without a new snapshot, oldest first."""
        root = self._root()
        found: dict[int, Moment] = {}
        for record in self.bases(root):
            if record.stamp is not None:
                found[record.stamp.number] = Moment(record.stamp, self._created_s(record), True)
        first = min((number for number in found if number >= root.first_kept - 1), default=None)
        if first is not None:
            leads_on = True
            for number in numbers_between(root, first + 1, root.last.number):
                header = self._reader.header(number)
                leads_on = number in found or (leads_on and not is_compared(header))
                if leads_on and number not in found:
                    found[number] = Moment(header.position, header.created_s, False)
        return [found[number] for number in sorted(found)]

    def at_time(self, when_s: float) -> Position:
        """The newest boundary of which every write was made at or before a time (seconds since 1970)."""
        moments = self.moments()
        older = [moment for moment in moments if moment.created_s <= when_s]
        if not older:
            oldest = f"the oldest is {moments[0].position}" if moments else "none is kept"
            raise NotFoundError("no boundary as old as that is kept", hint=oldest)
        return older[-1].position

    # --- opening ------------------------------------------------------------------------------------------------

    def open(self, number: int, epoch: int | None = None) -> Boundary | None:
        """The volume as it was at a position; ``None`` while playback must come to rest first: ask again.

        ``NotFoundError`` where the position is not kept, or was never one of this history.
        """
        root = self._root()
        if not root.is_at_boundary and root.role == "secondary":
            raise NotFoundError(
                "a new copy or a resync is under way: no boundary can be opened", hint="wait for its end"
            )
        if number > root.last.number:
            raise NotFoundError(f"position {number} is not here yet; the newest is {root.last}")
        base = self.base_of(number)
        if base is None:
            record = self._make_base(f"view.at-{self._runtime.random_bytes(4).hex()}")
            if record is None:
                return None
            if record.stamp is None or record.stamp.number > number:
                self._delete_snapshot(record.name)
                raise self._not_kept(root, number)
            return self._open_on(record, number, epoch, is_own=True)
        return self._open_on(base, number, epoch, is_own=False)

    def _open_on(self, base: SnapshotRecord, number: int, epoch: int | None, *, is_own: bool) -> Boundary:
        stamp = base.stamp
        if stamp is None:
            raise NotFoundError(f"snapshot {base.name} stands at no boundary")
        with self._lock:  # what is trimmed from here on leaves the sets after the base alone
            self._opening[id(base)] = stamp.number
        try:
            root = self._root()
            if stamp.number < number and stamp.number + 1 < root.first_kept:
                raise self._not_kept(root, number)
            if stamp.number < number and span_of(root, number).last != number:
                raise NotFoundError(f"position {number} lies inside a set that spans several positions",
                                    hint=f"take {span_of(root, number).last}")  # fmt: skip
            numbers = numbers_between(root, stamp.number + 1, number)
            position = self._reader.header(number).position if numbers else stamp
            if epoch is not None and position.epoch.count != epoch:
                raise NotFoundError(
                    f"position {number} of this history is of epoch {position.epoch.count}, not {epoch}"
                )
            boundary = Boundary(position, self._open_snapshot(base.name), self._reader, numbers, self._runtime)
            boundary.on_close = self._close
            with self._lock:
                self._open[boundary] = (stamp.number, base.name, is_own)
            return boundary
        except BaseException:
            if is_own:
                self._delete_snapshot(base.name)
            raise
        finally:
            with self._lock:
                del self._opening[id(base)]

    def _close(self, boundary: Boundary) -> None:
        with self._lock:
            _number, name, is_own = self._open.pop(boundary, (0, "", False))
        if is_own:
            self._delete_snapshot(name)

    # --- what must stay -----------------------------------------------------------------------------------------

    def floor(self) -> int | None:
        """Sets after this number are named by an open boundary; ``None`` when none is open."""
        with self._lock:
            return min([*(number for number, _, _ in self._open.values()), *self._opening.values()], default=None)

    def is_base(self, name: str) -> bool:
        """Whether an open boundary stands on this snapshot."""
        with self._lock:
            return any(base == name for _, base, _ in self._open.values())

    def bases(self, root: Root) -> list[SnapshotRecord]:
        """The snapshots on which boundaries of this history can stand, oldest first.

        A volume that left another history has snapshots of that, too: its salvage, and a user's.
        """
        return [record for record in root.snapshots if is_lasting(record) and self._is_of_history(root, record.stamp)]

    def _is_of_history(self, root: Root, stamp: Position | None) -> bool:
        if stamp is None or stamp.number > root.last.number or stamp.epoch != epoch_at(root, stamp.number):
            return False
        return identity_of(self._save, root, stamp.number, self._block_count) in {"", stamp.identity}

    def base_of(self, number: int) -> SnapshotRecord | None:
        """The newest snapshot at or before the position from which its sets are all there."""
        root = self._root()
        barrier = self._compared_before(root, number)
        fitting = [
            record
            for record in self.bases(root)
            if record.stamp is not None
            and (record.stamp.number == number or max(root.first_kept - 1, barrier) <= record.stamp.number < number)
        ]
        return max(fitting, key=lambda record: record.stamp.number if record.stamp else 0, default=None)

    def _compared_before(self, root: Root, number: int) -> int:
        """The newest set up to a position that leads no snapshot before it on (``is_compared``); 0 where none does."""
        for each in reversed(numbers_between(root, root.first_kept, number)):
            is_difference = parse_set_tag(tag_of(root, each))[1].startswith(DIFFERENCE_WRITER)
            if is_difference and each <= number and is_compared(self._reader.header(each)):
                return each
        return 0

    def _created_s(self, record: SnapshotRecord) -> float:
        """When the newest write in a snapshot was made, by its set; where that is forgotten, by its own time."""
        try:
            return self._reader.header(record.stamp.number).created_s if record.stamp else record.created_s
        except RecordMissingError:
            return record.created_s

    def _not_kept(self, root: Root, number: int) -> NotFoundError:
        moments = self.moments()
        kept = f"kept are {moments[0].position} to {root.last}" if moments else "none is kept"
        return NotFoundError(f"boundary {number} is not kept", hint=kept)
