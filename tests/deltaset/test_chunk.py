import itertools
import random
import tracemalloc

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64

from replkit.deltaset import chunk as chunk_module
from replkit.deltaset.chunk import decode_chunk, encode_chunk, record_checksum
from replkit.deltaset.pieces import Kind, Piece
from replkit.errors import CorruptRecordError, InvalidArgumentError

BLOCK = 512
QUICK = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PIECES = [Piece(2, 2, Kind.DATA), Piece(4, 500, Kind.ZERO), Piece(700, 1, Kind.DATA), Piece(800, 9, Kind.DISCARD)]
RANDOM = random.Random(7).randbytes(3 * BLOCK)
REGULAR = b"abcdefgh" * (3 * BLOCK // 8)


def record_of(make_head, data, compression="none", pieces=PIECES):
    head = make_head(plain_bytes=len(data), compression=compression)
    return b"".join(encode_chunk(head, pieces, [data]))


@pytest.fixture(params=["none", "zstd"])
def record(request, make_head):
    return record_of(make_head, REGULAR, request.param)


@pytest.mark.requirement("D3")
def test_a_chunk_comes_back_whole(record):
    chunk = decode_chunk(record, block_count=1000)
    assert chunk.pieces == PIECES
    assert chunk.data == REGULAR
    assert (chunk.head.number, chunk.head.index, chunk.head.epoch.count) == (7, 3, 2)


@pytest.mark.requirement("D3")
def test_data_is_compressed_only_where_that_makes_it_smaller(make_head):
    assert decode_chunk(record_of(make_head, REGULAR, "zstd"), block_count=1000).head.compression == "zstd"
    assert len(record_of(make_head, REGULAR, "zstd")) < len(record_of(make_head, REGULAR, "none"))
    stubborn = decode_chunk(record_of(make_head, RANDOM, "zstd"), block_count=1000)
    assert stubborn.head.compression == "none"
    assert stubborn.data == RANDOM


def test_plain_data_is_passed_by_reference(make_head):
    data = [memoryview(RANDOM)[:BLOCK], memoryview(RANDOM)[BLOCK:]]
    parts = encode_chunk(make_head(plain_bytes=len(RANDOM)), PIECES, data)
    assert [part.obj for part in parts[1:]] == [RANDOM, RANDOM]
    joined = b"".join(parts)
    assert decode_chunk(joined, block_count=1000).data.obj is joined


def test_a_chunk_without_data_is_a_chunk(make_head):
    pieces = [Piece(0, 10, Kind.DISCARD)]
    chunk = decode_chunk(b"".join(encode_chunk(make_head(), pieces, [])), block_count=10)
    assert chunk.pieces == pieces
    assert len(chunk.data) == 0


def test_the_record_checksum_is_in_the_first_part_and_covers_all(make_head):
    def checksum(head, data):
        parts = encode_chunk(head, PIECES, [data])
        assert record_checksum(parts[0]) == record_checksum(b"".join(parts))
        return record_checksum(parts[0])

    head = make_head(plain_bytes=3 * BLOCK)
    assert (
        len({checksum(head, RANDOM), checksum(head, REGULAR), checksum(make_head(plain_bytes=1536, index=4), RANDOM)})
        == 3
    )
    with pytest.raises(CorruptRecordError):
        record_checksum(b"short")


@pytest.mark.requirement("D3")
def test_every_bit_of_a_chunk_is_guarded(record):
    """Invariant 5: what was damaged anywhere is not accepted."""
    for bit in range(len(record) * 8):
        broken = bytearray(record)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptRecordError):
            decode_chunk(broken, block_count=1000)


@pytest.mark.requirement("D3")
def test_a_chunk_cut_anywhere_or_lengthened_is_refused(record):
    for length in range(len(record)):
        with pytest.raises(CorruptRecordError, match="sets/x/1"):
            decode_chunk(record[:length], block_count=1000, what="sets/x/1")
    with pytest.raises(CorruptRecordError):
        decode_chunk(record + b"\0", block_count=1000)


@QUICK
@given(st.binary(max_size=200))
def test_nonsense_is_refused(data):
    with pytest.raises(CorruptRecordError):
        decode_chunk(data, block_count=1000)
    with pytest.raises(CorruptRecordError):
        decode_chunk(b"RKDC\1\0\0\0" + data, block_count=1000)


def forged(head, pieces_bytes, stored):
    """A record whose checksums are right, whatever it says."""
    piece_count = len(pieces_bytes) // 13
    digest = chunk_module.xxh3_128(stored).digest()
    fixed = chunk_module._FIXED.pack(b"RKDC", 1, 0, len(head), piece_count, len(stored), digest, 0)[:-8]
    return fixed + xxh3_64(fixed + head + pieces_bytes).digest()[::-1] + head + pieces_bytes + stored


