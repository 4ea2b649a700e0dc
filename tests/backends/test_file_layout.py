"""The bytes of the file save volume's formats, as its tables say; a change of them is a change of version."""

import pytest

from replkit.backends.file import layout as file_layout
from replkit.backends.file.layout import (
    DEAD,
    END,
    LIVE,
    SECTOR_BYTES,
    STATE_OFFSET,
    RecordHead,
    decode_record_head,
    decode_segment_head,
    encode_record_head,
    encode_segment_head,
    span_bytes,
)

IDENTITY = 0x1122334455667788
HEAD = RecordHead(LIVE, "sets/a/0", 7, 3, 5, 4096, 1000, 0xAABBCCDDEEFF0011)
GOLDEN_RECORD = bytes.fromhex(
    "524b5231 0100 4c 08 0700000000000000 0300000000000000 0500000000000000"
    "0010000000000000 e803000000000000 1100ffeeddccbbaa"
)
GOLDEN_SEGMENT = bytes.fromhex("524b5331 01000000 0900000000000000 0020000000000000")


def test_golden_bytes_of_a_record_head():
    data = encode_record_head(HEAD, IDENTITY)
    assert len(data) == SECTOR_BYTES
    assert data[:56] == GOLDEN_RECORD
    assert data[56:64].hex() == "f886427fef89d62e"
    assert data[64:72] == b"sets/a/0"
    assert data[72:] == bytes(SECTOR_BYTES - 72)


def test_golden_bytes_of_a_segment_head():
    data = encode_segment_head(9, 8192, IDENTITY)
    assert data[:24] == GOLDEN_SEGMENT
    assert data[24:32].hex() == "a9fa2457af46f004"
    assert data[:SECTOR_BYTES] == data[SECTOR_BYTES:]


def test_the_tables_of_the_module_say_what_the_golden_bytes_are():
    for line in (
        "0      4    magic ``RKS1``",
        "0      4    magic ``RKR1``",
        "24     8    highest sequence",
        "64     n    key",
    ):
        assert line in file_layout.__doc__


@pytest.mark.parametrize("state", [LIVE, DEAD])
def test_a_record_head_comes_back_with_the_state_it_has_now(state):
    data = bytearray(encode_record_head(HEAD, IDENTITY))
    data[STATE_OFFSET : STATE_OFFSET + 1] = state
    assert decode_record_head(bytes(data), HEAD.offset, IDENTITY) == HEAD._replace(state=state)


def test_a_head_of_another_place_or_another_save_volume_is_none():
    """A misdirected write, and a copy of another save volume in the data, are not believed."""
    data = encode_record_head(HEAD, IDENTITY)
    assert decode_record_head(data, HEAD.offset + SECTOR_BYTES, IDENTITY) is None
    assert decode_record_head(data, HEAD.offset, IDENTITY + 1) is None
    assert decode_record_head(data[:-1], HEAD.offset, IDENTITY) is None
    segment = encode_segment_head(9, 8192, IDENTITY)
    assert decode_segment_head(segment, 8192, IDENTITY) == 9
    assert decode_segment_head(segment, 4096, IDENTITY) is None
    assert decode_segment_head(segment, 8192, IDENTITY + 1) is None


def test_of_two_segment_heads_the_later_one_counts():
    """The first sector of a new head may reach the disk without the second."""
    old, new = encode_segment_head(9, 8192, IDENTITY), encode_segment_head(12, 8192, IDENTITY)
    for torn in (new[:SECTOR_BYTES] + old[SECTOR_BYTES:], old[:SECTOR_BYTES] + new[SECTOR_BYTES:]):
        assert decode_segment_head(torn, 8192, IDENTITY) == 12


@pytest.mark.parametrize(("size", "span"), [(0, 512), (1, 1024), (512, 1024), (513, 1536)])
def test_a_record_takes_a_head_and_whole_sectors(size, span):
    assert span_bytes(size) == span


def test_every_flipped_bit_of_a_head_is_noticed():
    """Invariant 12. The state says L, D or E and nothing else; padding says nothing."""
    record, segment = encode_record_head(HEAD, IDENTITY), encode_segment_head(9, 8192, IDENTITY)[:SECTOR_BYTES]
    for at in range(64 + len(HEAD.key)):
        for bit in range(8):
            flipped = bytearray(record)
            flipped[at] ^= 1 << bit
            found = decode_record_head(bytes(flipped), HEAD.offset, IDENTITY)
            assert found is None or (at == STATE_OFFSET and found.state in {DEAD, END})
    for at in range(32):
        for bit in range(8):
            flipped = bytearray(segment)
            flipped[at] ^= 1 << bit
            assert decode_segment_head(bytes(flipped), 8192, IDENTITY) is None
