"""Taking in a difference: one set that leads the volume from where it stands, or stood, to the stamp (R4, R5, C1).

*Staged*, its chunks are kept in the save volume, and with the last the set is named in the root: a volume that was
readable stays so until it jumps. *In place*, where the save volume has no room, they are written into the volume,
which is ``inconsistent`` meanwhile (invariant 6); their block lists are kept all the same. The cell ``difference``
says how far it is durable; what lies beyond is deleted when it goes on, and sent again.
"""

from __future__ import annotations

import msgspec

from replkit.contracts.buffers import Buffer
from replkit.contracts.position import Position
from replkit.contracts.savevolume import Partition
from replkit.contracts.volume import Capability
from replkit.deltaset.chunk import Chunk, decode_chunk
from replkit.deltaset.header import encode_block_list
from replkit.deltaset.keys import chunk_key, list_key, set_tag
from replkit.errors import DivergedError, ProtocolError, ReplkitError
from replkit.rcp import messages as m
from replkit.replication.cells import DIFFERENCE, DifferenceProgress, Root
from replkit.replication.difference_set import (
    begin_difference,
    difference_header,
    drop_from,
    end_difference,
    put_difference_header,
    refuse_difference,
    staged_tag,
)
from replkit.replication.directory import difference_writer
from replkit.replication.playback import write_chunk
from replkit.replication.player import Player
from replkit.replication.replica import Replica
from replkit.replication.root import StructCell
from replkit.replication.trimmer import sweep

FLUSH_BYTES = 64 << 20
RESERVE_SHARE = 16
"""One part in so many of the room for sets is left for heads and alignment of records."""
CHUNK_OVERHEAD = 1.1
"""What records take for the data in them: the head of a chunk of 4 KiB, the smallest that a policy allows, is 5 %."""


