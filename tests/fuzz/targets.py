"""Every decoder of disk and wire, with valid inputs to mutate and, where it can be, a way to repair the checksum.

A mutation that leaves the checksum wrong proves only that checksums are looked at. So half of the inputs are
*resealed*: mutated behind the checksum, which is then made right, as a hostile peer would.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from xxhash import xxh3_64, xxh3_64_intdigest, xxh3_128

from replkit.backends.file import layout
from replkit.blocks.bitmap import PagedBitmap
from replkit.blocks.blockmap import BlockMap
from replkit.blocks.record import seal, unseal
from replkit.contracts.message import PREFIX_BYTES, Message, check_body, encode_frame_head, parse_prefix
from replkit.contracts.position import Epoch, HistoryEntry, Position
from replkit.contracts.savevolume import CellValue
from replkit.deltaset import chunk as chunks
from replkit.deltaset import header as headers
from replkit.deltaset.chunk import ChunkHead, decode_chunk, encode_chunk
from replkit.deltaset.header import BLOCK_LIST_MAGIC, HEADER_MAGIC, decode_block_list, decode_header, encode_block_list
from replkit.deltaset.keys import set_tag
from replkit.deltaset.pieces import PIECE_BYTES, Kind, Piece, decode_pieces, encode_pieces
from replkit.errors import CorruptRecordError
from replkit.rcp import messages as m
from replkit.replication import cells
from replkit.replication.root import load_struct
from replkit.site.config import parse_config
from replkit.site.control import decode_reply, decode_request

BLOCKS = 1 << 16
EPOCH = Epoch(3, "0123456789abcdef")
POSITION = Position(EPOCH, 7, "0" * 32)
PIECES = [Piece(0, 2, Kind.DATA), Piece(5, 9, Kind.ZERO), Piece(100, 3, Kind.DISCARD), Piece(4000, 1, Kind.DATA)]


@dataclass(frozen=True)
class Target:
    """One decoder: what it is fed, and what repairs the checksum of an input that was mutated."""

    name: str
    samples: tuple[bytes, ...]
    decode: Callable[[bytes], object]
    reseal: Callable[[bytes], bytes] | None = None


def _chunk(compression: str) -> bytes:
    head = ChunkHead(
        lineage="ab" * 16, epoch=EPOCH, number=7, writer="w-1", index=0, block_size=512,
        compression=compression, plain_bytes=3 * 512,
    )  # type: ignore[arg-type]  # fmt: skip
    return b"".join(memoryview(part) for part in encode_chunk(head, PIECES, [b"text" * 384]))


def _reseal_chunk(data: bytes) -> bytes:
    """Make both checksums right for whatever lengths the fixed part announces."""
    fixed_bytes = chunks._FIXED.size
    if len(data) < fixed_bytes:
        return data
    fixed = list(chunks._FIXED.unpack_from(data))
    offset = fixed_bytes + fixed[3] + fixed[4] * PIECE_BYTES
    offset = offset if offset <= len(data) else len(data)
    fixed[5] = len(data) - offset
    fixed[6] = xxh3_128(data[offset:]).digest()
    packed = chunks._FIXED.pack(*fixed)[: chunks._COVERED_BYTES]
    checksum = xxh3_64(packed + data[fixed_bytes:offset]).intdigest()
    return packed + checksum.to_bytes(8, "little") + data[fixed_bytes:]


def _sealed(magic: bytes, version: int) -> Callable[[bytes], bytes]:
    """Take the mutated bytes for the plain content of a record that is whole."""
    return lambda data: seal(magic, version, data)


def _header() -> bytes:
    return headers.encode_header(
        headers.SetHeader(
            lineage="ab" * 16, epoch=EPOCH, first_number=6, number=7, base_identity="1" * 32,
            identities=("2" * 32, "3" * 32), volume_size_bytes=BLOCKS * 512, block_size=512, block_count=15,
            data_bytes=1536, chunk_count=1, list_count=1, created_s=1.5, writer="w-1",
            marks=(headers.Mark(kind="verify", name="v"),), digest="4" * 32,
        )
    )  # fmt: skip


def _plain_header() -> bytes:
    return unseal(HEADER_MAGIC, 1, memoryview(_header()), max_plain_bytes=1 << 20, what="header")


def _bodies() -> list[m.Body]:
    history = (HistoryEntry(Epoch(1, "a" * 16), 1), HistoryEntry(EPOCH, 5))
    return [
        m.Hello(versions=(1,), site="a", volume="vol", member="b", lineage="ab" * 16, epoch=EPOCH, history=history,
                position=POSITION, block_size=512, volume_size_bytes=1 << 20),
        m.Welcome(version=1, site="b", received=POSITION, played=None, epoch=EPOCH, credit_bytes=1 << 20,
                  partial=m.Partial(set_tag=set_tag(3, 7, "w-1"), epoch=EPOCH, digest="4" * 32, next_chunk=2)),
        m.Refuse(code="fenced", text="no", epoch=EPOCH),
        m.SetBegin(tag=set_tag(3, 7, "w"), epoch=EPOCH, first_number=7, number=7, base_identity="1" * 32, chunk_count=3,
                   digest="4" * 32),
        m.Ack(received=POSITION, played=POSITION),
        m.Credit(size_bytes=5),
        m.Command(id=1, name="start-playback", arguments={"a": 1}),
        m.CommandDone(id=1, ok=True, result={"b": "x"}),
        m.Ping(token=3),
        m.Bye(reason="done"),
    ]  # fmt: skip


def _message_samples() -> tuple[bytes, ...]:
    return tuple(bytes((message.kind,)) + message.body for message in map(m.encode, _bodies()))


def _decode_message(data: bytes) -> object:
    return m.decode(Message(data[0] if data else 0, data[1:], b""))


def _frame() -> bytes:
    message = m.encode(_bodies()[0])
    return bytes(encode_frame_head(message))


def _decode_frame(data: bytes) -> object:
    if len(data) < PREFIX_BYTES:
        return None
    prefix = parse_prefix(data[:PREFIX_BYTES])
    body = data[PREFIX_BYTES : PREFIX_BYTES + prefix.body_bytes]
    check_body(prefix, body)
    return m.decode(Message(prefix.kind, body, b""))


def _reseal_frame(data: bytes) -> bytes:
    fixed, body = data[: PREFIX_BYTES - 8], data[PREFIX_BYTES:]
    return fixed + struct.pack("<Q", xxh3_64(fixed + body).intdigest()) + body


def _record_head() -> bytes:
    head = layout.RecordHead(layout.LIVE, "sets/3-7-w-1/chunk-0", 9, 2, 1, 8192, 5000, 77)
    return bytes(layout.encode_record_head(head, 11))


def _found(decode: Callable[[bytes], object | None]) -> Callable[[bytes], object]:
    """A decoder that says with ``None`` that nothing is there, as one that refuses."""

    def decode_or_refuse(data: bytes) -> object:
        found = decode(data)
        if found is None:
            raise CorruptRecordError("nothing is there")
        return found

    return decode_or_refuse


def _reseal_record_head(data: bytes) -> bytes:
    """A head whose own checksum is right, whatever its fields became."""
    fixed = layout._RECORD
    if len(data) < 512:
        return data
    plain = bytearray(data[: fixed.size])
    plain[layout.STATE_OFFSET] = 0
    key_bytes = fixed.unpack_from(data)[3]
    start = fixed.size + 8
    checksum = xxh3_64_intdigest(bytes(plain) + data[start : start + key_bytes], 11)
    return data[: fixed.size] + struct.pack("<Q", checksum) + data[start:]


class _OneCell:
    """As much of a save volume as reading a cell needs."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def load(self, _cell: str) -> CellValue:
        return CellValue(self._value, 1)


