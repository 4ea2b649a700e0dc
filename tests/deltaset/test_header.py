import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replkit.blocks.record import seal
from replkit.contracts.position import Epoch, Position
from replkit.deltaset.header import (
    SetDigest,
    decode_block_list,
    decode_header,
    encode_block_list,
    encode_header,
)
from replkit.deltaset.pieces import Kind, Piece
from replkit.errors import CorruptRecordError, InvalidArgumentError

QUICK = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PIECES = [Piece(number * 3, 2, Kind(number % 3)) for number in range(200)]


@pytest.mark.requirement("D3")
def test_a_header_comes_back_and_says_where_its_player_stands(make_header):
    header = decode_header(encode_header(make_header()))
    assert header == make_header()
    assert header.position == Position(Epoch(2, "00ff00ff00ff00ff"), 7, "b" * 32)
    assert header.volume_block_count == 1000


@pytest.mark.requirement("D3")
def test_every_bit_of_header_and_block_list_is_guarded(make_header):
    """Invariant 5: a header that is not whole is no header."""
    records = [
        (encode_header(make_header()), decode_header),
        (encode_block_list(PIECES), lambda record: decode_block_list(record, 1000)),
    ]
    for record, decode in records:
        for bit in range(len(record) * 8):
            broken = bytearray(record)
            broken[bit // 8] ^= 1 << bit % 8
            with pytest.raises(CorruptRecordError):
                decode(broken)
        for length in range(len(record)):
            with pytest.raises(CorruptRecordError):
                decode(record[:length])


FAULTS = [
    ({"first_number": 8}, "spans sets 8 to 7"),
    ({"first_number": 0, "identities": ("a" * 32,) * 8}, "spans sets 0"),
    ({"identities": ("a" * 32,)}, "1 identities for sets 6 to 7"),
    ({"block_size": 768}, "768 is no power of two"),
    ({"block_count": 1001}, "1001 blocks of a volume of 1000"),
    ({"data_bytes": 512 * 10}, "not the data"),
    ({"data_bytes": 100}, "not the data"),
    ({"chunk_count": 0}, "no chunk"),
    ({"epoch": Epoch(-1, "x")}, "epoch -1"),
    ({"epoch": Epoch(1, "x" * 65)}, "65 characters"),
    ({"created_s": float("nan")}, "created at nan"),
]


@pytest.mark.requirement("D3")
@pytest.mark.parametrize(("changes", "fault"), FAULTS)
def test_a_header_whose_numbers_do_not_fit_is_neither_read_nor_written(make_header, changes, fault):
    header = make_header(**changes)
    with pytest.raises(CorruptRecordError, match=f"lists/t/header: .*{fault}"):
        decode_header(seal(b"RKSH", 1, msgspec.msgpack.encode(header)), what="lists/t/header")
    with pytest.raises(InvalidArgumentError, match=fault):
        encode_header(header)


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "xyz"},
        {"base_identity": ""},
        {"number": -1},
        {"marks": [{"kind": "dance", "name": "x"}]},
        {"surprise": 1},
    ],
)
def test_a_header_with_a_wrong_type_is_refused(make_header, changes):
    values = {**msgspec.to_builtins(make_header()), **changes}
    with pytest.raises(CorruptRecordError):
        decode_header(seal(b"RKSH", 1, msgspec.msgpack.encode(values)))


@QUICK
@given(st.binary(max_size=100))
def test_nonsense_under_a_right_checksum_is_refused(data):
    with pytest.raises(CorruptRecordError):
        decode_header(seal(b"RKSH", 1, data))
    with pytest.raises(CorruptRecordError):
        decode_header(data)
    with pytest.raises(CorruptRecordError):
        decode_block_list(data, 1000)


def test_a_block_list_comes_back_and_is_checked_against_the_volume():
    record = encode_block_list(PIECES)
    assert decode_block_list(record, 1000) == PIECES
    assert decode_block_list(encode_block_list([]), 0) == []
    with pytest.raises(CorruptRecordError, match="key: reaches to block 599 of a volume of 598"):
        decode_block_list(record, 598, what="key")


def test_records_of_one_kind_are_not_taken_for_another(make_header):
    with pytest.raises(CorruptRecordError, match="begins with b'RKSH'"):
        decode_block_list(encode_header(make_header()), 1000)
    with pytest.raises(CorruptRecordError, match="format version 2; this replkit reads 1"):
        decode_header(seal(b"RKSH", 2, b""))


def test_a_set_digest_depends_on_every_chunk_and_their_order():
    def digest(*checksums):
        digest = SetDigest()
        for checksum in checksums:
            digest.update(checksum)
        return digest.hexdigest()

    a, b = bytes(24), bytes(range(24))
    assert len({digest(), digest(a), digest(b), digest(a, b), digest(b, a)}) == 5
    assert len(digest(a)) == 32


@QUICK
@given(at=st.integers(0, 1 << 20), value=st.integers(0, 255))
def test_a_changed_byte_under_a_right_checksum_is_refused_or_makes_sense(make_header, at, value):
    plain = bytearray(msgspec.msgpack.encode(make_header()))
    plain[at % len(plain)] = value
    try:
        header = decode_header(seal(b"RKSH", 1, bytes(plain)))
    except CorruptRecordError:
        return
    assert len(header.identities) == header.number - header.first_number + 1
    assert decode_header(encode_header(header)) == header
