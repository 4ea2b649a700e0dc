"""Sending a difference: of a snapshot only the blocks that a member lacks, each once, ascending (R4, P5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from replkit.blocks.bitmap import PagedBitmap
from replkit.blocks.extent import Extent, split, total
from replkit.contracts.buffers import Buffer
from replkit.contracts.position import Position
from replkit.contracts.savevolume import SaveVolume
from replkit.contracts.volume import BlockVolume
from replkit.deltaset.chunk import ChunkHead, encode_chunk
from replkit.deltaset.pieces import Kind, Piece, data_blocks
from replkit.deltaset.zeros import find_pieces
from replkit.errors import DivergedError
from replkit.rcp import messages as m
from replkit.replication.branches import identity_at
from replkit.replication.cells import Member, Root
from replkit.replication.directory import difference_writer
from replkit.replication.new_copy import CopySource
from replkit.replication.send_set import diverged
from replkit.replication.set_reader import SetReader

MAX_PARTS = 1 << 14
"""Bound of the pieces of a chunk that carry no data."""
MAX_RUN_BLOCKS = 1 << 30


class Part(NamedTuple):
    """Blocks that differ, all in use in the snapshot or none."""

    extent: Extent
    is_used: bool


class DifferenceTransfer:
    """A difference on its way to one member: data and zeros of blocks in use, discards of the others.

    Args:
        source: the snapshot.
        base: where the member stands, but for blocks that are in ``blocks`` too.
        blocks: the blocks to send.
        next_block: those before it are durable at the member,
        next_chunk: in so many chunks.
    """

    def __init__(
        self, source: CopySource, base: Position, blocks: PagedBitmap, next_block: int, next_chunk: int
    ) -> None:
        self._source, self._base, self._blocks = source, base, blocks
        self._chunks = read_difference(source, blocks, next_block, next_chunk)
        self._chunk: tuple[int, Buffer] | None = None
        self._index = 0
        self.is_begun = self.is_sent = False

    @property
    def copy_id(self) -> str:
        """Which copy it is."""
        return self._source.copy_id

    def peek(self) -> tuple[m.Body, Buffer]:
        """The next message and its payload."""
        if not self.is_begun:
            return self._begin(), b""
        if self._chunk is None:
            self._chunk = next(self._chunks, None)
        if self._chunk is None:
            return m.CopyEnd(copy_id=self.copy_id), b""
        next_block, payload = self._chunk
        return m.CopyChunk(copy_id=self.copy_id, index=self._index, next_block=next_block), payload

    def advance(self, body: m.Body) -> None:
        """The message of ``peek`` was sent."""
        if isinstance(body, m.CopyBegin):
            self.is_begun = True
        elif isinstance(body, m.CopyChunk):
            self._index += 1
            self._chunk = None
        else:
            self.is_sent = True

    def _begin(self) -> m.CopyBegin:
        source, volume = self._source, self._source.snapshot
        used = sum(part.extent.count for part in find_parts(volume, self._blocks, 0) if part.is_used)
        return m.CopyBegin(
            copy_id=source.copy_id,
            stamp=source.stamp,
            block_count_in_use=used,
            data_bytes=used * volume.block_size,
            volume_size_bytes=volume.size_bytes,
            block_size=volume.block_size,
            lineage=source.lineage,
            base=self._base,
            block_count=self._blocks.count(),
        )


def read_difference(
    source: CopySource, blocks: PagedBitmap, next_block: int, next_chunk: int
) -> Iterator[tuple[int, Buffer]]:
    """Yield ``(first block after it, chunk record)`` for the blocks from ``next_block`` on, zeros and discards too."""
    volume = source.snapshot
    for index, group in enumerate(_group(find_parts(volume, blocks, next_block), source), next_chunk):
        pieces, data = _read_pieces(volume, group)
        head = ChunkHead(
            lineage=source.lineage,
            epoch=source.stamp.epoch,
            number=source.stamp.number,
            writer=difference_writer(source.copy_id),
            index=index,
            block_size=volume.block_size,
            compression="none",
            plain_bytes=data_blocks(pieces) * volume.block_size,
        )
        yield group[-1].extent.stop, b"".join(memoryview(part) for part in encode_chunk(head, pieces, data))


def find_parts(volume: BlockVolume, blocks: PagedBitmap, start: int) -> Iterator[Part]:
    """Yield the blocks from ``start`` on, ascending, divided by whether they are in use in the snapshot."""
    for run in blocks.runs(start, volume.block_count):
        at = run.start
        for used in volume.in_use_between(run.start, run.stop):
            if used.start > at:
                yield Part(Extent(at, used.start - at), False)
            yield Part(used, True)
            at = used.stop
        if at < run.stop:
            yield Part(Extent(at, run.stop - at), False)


def choose_base(save: SaveVolume, root: Root, member: Member, welcome: m.Welcome | None) -> Position:
    """The position from which the difference leads: where an unfinished one began, or where the member stands.

    A member that can be read stands at what it received, which may be more than it had acknowledged; then that must be
    in this history (``DivergedError``). One that returns from another history stands at the fork that was agreed.
    """
    if member.difference is None or welcome is None:
        raise DivergedError(f"member {member.name} needs no difference")
    fork, partial = member.difference.fork, welcome.partial
    base = partial.copy_base if partial is not None else None
    if base is None and welcome.played is not None:
        base = welcome.received
    if base is None or base == fork:
        return fork
    if base.number < fork.number or base.number > root.last.number:
        raise diverged(base, root)
    identity = identity_at(SetReader(save, lambda: root, 1 << 48), root, base.number)
    if identity != base.identity:
        raise diverged(base, root)
    return base


def _group(parts: Iterator[Part], source: CopySource) -> Iterator[list[Part]]:
    """Parts for one chunk each: of bounded data, and a bounded number."""
    max_blocks = max(1, source.chunk_bytes // source.snapshot.block_size)
    group: list[Part] = []
    blocks = 0
    for extent, is_used in parts:
        for piece in split([extent], max_blocks if is_used else MAX_RUN_BLOCKS):
            if group and (blocks + is_used * piece.count > max_blocks or len(group) >= MAX_PARTS):
                yield group
                group, blocks = [], 0
            group.append(Part(piece, is_used))
            blocks += is_used * piece.count
    if group:
        yield group


def _read_pieces(volume: BlockVolume, group: list[Part]) -> tuple[list[Piece], list[memoryview]]:
    used = [part.extent for part in group if part.is_used]
    buffer = memoryview(bytearray(total(used) * volume.block_size))
    volume.read_extents(used, buffer)
    pieces: list[Piece] = []
    data: list[memoryview] = []
    offset = 0
    for extent, is_used in group:
        if not is_used:
            pieces.append(Piece(extent.start, extent.count, Kind.DISCARD))
            continue
        size = extent.count * volume.block_size
        found, views = find_pieces(extent.start, buffer[offset : offset + size], volume.block_size)
        pieces.extend(found)
        data.extend(views)
        offset += size
    return pieces, data
