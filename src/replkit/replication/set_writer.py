"""Writing one delta set: chunks and block lists, the header last, one sync, and the root swap publishes (D3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from replkit.contracts.buffers import Buffer
from replkit.contracts.position import Epoch
from replkit.contracts.savevolume import SaveVolume
from replkit.deltaset.chunk import ChunkHead, encode_chunk, record_checksum
from replkit.deltaset.header import Mark, SetDigest, SetHeader, encode_block_list, encode_header
from replkit.deltaset.identity import IdentityDigest
from replkit.deltaset.keys import chunk_key, header_key, list_key, set_tag
from replkit.deltaset.pieces import Piece, data_blocks

MAX_CHUNK_PIECES = 1 << 16
"""Bound of the pieces in one chunk, so that its block list is small and many discards cannot make it huge."""


class SetWriter:
    """The set being cut, from its first chunk to its header; nothing of it exists for others until the root names it.

    Each chunk has a block list record of its own, so that a reader finds the chunk of a block without reading data.
    """

    def __init__(
        self,
        save: SaveVolume,
        *,
        lineage: str,
        epoch: Epoch,
        first_number: int,
        number: int,
        writer: str,
        parents: tuple[str, ...],
        block_size: int,
        compression: Literal["none", "zstd"],
        chunk_bytes: int,
        keeps_data: bool = True,
    ) -> None:
        """``parents`` are the identities of the positions ``first_number - 1`` to ``number - 1``.

        Without ``keeps_data`` the set is as one that was trimmed: lists and header are put, its chunks are not.
        """
        self.tag = set_tag(epoch.count, number, writer)
        self._save = save
        self._lineage, self._epoch, self._writer = lineage, epoch, writer
        self._first_number, self._number, self._parents = first_number, number, parents
        self._block_size = block_size
        self._compression: Literal["none", "zstd"] = compression
        self._chunk_bytes = chunk_bytes
        self._keeps_data = keeps_data
        self._identity = IdentityDigest(parents[-1], epoch, number)
        self._digest = SetDigest()
        self._pieces: list[Piece] = []
        self._data: list[Buffer] = []
        self._data_bytes = 0
        self._chunk_count = 0
        self._block_count = 0
        self.stored_bytes = 0
        self.plain_bytes = 0

    def add(self, pieces: Sequence[Piece], data: Sequence[Buffer]) -> None:
        """Add blocks after all that were added before; ``data`` is the content of the DATA pieces, whole blocks."""
        if not pieces:
            return
        self._identity.update(pieces, data)
        self._pieces.extend(pieces)
        self._data.extend(data)
        self._data_bytes += data_blocks(pieces) * self._block_size
        self._block_count += sum(piece.count for piece in pieces)
        if self._data_bytes >= self._chunk_bytes or len(self._pieces) >= MAX_CHUNK_PIECES:
            self._put_chunk()

    def commit(self, *, volume_size_bytes: int, created_s: float, marks: tuple[Mark, ...] = ()) -> SetHeader:
        """Make the set durable, header last. It exists for others once a swap of the root names it."""
        if self._pieces:
            self._put_chunk()
        header = SetHeader(
            lineage=self._lineage,
            epoch=self._epoch,
            first_number=self._first_number,
            number=self._number,
            base_identity=self._parents[0],
            identities=(*self._parents[1:], self._identity.hexdigest()),
            volume_size_bytes=volume_size_bytes,
            block_size=self._block_size,
            block_count=self._block_count,
            data_bytes=self.plain_bytes,
            chunk_count=self._chunk_count,
            list_count=self._chunk_count,
            created_s=created_s,
            writer=self._writer,
            marks=marks,
            digest=self._digest.hexdigest(),
        )
        put_header(self._save, self.tag, encode_header(header))
        return header

    def abandon(self) -> None:
        """Delete what was put; keys of this tag are never used again."""
        delete_set(self._save, self.tag)

    def _put_chunk(self) -> None:
        head = ChunkHead(
            lineage=self._lineage,
            epoch=self._epoch,
            number=self._number,
            writer=self._writer,
            index=self._chunk_count,
            block_size=self._block_size,
            compression=self._compression,
            plain_bytes=self._data_bytes,
        )
        parts = encode_chunk(head, self._pieces, self._data)
        if self._keeps_data:
            self._save.put(chunk_key(self.tag, self._chunk_count), parts)
            self.stored_bytes += sum(memoryview(part).nbytes for part in parts)
        self._save.put(list_key(self.tag, self._chunk_count), [encode_block_list(self._pieces)])
        self._digest.update(record_checksum(parts[0]))
        self.plain_bytes += self._data_bytes
        self._chunk_count += 1
        self._pieces, self._data, self._data_bytes = [], [], 0


def put_header(save: SaveVolume, tag: str, header: Buffer) -> None:
    """Put the header, and make the whole set durable by one sync (invariant 5).

    A crash may leave the header without some of the chunks. No root names the set then, and nothing else is believed:
    what no root names is swept, and a header that was put is deleted before the set is gone on with.
    """
    save.put(header_key(tag), [header])
    save.sync()


def delete_set(save: SaveVolume, tag: str) -> None:
    """Delete every record of a set that no root names."""
    save.delete([*save.list(f"sets/{tag}/"), *save.list(f"lists/{tag}/")])
