"""One cut under way: the old change map becomes chunks, then a header, then a swap of the root (D1, D3, FIG. 8)."""

from __future__ import annotations

import msgspec

from replkit.contracts.position import Position
from replkit.deltaset.header import Mark
from replkit.errors import CutAbandonedError, FencedError, ReplkitError, SaveVolumeFullError
from replkit.replication.cells import ReceivedSet, Root, Span
from replkit.replication.directory import add_set, numbers_between, tag_of
from replkit.replication.logged import LoggedVolume, OpenCut
from replkit.replication.policy import Policy
from replkit.replication.replica import Replica
from replkit.replication.set_reader import SetReader
from replkit.replication.set_writer import SetWriter


class Cut:
    """One cut under way."""

    def __init__(
        self,
        replica: Replica,
        volume: LoggedVolume,
        opened: OpenCut,
        policy: Policy,
        *,
        writer: str,
        snapshot: str | None,
        marks: tuple[Mark, ...],
        keeps_data: bool = True,
    ) -> None:
        """``keeps_data`` false: the set is larger than the save volume, and no member needs it."""
        self._keeps_data = keeps_data
        self._replica, self._volume, self._opened = replica, volume, opened
        self._snapshot, self._marks = snapshot, marks
        self._created_s = replica.runtime.now()
        self._started_s = replica.runtime.monotonic()
        root = replica.root.get()
        number = root.last.number + 1
        self._span = Span(root.given_up.first if root.given_up else number, number)
        self._writer = writer
        self.set = SetWriter(
            replica.save,
            lineage=root.lineage,
            epoch=root.epoch,
            first_number=self._span.first,
            number=number,
            writer=writer,
            parents=_parents(replica, root),
            block_size=volume.block_size,
            compression=policy.compression,
            chunk_bytes=policy.chunk_bytes,
            keeps_data=keeps_data,
        )
        self._ranges = opened.ranges(max(1, policy.chunk_bytes // volume.block_size))
        self.block_count = 0
        self._stored_bytes = 0
        self._may_be_published = False

    def advance(self, chunks: int) -> bool:
        """Copy so many ranges; False when all are copied."""
        for _ in range(chunks):
            reach = next(self._ranges, None)
            if reach is None:
                return False
            self.set.add(*self._opened.copy_range(reach.start, reach.stop))
        return True

    def commit(self) -> Position:
        """Flush the volume, make the set durable, publish it (invariants 3 and 5)."""
        self._volume.flush()  # invariant 3: what the set carries is durable here first
        header = self.set.commit(
            volume_size_bytes=self._volume.size_bytes, created_s=self._created_s, marks=self._marks
        )
        self.block_count, self._stored_bytes = header.block_count, self.set.stored_bytes

        def publish(root: Root) -> Root:
            if root.last.number != self._span.last - 1:  # invariant 5: one that was in doubt came through since
                raise CutAbandonedError(f"{self._replica.name}: position {self._span.last} is taken by the set before")
            if not self._keeps_data:
                root = self._without_data(root)
            return msgspec.structs.replace(add_set(root, self._span, self._writer, header.position), given_up=None)

        self._may_be_published = True
        try:
            self._replica.root.mutate(publish)
        except FencedError:
            self._may_be_published = False
            raise
        self._opened.finish()
        if self._snapshot is not None:
            self._volume.snapped.restamp(self._snapshot, header.position, True)
        return header.position

    def _without_data(self, root: Root) -> Root:
        """The root in which the data of the sets so far is condemned, and that of this one counts as trimmed."""
        if any(member.needs_next_set for member in root.members):
            raise SaveVolumeFullError(f"{self._replica.name}: set {self._span.last} is needed by a member after all")
        kept = numbers_between(root, root.first_kept, root.last.number)
        tags = tuple(tag_of(root, number) for number in kept)
        return msgspec.structs.replace(root, first_kept=self._span.last + 1, condemned=(*root.condemned, *tags))

    def abandon(self) -> None:
        """Give the blocks back to the change log, drop the records and the snapshot that was made for the cut."""
        self._opened.abandon()
        if self._may_be_published:  # a swap whose outcome is unknown: the root read at the next open decides
            return
        try:
            self.set.abandon()
            if self._snapshot is not None:
                self._volume.snapped.delete_snapshot(self._snapshot)
        except ReplkitError as error:  # the sweep at the next open deletes what no root names
            self._replica.hooks.replkit_error(
                volume=self._replica.name, message=f"records of an abandoned cut are left: {error}", error=error
            )

    def record(self, position: Position) -> ReceivedSet:
        """The entry of the history."""
        return ReceivedSet(
            number=position.number,
            created_s=self._created_s,
            started_s=self._created_s,
            duration_s=self._replica.runtime.monotonic() - self._started_s,
            blocks=self.block_count,
            stored_bytes=self._stored_bytes,
        )


def _parents(replica: Replica, root: Root) -> tuple[str, ...]:
    """Identities of the positions before and inside the span; more than one when sets were given up."""
    if root.given_up is None:
        return (root.last.identity,)
    reader = SetReader(replica.save, replica.root.get, replica.volume.block_count)
    identities: list[str] = []
    for number in numbers_between(root, root.given_up.first, root.given_up.last):
        header = reader.header(number)
        identities.extend(header.identities if identities else (header.base_identity, *header.identities))
    return tuple(identities)