def _cell(kind: type[msgspec.Struct]) -> Callable[[bytes], object]:
    return lambda data: load_struct(_OneCell(data), "c", kind)  # type: ignore[arg-type]


def _root() -> bytes:
    root = cells.Root(
        lineage="ab" * 16, role="primary", epoch=EPOCH, history=(HistoryEntry(EPOCH, 1),), last=POSITION,
        writers=(cells.WriterRun(1, "w"),), spans=(cells.Span(2, 3),), given_up=cells.Span(4, 4),
        members=(cells.Member(name="b", url="tcp://b", destination_volume="v", state="copying", hold=3),),
        fenced=EPOCH,
    )  # fmt: skip
    return msgspec.json.encode(root)


CONFIG = b"""site = "a"
listen = "tcp://127.0.0.1:7001"
[peers.b]
url = "tcp://127.0.0.1:7002"
[volumes.v]
url = "file:///srv/v.img"
size = "1GiB"
role = "primary"
nbd = "unix:/run/v.sock"
save_volume = { url = "file:///srv/save", capacity = "2GiB" }
destinations = [{ peer = "b" }]
policy = { interval_s = 5 }
"""

REPLIES = (
    b'{"id": "1", "ok": true, "result": [1]}',
    b'{"id": "1", "ok": false, "error": {"type": "E", "message": "m"}}',
)


