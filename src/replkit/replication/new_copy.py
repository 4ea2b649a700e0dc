"""Making a new copy at a member, from a snapshot stamped with the last set that it contains (C1, FIG. 11)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from replkit.blocks.extent import Extent, clip, split, total
from replkit.contracts.bufferpool import BufferPool
from replkit.contracts.buffers import Buffer
from replkit.contracts.position import Position
from replkit.contracts.volume import BlockVolume
from replkit.deltaset.chunk import MAX_HEAD_BYTES, ChunkHead, encode_chunk
from replkit.deltaset.pieces import PIECE_BYTES, Kind, Piece, data_blocks
from replkit.deltaset.zeros import find_pieces
from replkit.errors import InvalidArgumentError
from replkit.rcp import messages as m
from replkit.replication.cells import Member, Root

COPY_WRITER = "copy"


@dataclass(frozen=True, kw_only=True)
class CopySource:
    """The snapshot that is copied, and what it is."""

    snapshot: BlockVolume
    copy_id: str
    stamp: Position
    lineage: str
    chunk_bytes: int


class CopyTransfer:
    """A new copy on its way to one member; only blocks in use and not zero travel, ascending, from ``next_block``."""

    def __init__(self, source: CopySource, next_block: int) -> None:
        self._source = source
        self._extents = list(source.snapshot.in_use())
        self._chunks = read_chunks(source, self._extents, next_block)
        self._chunk: tuple[int, Buffer] | None = None
        self._index = 0
        self.is_begun = self.is_sent = False
        self.next_block = next_block

    @property
    def copy_id(self) -> str:
        """Which copy it is."""
        return self._source.copy_id

    def peek(self) -> tuple[m.Body, Buffer]:
        """The next message and its payload."""
        source, volume = self._source, self._source.snapshot
        if not self.is_begun:
            blocks = total(self._extents)
            begin = m.CopyBegin(
                copy_id=source.copy_id,
                stamp=source.stamp,
                block_count_in_use=blocks,
                data_bytes=blocks * volume.block_size,
                volume_size_bytes=volume.size_bytes,
                block_size=volume.block_size,
                lineage=source.lineage,
            )
            return begin, b""
        if self._chunk is None:
            self._chunk = next(self._chunks, None)
        if self._chunk is None:
            return m.CopyEnd(copy_id=source.copy_id), b""
        next_block, payload = self._chunk
        return m.CopyChunk(copy_id=source.copy_id, index=self._index, next_block=next_block), payload

    def advance(self, body: m.Body) -> None:
        """The message of ``peek`` was sent."""
        if isinstance(body, m.CopyBegin):
            self.is_begun = True
        elif isinstance(body, m.CopyChunk):
            self._index += 1
            self.next_block = body.next_block
            self._chunk = None
        else:
            self.is_sent = True


def read_chunks(source: CopySource, extents: list[Extent], next_block: int) -> Iterator[tuple[int, Buffer]]:
    """Yield ``(first block after it, chunk record)`` for the blocks in use from ``next_block`` on."""
    volume = source.snapshot
    blocks_a_chunk = max(1, source.chunk_bytes // volume.block_size)
    buffers = BufferPool()
    index = 0
    for group in group_extents(clip(extents, next_block, volume.block_count), blocks_a_chunk):
        blocks = total(group)
        room_bytes = 2 * MAX_HEAD_BYTES + PIECE_BYTES * blocks  # before the data, for what is known only after it
        buffer = buffers.take(room_bytes + blocks * volume.block_size)
        pieces, data = read_pieces(volume, group, buffer[room_bytes:])
        after = group[-1].stop
        if not pieces:
            continue
        head = ChunkHead(
            lineage=source.lineage,
            epoch=source.stamp.epoch,
            number=source.stamp.number,
            writer=COPY_WRITER,
            index=index,
            block_size=volume.block_size,
            compression="none",
            plain_bytes=data_blocks(pieces) * volume.block_size,
        )
        index += 1
        yield after, _in_one(encode_chunk(head, pieces, data), buffer, room_bytes)
        del buffer, data  # the pool takes a buffer back when nobody has a view of it


def _in_one(parts: list[Buffer], buffer: memoryview, room_bytes: int) -> memoryview:
    """A record in one piece: data that has gaps, where zeros were, moves together; the head is put before it."""
    first, *rest = (memoryview(part) for part in parts)
    stop = room_bytes + sum(part.nbytes for part in rest)
    if stop < buffer.nbytes:
        at = room_bytes
        for part in rest:
            buffer[at : at + part.nbytes] = part
            at += part.nbytes
    start = room_bytes - first.nbytes
    buffer[start:room_bytes] = first
    return buffer[start:stop]


def group_extents(extents: list[Extent], max_blocks: int) -> Iterator[list[Extent]]:
    """Yield groups of ascending extents, each of at most ``max_blocks`` blocks and about as many pieces."""
    group: list[Extent] = []
    blocks = 0
    for extent in split(extents, max_blocks):
        if group and blocks + extent.count > max_blocks:
            yield group
            group, blocks = [], 0
        group.append(extent)
        blocks += extent.count
    if group:
        yield group


def read_pieces(volume: BlockVolume, group: list[Extent], buffer: memoryview) -> tuple[list[Piece], list[memoryview]]:
    """Read the extents into ``buffer`` in one call; zeros are left out, as the destination was made unused."""
    volume.read_extents(group, buffer)
    pieces: list[Piece] = []
    data: list[memoryview] = []
    offset = 0
    for extent in group:
        size = extent.count * volume.block_size
        found, parts = find_pieces(extent.start, buffer[offset : offset + size], volume.block_size)
        pieces.extend(piece for piece in found if piece.kind is Kind.DATA)
        data.extend(parts)
        offset += size
    return pieces, data


def add_member(root: Root, member: Member) -> Root:
    """The root with a new member, whose hold is durable before its snapshot is cut (C1)."""
    if any(each.name == member.name for each in root.members):
        raise InvalidArgumentError(f"there is a member {member.name} already", hint="remove it first")
    return msgspec.structs.replace(root, members=(*root.members, member))


def change_member(root: Root, name: str, **changes: object) -> Root:
    """The root with some fields of one member changed."""
    members = tuple(
        msgspec.structs.replace(member, **changes) if member.name == name else member for member in root.members
    )
    return msgspec.structs.replace(root, members=members)


def find_member(root: Root, name: str) -> Member | None:
    """The member of this name."""
    return next((member for member in root.members if member.name == name), None)