@QUICK
@given(head=st.binary(max_size=60), pieces=st.binary(max_size=3).map(lambda b: b * 13), stored=st.binary(max_size=40))
def test_nonsense_under_right_checksums_is_refused(head, pieces, stored):
    with pytest.raises(CorruptRecordError):
        decode_chunk(forged(head, pieces, stored), block_count=1000)


@pytest.mark.parametrize(
    ("changes", "stored"),
    [
        ({"plain_bytes": 3 * BLOCK}, RANDOM[:-1]),
        ({"plain_bytes": 3 * BLOCK + 1}, RANDOM + b"x"),
        ({"plain_bytes": 1 << 62}, RANDOM),
        ({"plain_bytes": 3 * BLOCK, "compression": "zstd"}, RANDOM),
        ({"plain_bytes": 3 * BLOCK, "compression": "lz77"}, RANDOM),
        ({"plain_bytes": 3 * BLOCK, "block_size": 768}, RANDOM),
        ({"plain_bytes": 3 * BLOCK, "index": -1}, RANDOM),
        ({"plain_bytes": 3 * BLOCK, "lineage": "x" * 3000}, RANDOM),
        ({"plain_bytes": 3 * BLOCK, "surprise": 1}, RANDOM),
    ],
)
def test_a_well_formed_lie_is_refused(make_head, changes, stored):
    head = msgspec.msgpack.encode({**msgspec.structs.asdict(make_head()), **changes})
    with pytest.raises(CorruptRecordError):
        decode_chunk(forged(head, chunk_module.encode_pieces(PIECES), stored), block_count=1000)


def test_the_forger_of_these_tests_can_make_a_true_record(make_head):
    head = msgspec.msgpack.encode(make_head(plain_bytes=len(RANDOM)))
    record = forged(head, chunk_module.encode_pieces(PIECES), RANDOM)
    assert decode_chunk(record, block_count=1000).data == RANDOM


def test_a_chunk_for_a_greater_volume_is_refused(record):
    with pytest.raises(CorruptRecordError, match=r"3 of set 2:7.*reaches to block 809 of a volume of 808"):
        decode_chunk(record, block_count=808)


def test_decompression_makes_no_more_than_was_announced(make_head):
    """Invariant 12: a small chunk that unfolds into 256 MiB costs no memory."""
    bomb = chunk_module.compress([memoryview(bytes(1 << 20))] * 256)
    head = msgspec.msgpack.encode(make_head(plain_bytes=BLOCK * 3, compression="zstd"))
    record = forged(head, chunk_module.encode_pieces(PIECES), bomb)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptRecordError, match="does not hold the announced 1536 bytes"):
            decode_chunk(record, block_count=1000)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_what_could_not_be_read_is_not_written(make_head, monkeypatch):
    with pytest.raises(InvalidArgumentError, match="1536 bytes of data, head says 1537"):
        encode_chunk(make_head(plain_bytes=1537), PIECES, [RANDOM])
    with pytest.raises(InvalidArgumentError):
        encode_chunk(make_head(plain_bytes=1536), PIECES[1:], [RANDOM])
    with pytest.raises(InvalidArgumentError, match="more than one chunk can carry"):
        encode_chunk(make_head(lineage="x" * 5000), [], [])
    monkeypatch.setattr(chunk_module, "MAX_CHUNK_BYTES", 1000)
    with pytest.raises(InvalidArgumentError, match="more than one chunk can carry"):
        encode_chunk(make_head(plain_bytes=1536), PIECES, [RANDOM])


@QUICK
@given(where=st.sampled_from(["head", "pieces", "stored"]), at=st.integers(0, 1 << 20), value=st.integers(0, 255))
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_changed_byte_under_right_checksums_is_refused_or_makes_sense(make_head, compression, where, at, value):
    """Invariant 12: also who can make checksums gets nothing but the typed error, or a chunk whose parts fit."""
    data = REGULAR if compression == "none" else chunk_module.compress([memoryview(REGULAR)])
    parts = {
        "head": bytearray(msgspec.msgpack.encode(make_head(plain_bytes=len(REGULAR), compression=compression))),
        "pieces": bytearray(chunk_module.encode_pieces(PIECES)),
        "stored": bytearray(data),
    }
    parts[where][at % len(parts[where])] = value
    record = forged(*map(bytes, parts.values()))
    try:
        chunk = decode_chunk(record, block_count=1000)
    except CorruptRecordError:
        return
    assert len(chunk.data) == sum(p.count for p in chunk.pieces if p.kind is Kind.DATA) * chunk.head.block_size
    assert all(a.stop <= b.start for a, b in itertools.pairwise(chunk.pieces))
    assert chunk.pieces[-1].stop <= 1000
