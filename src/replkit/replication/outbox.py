"""What a member is sent next: the chunks of its new copy and delta sets, taking turns (C1, D4).

While a copy runs, a set is sent only when the one before was answered: a receiver whose save volume is full passes a
set over rather than let it hold up the copy, and gets it again after.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from replkit.contracts.position import Position
from replkit.contracts.savevolume import SaveVolume
from replkit.contracts.volume import BlockVolume
from replkit.errors import DivergedError, ReadOnlyError, RecordMissingError
from replkit.rcp import messages as m
from replkit.rcp.session import SenderSession
from replkit.replication.cells import Member, Root
from replkit.replication.difference import difference_blocks
from replkit.replication.new_copy import CopySource, CopyTransfer
from replkit.replication.root import read_root
from replkit.replication.send_difference import DifferenceTransfer, choose_base
from replkit.replication.send_set import SetTransfer, next_header
from replkit.replication.set_reader import SetReader
from replkit.snapshot.reader import SnapshotReader
from replkit.snapshot.records import SnapshotRecord

Transfer = SetTransfer | CopyTransfer | DifferenceTransfer


class Outbox:
    """The transfers of one session; forgotten with it, as the next welcome says where to go on."""

    def __init__(self, save: SaveVolume, volume: BlockVolume, root: Callable[[], Root]) -> None:
        self._save, self._volume = save, volume
        self._reader = SetReader(save, root, volume.block_count)
        self.reset()

    def reset(self) -> None:
        """The session is over."""
        self._set: SetTransfer | None = None
        self._copy: CopyTransfer | DifferenceTransfer | None = None
        self._stamp: Position | None = None
        self._welcome: m.Welcome | None = None
        self._at: Position | None = None
        self._partial: m.Partial | None = None
        self._needs_copy = self._is_one_by_one = False
        self.copy_from = self._chunk_bytes = 0
        self._is_copy_new = True
        self.copy_id = ""
        self._waits_for_answer = self._waits_for_copy = self._is_behind = False
        self._turn = 0

    def welcome(self, body: m.Welcome, member: Member, chunk_bytes: int) -> bool:
        """Take in where the member stands; whether it needs its new copy, or the rest of it."""
        partial = body.partial
        has_this_copy = partial is not None and partial.copy_id == member.copy_id
        is_done = partial is not None and has_this_copy and body.played is not None and partial.copy_base is None
        self._needs_copy = member.needs_copy and not is_done
        if not member.needs_copy and body.played is None:
            raise DivergedError(
                f"member {member.name} follows from a position on, but stands at none", hint="make a new copy"
            )
        self.copy_id = member.copy_id
        self._is_copy_new = not has_this_copy
        self.copy_from = partial.copy_next_block if partial is not None and has_this_copy else 0
        self._stamp = member.copy_stamp if self._needs_copy else None
        self._at = (
            body.received if not self._needs_copy or (has_this_copy and self._is_at_stamp(body.received)) else None
        )
        self._partial, self._welcome = partial, body
        self._chunk_bytes = chunk_bytes
        return self._needs_copy

    def pick(self, root: Root, member: Member) -> Transfer | None:
        """The transfer whose next message goes out now; ``None`` when there is nothing to send."""
        if self._needs_copy and self._copy is None:
            self._copy = self._begin_copy(root, member)
            if self._copy is None:
                return None
            self._is_one_by_one = True
        self._turn += 1
        copy = self._copy if self._copy is not None and not self._copy.is_sent else None
        if copy is not None and (self._turn % 2 or not copy.is_begun):
            return copy
        return self._pick_set(root, member.limit) or copy

    def sent(self, transfer: Transfer, body: m.Body) -> None:
        """A message of ``pick`` went out."""
        transfer.advance(body)
        if isinstance(transfer, SetTransfer) and transfer.is_done:
            self._at = transfer.header.position
            self._set = None
            self._waits_for_answer = self._is_one_by_one
        elif isinstance(body, m.CopyBegin):
            self._stamp = body.stamp
            if self._is_copy_new and body.base is None:
                self._at = body.stamp

    def acknowledged(self, session: SenderSession) -> None:
        """An answer came; during a copy it may say that the set was passed over.

        The first after the begin of a difference says whether sets after it are taken meanwhile: a member that stays
        readable where it is takes none.
        """
        received = session.acks.received
        copy = self._copy
        if self._at is None and copy is not None and copy.is_begun and self._is_at_stamp(received):
            self._at = received
        if not self._waits_for_answer or received is None or self._at is None:
            return
        self._waits_for_answer = False
        self._waits_for_copy = self._copy is not None and received.number < self._at.number
        self._at = received
        self._is_one_by_one = self._copy is not None

    def copy_done(self, session: SenderSession) -> None:
        """The copy is durable at the member; sets that were passed over are sent again."""
        self._copy = None
        self._needs_copy = self._waits_for_copy = False
        if not self._waits_for_answer and self._set is None:  # else the answer to that set says where to go on
            self._is_one_by_one = False
            received = session.acks.received
            self._at = received if self._is_at_stamp(received) else self._stamp

    def _is_at_stamp(self, received: Position | None) -> bool:
        return self._stamp is not None and received is not None and received.number >= self._stamp.number

    def _pick_set(self, root: Root, limit: int | None) -> SetTransfer | None:
        if self._set is None:
            if limit is not None and self._at is not None and self._at.number >= limit:
                return None
            if self._at is None or self._waits_for_answer or self._waits_for_copy or self._is_behind:
                return None
            try:
                header = next_header(self._reader, root, self._at)
            except RecordMissingError:
                if self._copy is None:
                    raise
                self._is_behind = True  # the copy is of an old snapshot: when it is done, another one leads on
                return None
            if header is None or (limit is not None and header.number > limit):
                return None
            self._set = SetTransfer(self._reader, header, self._partial)
            self._partial = None
        return self._set

    def _begin_copy(self, root: Root, member: Member) -> CopyTransfer | DifferenceTransfer | None:
        if member.copy_snapshot is None or member.copy_stamp is None:
            return None  # the primary is still cutting it
        self._volume.refresh()  # the snapshot was flushed before it was named: it must not be newer than what is read
        table = RootReaderTable(self._save)
        snapshot = SnapshotReader(member.copy_snapshot, self._volume, self._save, table)
        source = CopySource(
            snapshot=snapshot,
            copy_id=member.copy_id,
            stamp=member.copy_stamp,
            lineage=root.lineage,
            chunk_bytes=self._chunk_bytes,
        )
        if member.difference is None:
            return CopyTransfer(source, self.copy_from)
        base = choose_base(self._save, root, member, self._welcome)
        # A compared list is of the volume as it was at the fork: one that stands further on lacks what changed since.
        is_exact = member.difference.exact and base == member.difference.fork
        difference = msgspec.structs.replace(member.difference, fork=base, exact=is_exact)
        blocks = difference_blocks(self._save, root, difference, member.copy_stamp.number, snapshot.block_count)
        next_chunk = self._partial.copy_next_chunk if self._partial is not None and not self._is_copy_new else 0
        return DifferenceTransfer(source, base, blocks, self.copy_from, next_chunk)


class RootReaderTable:
    """The queue of snapshots as a reader of the save volume sees it."""

    def __init__(self, save: SaveVolume) -> None:
        self._save = save

    def load(self) -> tuple[SnapshotRecord, ...]:
        """The records, oldest first."""
        return read_root(self._save).snapshots

    def store(self, records: tuple[SnapshotRecord, ...]) -> None:
        """Refused: a reader publishes nothing."""
        raise ReadOnlyError(f"a reader cannot publish {len(records)} snapshots")