def _decode_config(data: bytes) -> object:
    return parse_config(data.decode("utf-8", errors="replace"))


def _bitmap() -> PagedBitmap:
    bitmap = PagedBitmap(BLOCKS)
    for start, count in ((0, 3), (100, 40_000), (65_000, 7)):
        bitmap.set_run(start, count)
    return bitmap


def _block_map() -> BlockMap:
    block_map = BlockMap()
    for start in range(0, 3000, 7):
        block_map.add(start, 3, start * 5)
    return block_map


def all_targets() -> list[Target]:
    """Every decoder that takes bytes from a disk, a peer, a bucket or a file."""
    pieces = encode_pieces(PIECES)
    return [
        Target("chunk", (_chunk("none"), _chunk("zstd")), lambda d: decode_chunk(d, block_count=BLOCKS), _reseal_chunk),
        Target("set header", (_header(),), decode_header),
        Target("set header, resealed", (_plain_header(),),
               lambda d: decode_header(seal(HEADER_MAGIC, 1, d))),
        Target("block list", (encode_block_list(PIECES),), lambda d: decode_block_list(d, BLOCKS)),
        Target("block list, resealed", (pieces,), lambda d: decode_block_list(seal(BLOCK_LIST_MAGIC, 1, d), BLOCKS)),
        Target("pieces", (pieces,), lambda d: decode_pieces(d, BLOCKS)),
        Target("bit map", (_bitmap().to_bytes(),), lambda d: PagedBitmap.from_bytes(BLOCKS, d)),
        Target("block map", (_block_map().to_bytes(),), BlockMap.from_bytes),
        Target("message", _message_samples(), _decode_message),
        Target("frame", (_frame(),), _decode_frame, _reseal_frame),
        Target("record head", (_record_head(),), _found(lambda d: layout.decode_record_head(d, 8192, 11)),
               _reseal_record_head),
        Target("segment head", (layout.encode_segment_head(3, 4096, 11),),
               _found(lambda d: layout.decode_segment_head(d, 4096, 11))),
        Target("layout", (msgspec.json.encode(layout.plan(1 << 30, 11)),), lambda d: layout.decode_layout(d, "here")),
        Target("root cell", (_root(),), _cell(cells.Root)),
        Target("progress cell", (msgspec.json.encode(cells.MemberProgress(received=POSITION)),),
               _cell(cells.MemberProgress)),
        Target("control request", (b'{"id": "1", "command": "cut", "arguments": {"volume": "v"}}\n',), decode_request),
        Target("control reply", REPLIES, decode_reply),
        Target("config", (CONFIG,), _decode_config),
    ]  # fmt: skip