class DifferenceInbox:
    """The difference that is arriving at a replica, over as many sessions as it takes."""

    def __init__(self, replica: Replica, player: Player) -> None:
        self._replica, self._player = replica, player
        self._cell = StructCell(replica.save, DIFFERENCE, DifferenceProgress)
        self._begun: m.CopyBegin | None = None
        self._progress: DifferenceProgress | None = None
        self._unflushed_bytes = self._left_bytes = 0
        self.is_ready = False
        self.arrived: Position | None = None
        """Where a difference ended that was named as a set, until the receiver has told it."""

    def partial(self) -> DifferenceProgress | None:
        """The difference that broke off, with what is durable of it; ``None`` when there is none, or it is done."""
        progress = self._cell.get()
        return progress if progress is not None and staged_tag(self._replica.root.get(), progress) else None

    @property
    def ends_boundary(self) -> bool:
        """Whether the one that was begun is written in place, if not yet: no position counts as played any more."""
        return self._progress is not None and self._progress.in_place

    @property
    def reserved_bytes(self) -> int:
        """Room in the save volume that the rest of it still needs: sets that arrive meanwhile must leave it."""
        return 0 if self._progress is None or self._progress.in_place else int(self._left_bytes * CHUNK_OVERHEAD)

    def begin(self, body: m.CopyBegin) -> None:
        """A difference begins or goes on; ``DivergedError`` when it does not lead on from here, and nothing changed."""
        root, volume = self._replica.root.get(), self._replica.volume
        is_too_large = body.volume_size_bytes > volume.size_bytes and volume.resizes is Capability.NONE
        if body.block_size != volume.block_size or is_too_large:
            raise ProtocolError(
                f"difference to a volume of {body.volume_size_bytes} bytes in blocks of {body.block_size} does not fit "
                f"one of {volume.size_bytes} in blocks of {volume.block_size}"
            )
        self._begun, self._progress = body, None
        if self._is_done(root, body.copy_id):
            self.is_ready = True
            return
        base = _checked_base(root, body, self._replica.name)
        progress = self.partial()
        if progress is None or (progress.copy_id, progress.base, progress.stamp) != (body.copy_id, base, body.stamp):
            progress = self._begin_anew(root, body, base)
        else:
            drop_from(self._replica.save, progress)
        self._progress = progress
        self._unflushed_bytes = 0
        self._left_bytes = max(0, body.data_bytes - self._stored_bytes(progress))
        self.is_ready = not progress.in_place

    def prepare(self) -> None:
        """Before a difference in place: the volume must stand at the base, played, and nobody may read it."""
        progress = self._progress
        if self.is_ready or progress is None:
            return
        root = self._replica.root.get()
        if root.is_at_boundary:
            if self._player.position != progress.base or not self._player.is_at_rest:
                self._player.play_now()
                return
            self._replica.root.mutate(lambda now: begin_difference(now, progress))
            self._player.reset()
        if self._player.sets.is_idle() and self._begun is not None:
            volume, size_bytes = self._replica.volume, self._begun.volume_size_bytes
            if size_bytes != volume.size_bytes and volume.resizes is not Capability.NONE:
                volume.resize(size_bytes)
            self.is_ready = True

    def chunk(self, body: m.CopyChunk, payload: Buffer) -> m.CopyProgress | None:
        """Keep or write a chunk; after an error the call can be repeated."""
        progress = self._progress
        if progress is None:
            return None
        chunk = decode_chunk(payload, block_count=body.next_block, what=f"copy {body.copy_id}")
        self._check_chunk(progress, chunk, body)
        if progress.in_place:  # first, as blocks can be written twice, and a record cannot be put twice
            write_chunk(self._replica.volume, chunk)
        if progress.stamp != progress.base:  # else nothing lies between: a rewind, which is no set
            self._put(progress, chunk, payload)
        self._progress = _advance(progress, body.next_block)
        self._left_bytes = max(0, self._left_bytes - chunk.head.plain_bytes)
        self._unflushed_bytes += chunk.head.plain_bytes
        return self._flush() if self._unflushed_bytes >= FLUSH_BYTES else None

    def end(self, body: m.CopyEnd) -> m.CopyDone:
        """All is there: make it durable, name the set, and let the volume stand at a boundary again, in one swap."""
        begun, progress = self._begun, self._progress
        if begun is None:
            raise ProtocolError(f"copy {body.copy_id} ends but never began")
        if progress is not None and not self._is_done(self._replica.root.get(), body.copy_id):
            self._flush()
            progress = self._cell.get() or progress
            if progress.stamp != progress.base:
                self._put_header(progress, begun)
            was_readable = self._replica.root.get().is_at_boundary
            self._replica.root.mutate(lambda now: end_difference(now, progress))
            self.arrived = progress.stamp
            self._progress = None
            if not was_readable:
                self._player.reset()
        return m.CopyDone(copy_id=body.copy_id)

    def _put_header(self, progress: DifferenceProgress, begun: m.CopyBegin) -> None:
        """Name the set, if all of it is there; else it is to be sent from its beginning (invariant 5).

        The same difference may have been begun before, of another snapshot: whoever goes on with that one leaves out
        what was durable of it.
        """
        header = difference_header(self._replica, progress, begun.volume_size_bytes)
        if header.block_count != begun.block_count:
            fresh = msgspec.structs.replace(progress, next_block=0, chunks=0)
            self._cell.set(fresh)
            drop_from(self._replica.save, fresh)
            self._progress = None
            raise ProtocolError(
                f"copy {begun.copy_id} to {begun.stamp} ends, and some of its {begun.block_count} blocks did not come"
            )
        put_difference_header(self._replica.save, progress.tag, header)

    def _begin_anew(self, root: Root, body: m.CopyBegin, base: Position) -> DifferenceProgress:
        """The cell first: it counts for nothing until the root is of the same difference."""
        sweep(self._replica)  # another difference, or a set that was arriving: both end where this one leads to
        tag = set_tag(body.stamp.epoch.count, body.stamp.number, difference_writer(body.copy_id))
        progress = DifferenceProgress(
            copy_id=body.copy_id, base=base, stamp=body.stamp, tag=tag, in_place=not self._fits(root, body, base)
        )
        self._cell.set(progress)
        if not root.is_at_boundary:
            self._replica.root.mutate(lambda now: begin_difference(now, progress))
            self._player.reset()
            sweep(self._replica)
        return progress

    def _fits(self, root: Root, body: m.CopyBegin, base: Position) -> bool:
        """Whether it can be staged. What was written in place before is at no boundary, so it goes on in place."""
        save = self._replica.save
        capacity = save.capacity_bytes(Partition.SETS)
        room = capacity - save.used_bytes(Partition.SETS) - capacity // RESERVE_SHARE
        return root.inconsistent is None and body.stamp != base and body.data_bytes * CHUNK_OVERHEAD <= room

    def _check_chunk(self, progress: DifferenceProgress, chunk: Chunk, body: m.CopyChunk) -> None:
        begun, head = self._begun, chunk.head
        if begun is None:
            raise ProtocolError(f"copy {body.copy_id}: a chunk before its begin")
        found = (head.lineage, head.epoch, head.number, head.writer, head.index, head.block_size)
        wanted = (
            begun.lineage, progress.stamp.epoch, progress.stamp.number, difference_writer(body.copy_id),
            progress.chunks, begun.block_size,
        )  # fmt: skip
        if found != wanted:
            raise ProtocolError(f"copy {body.copy_id}: a chunk says it is {found}, expected {wanted}")
        pieces = chunk.pieces
        if not pieces or pieces[0].start < progress.next_block or pieces[-1].stop > body.next_block:
            raise ProtocolError(f"copy {body.copy_id}: chunk {body.index} does not lie before block {body.next_block}")

    def _put(self, progress: DifferenceProgress, chunk: Chunk, payload: Buffer) -> None:
        save, key = self._replica.save, chunk_key(progress.tag, progress.chunks)
        if not progress.in_place:
            save.put(key, [payload])
        try:
            save.put(list_key(progress.tag, progress.chunks), [encode_block_list(chunk.pieces)])
        except ReplkitError:
            save.delete([key])
            raise

    def _flush(self) -> m.CopyProgress:
        progress = self._progress
        if progress is None:
            raise ProtocolError("a flush of no difference")
        if progress.in_place:
            self._replica.volume.flush()
        self._replica.save.sync()
        self._unflushed_bytes = 0
        self._cell.set(progress)
        return m.CopyProgress(copy_id=progress.copy_id, next_block=progress.next_block)

    def _stored_bytes(self, progress: DifferenceProgress) -> int:
        return sum(self._replica.save.size_bytes(key) for key in self._replica.save.list(f"sets/{progress.tag}/"))

    def _is_done(self, root: Root, copy_id: str) -> bool:
        return root.is_at_boundary and root.base is not None and root.base.difference == copy_id


def _checked_base(root: Root, body: m.CopyBegin, name: str) -> Position:
    """Where the difference leads from, if it leads on from here."""
    fault = refuse_difference(root, body)
    if fault or body.base is None:
        raise DivergedError(
            f"{name}: difference {body.copy_id} from {body.base} to {body.stamp} is refused: {fault}",
            hint="resync this volume, or make a full new copy",
        )
    return body.base


def _advance(progress: DifferenceProgress, next_block: int) -> DifferenceProgress:
    return DifferenceProgress(
        copy_id=progress.copy_id, base=progress.base, stamp=progress.stamp, tag=progress.tag,
        in_place=progress.in_place, next_block=next_block, chunks=progress.chunks + 1,
    )  # fmt: skip
