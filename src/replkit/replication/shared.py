"""A replica that reads the primary's save volume itself: nothing is sent, the save volume is the link (S2, FIG. 4, 6).

It writes three cells of its own, ``copied.<member>``, ``played.<member>`` and ``reads.<member>``; all else it reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from replkit.blocks.extent import Extent, split
from replkit.contracts.buffers import Buffer
from replkit.contracts.runtime import Runtime
from replkit.contracts.savevolume import SaveVolume
from replkit.contracts.volume import BlockVolume
from replkit.deltaset.chunk import decode_chunk
from replkit.errors import NotFoundError
from replkit.replication.cells import Base, Member, Root
from replkit.replication.new_copy import CopySource, find_member, read_chunks
from replkit.replication.outbox import RootReaderTable
from replkit.replication.playback import write_chunk
from replkit.replication.player import Player
from replkit.replication.policy import load_policy
from replkit.replication.primary import Service
from replkit.replication.root import StructCell, read_root
from replkit.replication.shared_cells import ReadFloor, SharedCopy, copied_cell, played_cell, reads_cell
from replkit.replication.view import PinnedView, View, consistency_check
from replkit.snapshot.reader import SnapshotReader

FLUSH_CHUNKS = 16
CLEAR_BLOCKS = 1 << 14
CLEAR_EXTENTS_A_STEP = 64
PAUSE_S = 0.2


class SharedReplica:
    """A local secondary of a primary, fed from the primary's save volume.

    Args:
        volume: the volume of the replica; what it holds is replaced by the new copy.
        save: the primary's save volume, opened as a reader.
        source: the primary's volume, opened read-only; the new copy reads a snapshot of it.
        runtime: clock and locks.
        hooks: event hooks of the registry.
        member: name of this member, added at the primary with ``shared=True``.
    """

    def __init__(  # noqa: PLR0917 - three stores, a name, and the outside world
        self, volume: BlockVolume, save: SaveVolume, source: BlockVolume, runtime: Runtime, hooks: Any, member: str
    ) -> None:
        self._volume, self._save, self._source, self._member_name = volume, save, source, member
        self._copied = StructCell(save, copied_cell(member), SharedCopy)
        self._reads = StructCell(save, reads_cell(member), ReadFloor)
        self._root = read_root(save)
        self._copying: Iterator[tuple[int, Buffer]] | None = None
        self._clearing: Iterator[Extent] | None = None
        self._unflushed_chunks = 0
        self.player = Player(
            name=member,
            volume=volume,
            save=save,
            root=lambda: self._root,
            runtime=runtime,
            hooks=hooks,
            base=self._base,
            cell=played_cell(member),
        )
        self._check = consistency_check(member, lambda: self._base() is None)

    def step(self) -> float:
        """Copy, or play, a little; seconds until the next call."""
        self._root = root = read_root(self._save)
        member = find_member(root, self._member_name)
        if member is None:
            raise NotFoundError(f"the primary has no member {self._member_name}", hint="add it there first")
        if root.paused or member.state in {"paused", "stale"}:
            return PAUSE_S
        copy = self._copied.get()
        if copy is None or copy.copy_id != member.copy_id:
            return self._begin_copy(member)
        if not copy.done:
            return self._copy_some(root, member, copy)
        pause_s = min(PAUSE_S, self.player.step())
        self._publish_floor(copy)
        return pause_s

    def services(self) -> list[Service]:
        """The one service to drive."""
        return [("player", self.step)]

    def view(self) -> View:
        """A read-only volume that always stands at the newest boundary of the save volume (C3)."""
        return View(self._volume, self.player.sets, self._check)

    def pin(self) -> PinnedView:
        """A view that stays at the newest boundary; playback waits for it where the volume makes no snapshots."""
        self._check()
        view = PinnedView(self._volume, self.player.sets, self._check, self.player.unpin)
        self.player.pin(view)
        return view

    def status(self) -> dict[str, object]:
        """What is durable here (R8, invariant 13)."""
        copy = self._copied.get()
        return {
            "member": self._member_name,
            "state": "following" if copy is not None and copy.done else "copying",
            "cut": self._root.last.number,
            "copy_next_block": copy.next_block if copy is not None else 0,
            "player": self.player.status(),
        }

    def _publish_floor(self, copy: SharedCopy) -> None:
        """Tell the primary's trimmer which sets no read here names; a later read names none of them either."""
        floor = ReadFloor(copy_id=copy.copy_id, number=self.player.sets.lowest_named())
        if floor != self._reads.get():
            self._reads.set(floor)

    def _base(self) -> Base | None:
        copy = self._copied.get()
        return Base(copy_id=copy.copy_id, position=copy.stamp) if copy is not None and copy.done else None

    def _begin_copy(self, member: Member) -> float:
        if member.copy_snapshot is None or member.copy_stamp is None:
            return PAUSE_S
        # invariant 6: from here on the volume is at no boundary, durably, before its first block is touched
        self._copied.set(SharedCopy(copy_id=member.copy_id, stamp=member.copy_stamp))
        self._copying = self._clearing = None
        self.player.reset()
        return 0.0

    def _copy_some(self, root: Root, member: Member, copy: SharedCopy) -> float:
        if not self.player.sets.is_idle() or member.copy_snapshot is None:
            return PAUSE_S
        if not copy.cleared:
            self._clear_some(copy)
            return 0.0
        if self._copying is None:
            snapshot = SnapshotReader(member.copy_snapshot, self._source, self._save, RootReaderTable(self._save))
            source = CopySource(
                snapshot=snapshot,
                copy_id=copy.copy_id,
                stamp=copy.stamp,
                lineage=root.lineage,
                chunk_bytes=load_policy(self._save).chunk_bytes,
            )
            self._copying = read_chunks(source, list(snapshot.in_use()), copy.next_block)
        item = next(self._copying, None)
        if item is not None:
            write_chunk(self._volume, decode_chunk(item[1], block_count=self._volume.block_count))
            self._unflushed_chunks += 1
        if item is None or self._unflushed_chunks >= FLUSH_CHUNKS:
            self._volume.flush()
            self._unflushed_chunks = 0
            next_block = copy.next_block if item is None else item[0]
            self._copied.set(msgspec.structs.replace(copy, next_block=next_block, done=item is None))
        return 0.0

    def _clear_some(self, copy: SharedCopy) -> None:
        if self._clearing is None:
            self._clearing = split(list(self._volume.in_use()), CLEAR_BLOCKS)
        for _ in range(CLEAR_EXTENTS_A_STEP):
            extent = next(self._clearing, None)
            if extent is None:
                self._volume.flush()
                self._copied.set(msgspec.structs.replace(copy, cleared=True))
                return
            self._volume.discard(extent.start, extent.count)
