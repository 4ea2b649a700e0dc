"""Reading committed delta sets from a save volume, as its producer or as a reader."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator

from replkit.blocks.extent import Extent
from replkit.contracts.runtime import Runtime
from replkit.contracts.savevolume import SaveVolume
from replkit.deltaset.chunk import Chunk, decode_chunk
from replkit.deltaset.header import SetHeader, decode_block_list, decode_header
from replkit.deltaset.keys import chunk_key, header_key, list_key
from replkit.deltaset.pieces import Kind, Piece
from replkit.errors import CorruptRecordError
from replkit.replication.cells import Root
from replkit.replication.directory import tag_of

CACHED_CHUNKS = 4
KNOWN_SETS = 256


class SetReader:
    """Headers, block lists and chunks of the sets that a root names; everything is verified before it is believed.

    ``root`` gives the newest root. Block numbers are below ``block_count``, or what the header of their set says the
    volume had, where that is more: it may have grown since, or shrunk.
    """

    def __init__(self, save: SaveVolume, root: Callable[[], Root], block_count: int) -> None:
        self._save = save
        self._root = root
        self._block_count = block_count
        self._block_counts: dict[str, int] = {}

    def tag(self, number: int) -> str:
        """Tag of the set whose last position is ``number``."""
        return tag_of(self._root(), number)

    def header(self, number: int) -> SetHeader:
        """The header of a set; ``RecordMissingError`` when it was trimmed."""
        header = decode_header(self.header_record(number))
        if header.number != number:
            raise CorruptRecordError(f"{header_key(self.tag(number))} is the header of set {header.number}")
        return header

    def header_record(self, number: int) -> memoryview:
        """The header as it is stored and sent."""
        return self._record(header_key(self.tag(number)))

    def chunk_record(self, number: int, index: int) -> memoryview:
        """A chunk as it is stored and sent."""
        return self._record(chunk_key(self.tag(number), index))

    def _record(self, key: str) -> memoryview:
        """A receiver has often put it just before; it is verified either way."""
        record = self._save.recall(key)
        return self._save.get(key) if record is None else record

    def chunk(self, number: int, index: int) -> Chunk:
        """A chunk, verified and decompressed."""
        chunk = decode_chunk(self.chunk_record(number, index), block_count=self._bound(number))
        if (chunk.head.number, chunk.head.index) != (number, index):
            found = f"chunk {chunk.head.index} of set {chunk.head.number}"
            raise CorruptRecordError(f"{chunk_key(self.tag(number), index)} holds {found}")
        return chunk

    def pieces(self, number: int, index: int) -> list[Piece]:
        """The block list of one chunk."""
        return decode_block_list(self._record(list_key(self.tag(number), index)), self._bound(number))

    def _bound(self, number: int) -> int:
        tag = self.tag(number)
        block_count = self._block_counts.get(tag)
        if block_count is None:
            block_count = max(self._block_count, self.header(number).volume_block_count)
            if len(self._block_counts) >= KNOWN_SETS:
                self._block_counts = {}
            self._block_counts[tag] = block_count
        return block_count

    def block_list(self, number: int) -> Iterator[Piece]:
        """All pieces of a set, ascending."""
        for index in range(self.header(number).list_count):
            yield from self.pieces(number, index)


class ChunkContent:
    """A decoded chunk in which blocks are found by number."""

    def __init__(self, chunk: Chunk) -> None:
        self._pieces = chunk.pieces
        self._data = chunk.data
        self._block_size = chunk.head.block_size
        self._starts = [piece.start for piece in chunk.pieces]
        self._offsets: list[int] = []
        offset = 0
        for piece in chunk.pieces:
            self._offsets.append(offset)
            if piece.kind is Kind.DATA:
                offset += piece.count * self._block_size

    def fill(self, extent: Extent, out: memoryview) -> None:
        """Copy the blocks of ``extent``, all of which the chunk has, into ``out``."""
        at = extent.start
        while at < extent.stop:
            place = bisect_right(self._starts, at) - 1
            piece = self._pieces[place]
            stop = min(piece.start + piece.count, extent.stop)
            target = out[(at - extent.start) * self._block_size : (stop - extent.start) * self._block_size]
            if piece.kind is Kind.DATA:
                offset = self._offsets[place] + (at - piece.start) * self._block_size
                target[:] = self._data[offset : offset + len(target)]
            else:
                target[:] = bytes(len(target))
            at = stop


class BlockReader:
    """Blocks of sets by number, with the few chunks that were read last kept decoded."""

    def __init__(self, reader: SetReader, runtime: Runtime) -> None:
        self._reader = reader
        self._lock = runtime.lock()
        self._chunks: OrderedDict[tuple[int, int], ChunkContent] = OrderedDict()

    def fill(self, number: int, index: int, extent: Extent, out: memoryview) -> None:
        """Copy the blocks of ``extent`` from chunk ``index`` of set ``number`` into ``out``."""
        self._content(number, index).fill(extent, out)

    def _content(self, number: int, index: int) -> ChunkContent:
        key = (number, index)
        with self._lock:
            content = self._chunks.get(key)
            if content is not None:
                self._chunks.move_to_end(key)
                return content
        content = ChunkContent(self._reader.chunk(number, index))
        with self._lock:
            self._chunks[key] = content
            while len(self._chunks) > CACHED_CHUNKS:
                self._chunks.popitem(last=False)
        return content
