"""Taking in a new copy: the volume is made unused, then the blocks in use are written in ascending order (C1, FIG. 11).

``inconsistent`` is in the root before the first write and leaves it after the last flush (invariant 6). The cell
``copy`` says how far the copy has come durably, so that it goes on there after any break.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from replkit.blocks.extent import Extent, split, union
from replkit.contracts.buffers import Buffer
from replkit.contracts.volume import BlockVolume, Capability
from replkit.deltaset.chunk import decode_chunk
from replkit.errors import ProtocolError
from replkit.rcp import messages as m
from replkit.replication.cells import COPY, Base, CopyInfo, CopyProgress, Root
from replkit.replication.playback import write_chunk
from replkit.replication.player import Player
from replkit.replication.replica import Replica
from replkit.replication.root import StructCell
from replkit.replication.trimmer import sweep
from replkit.snapshot.snapped import SnappedVolume

FLUSH_BYTES = 256 << 20
"""How much of a copy may have to be sent again after a break; each flush and its record stop the stream."""
EXPECTED_BYTES = 64 << 20
"""How far ahead of the copy the intents of its writes are made durable, so that most chunks need no swap of a cell."""
CLEAR_BLOCKS = 1 << 14
CLEAR_EXTENTS_A_STEP = 64


class CopyInbox:
    """The new copy that is arriving at a replica, over as many sessions as it takes."""

    def __init__(self, replica: Replica, player: Player) -> None:
        self._replica = replica
        self._player = player
        self._cell = StructCell(replica.save, COPY, CopyProgress)
        self._begun: m.CopyBegin | None = None
        self._next_block = self._expected_to = 0
        self._unflushed_bytes = 0
        self._clearing: Iterator[Extent] | None = None
        self.is_ready = False

    def partial(self) -> tuple[str, int] | None:
        """The copy that broke off, or the last one that was finished, and where it goes on."""
        root, progress = self._replica.root.get(), self._cell.get()
        if root.inconsistent is not None and root.inconsistent.base is None:
            copy_id = root.inconsistent.copy_id
            return copy_id, progress.next_block if progress is not None and progress.copy_id == copy_id else 0
        if root.base is None or not root.is_at_boundary:
            return None
        return root.base.difference or root.base.copy_id, self._replica.volume.block_count

    def begin(self, body: m.CopyBegin) -> None:
        """A copy begins or goes on. From here to its end the volume can be neither read nor promoted.

        ``ProtocolError`` where it does not fit, and where part of another snapshot was here under its id: the sender
        has left that part out, so it is to begin anew.
        """
        volume = self._replica.volume
        is_too_large = body.volume_size_bytes > volume.size_bytes and volume.resizes is Capability.NONE
        if body.block_size != volume.block_size or is_too_large:
            raise ProtocolError(
                f"copy of {body.volume_size_bytes} bytes in blocks of {body.block_size} does not fit "
                f"a volume of {volume.size_bytes} in blocks of {volume.block_size}"
            )
        root = self._replica.root.get()
        self._begun = body
        self._expected_to = 0
        if not self._is_done(root, body.copy_id):
            running = root.inconsistent
            if running is None or running.base is not None or running.copy_id != body.copy_id:
                self._start_anew(body)
            elif running.stamp != body.stamp:
                self._start_anew(body)
                raise ProtocolError(
                    f"copy {body.copy_id} to {body.stamp} is of another snapshot than the part that is here, to "
                    f"{running.stamp}: it begins anew"
                )
            progress = self._cell.get()
            if progress is None or progress.copy_id != body.copy_id:
                progress = CopyProgress(copy_id=body.copy_id, next_block=0)
                self._cell.set(progress)
            self._next_block = progress.next_block
            self._clearing = None if progress.cleared else split(_may_hold(volume), CLEAR_BLOCKS)
        self.is_ready = self._is_done(root, body.copy_id) or self._clearing is None

    def _start_anew(self, body: m.CopyBegin) -> None:
        """The cell first: what it says of one snapshot must not be believed of another with the same copy id.

        Two sites can be giving copies of one id: a primary that was cloned before it made the snapshot.
        """
        self._cell.set(CopyProgress(copy_id=body.copy_id, next_block=0))
        self._replica.root.mutate(lambda now: _begin(now, body))
        self._player.reset()
        sweep(self._replica)

    def prepare(self) -> None:
        """Make some of the volume unused, once no read is under way; ``is_ready`` when all of it is."""
        if self.is_ready or self._clearing is None or self._begun is None or not self._player.sets.is_idle():
            return
        for _ in range(CLEAR_EXTENTS_A_STEP):
            extent = next(self._clearing, None)
            if extent is None:
                volume, size_bytes = self._replica.volume, self._begun.volume_size_bytes
                if size_bytes != volume.size_bytes and volume.resizes is not Capability.NONE:
                    volume.resize(size_bytes)
                volume.flush()
                self._cell.set(CopyProgress(copy_id=self._begun.copy_id, next_block=0, cleared=True))
                self._clearing = None
                self.is_ready = True
                return
            try:
                self._replica.volume.discard(extent.start, extent.count)
            except BaseException:  # what was not made unused is in use still
                self._clearing = split(list(self._replica.volume.in_use()), CLEAR_BLOCKS)
                raise

    def chunk(self, body: m.CopyChunk, payload: Buffer) -> m.CopyProgress | None:
        """Write a chunk; now and then flush, and say how far the copy is durable."""
        if self._begun is None or self._is_done(self._replica.root.get(), body.copy_id):
            return None
        chunk = decode_chunk(payload, block_count=self._replica.volume.block_count, what=f"copy {body.copy_id}")
        if chunk.head.block_size != self._begun.block_size or chunk.head.lineage != self._begun.lineage:
            raise ProtocolError(f"copy {body.copy_id}: a chunk of another volume")
        if chunk.pieces and (chunk.pieces[0].start < self._next_block or chunk.pieces[-1].stop > body.next_block):
            raise ProtocolError(f"copy {body.copy_id}: chunk {body.index} does not lie before block {body.next_block}")
        if chunk.pieces and chunk.pieces[-1].stop > self._expected_to:
            self._expect(chunk.pieces[0].start, chunk.pieces[-1].stop)
        write_chunk(self._replica.volume, chunk)
        self._next_block = body.next_block
        self._unflushed_bytes += chunk.head.plain_bytes
        return self._flush(body.copy_id) if self._unflushed_bytes >= FLUSH_BYTES else None

    def end(self, body: m.CopyEnd) -> m.CopyDone:
        """All is written: flush, then say durably at which position the volume stands (*start playback*)."""
        begun = self._begun
        if begun is None:
            raise ProtocolError(f"copy {body.copy_id} ends but never began")
        if not self._is_done(self._replica.root.get(), body.copy_id):
            self._flush(body.copy_id)
            base = Base(copy_id=begun.copy_id, position=begun.stamp)
            self._replica.root.mutate(lambda now: msgspec.structs.replace(now, inconsistent=None, base=base))
            self._player.reset()
        return m.CopyDone(copy_id=body.copy_id)

    def _expect(self, start: int, stop: int) -> None:
        """Ensure many intents at once (invariant 2); a hint, as each write ensures those that it still lacks."""
        volume = self._replica.volume
        self._expected_to = min(volume.block_count, max(stop, start + EXPECTED_BYTES // volume.block_size))
        if isinstance(volume, SnappedVolume):
            with volume.gate.shared():
                volume.intents.ensure((Extent(start, self._expected_to - start),))

    def _flush(self, copy_id: str) -> m.CopyProgress:
        self._replica.volume.flush()
        self._unflushed_bytes = 0
        self._cell.set(CopyProgress(copy_id=copy_id, next_block=self._next_block, cleared=True))
        return m.CopyProgress(copy_id=copy_id, next_block=self._next_block)

    def _is_done(self, root: Root, copy_id: str) -> bool:
        return root.is_at_boundary and root.base is not None and copy_id == root.base.copy_id


def _may_hold(volume: BlockVolume) -> list[Extent]:
    """What may hold data: by the saved map, and by the store itself, which may hold what nobody wrote through here."""
    used = list(volume.in_use())
    return union(used, volume.volume.in_use()) if isinstance(volume, SnappedVolume) else used


def _begin(root: Root, body: m.CopyBegin) -> Root:
    """The root of a volume that stands nowhere; the sets that it had are no longer named, and are swept."""
    after = body.stamp.number + 1
    return msgspec.structs.replace(
        root,
        lineage=body.lineage,
        inconsistent=CopyInfo(copy_id=body.copy_id, stamp=body.stamp),
        base=None,
        resync=None,
        last=body.stamp,
        writers=(),
        spans=(),
        first_kept=after,
        first_listed=after,
        given_up=None,
    )
