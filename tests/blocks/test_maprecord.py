import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replkit.blocks.bitmap import PagedBitmap
from replkit.blocks.blockmap import BlockMap
from replkit.blocks.maprecord import BITMAP_MAGIC, BLOCK_MAP_MAGIC
from replkit.blocks.pages import FULL, PAGE_BLOCKS
from replkit.blocks.record import ENVELOPE_BYTES, seal, unseal
from replkit.errors import CorruptRecordError

BLOCKS = 3 * PAGE_BLOCKS + 9
QUICK = settings(max_examples=100, deadline=None)


def sample_bitmap():
    bitmap = PagedBitmap(BLOCKS)
    bitmap.set_run(5, 100)
    bitmap.set_run(PAGE_BLOCKS, PAGE_BLOCKS)
    bitmap.set_run(3 * PAGE_BLOCKS, 9)
    return bitmap


def sample_block_map():
    block_map = BlockMap()
    for number in range(30):
        block_map.add(number * 10, 5, 1000 - number * 7)
    return block_map


RECORDS = {
    "bit map": (sample_bitmap().to_bytes(), lambda data: PagedBitmap.from_bytes(BLOCKS, data)),
    "block map": (sample_block_map().to_bytes(), BlockMap.from_bytes),
}


@pytest.mark.requirement("P4", "P2")
def test_a_map_comes_back_from_its_record():
    record, read = RECORDS["bit map"]
    again = read(record)
    assert list(again.runs()) == list(sample_bitmap().runs())
    again.add(0)
    again.clear_run(PAGE_BLOCKS, 1)
    assert again.count() == sample_bitmap().count()
    empty = PagedBitmap(BLOCKS)
    assert not PagedBitmap.from_bytes(BLOCKS, empty.to_bytes())
    assert not BlockMap.from_bytes(BlockMap().to_bytes())


def test_a_map_of_another_size_is_refused():
    with pytest.raises(CorruptRecordError, match=f"of {BLOCKS} blocks, not of {BLOCKS + 1}"):
        PagedBitmap.from_bytes(BLOCKS + 1, RECORDS["bit map"][0])


@pytest.mark.requirement("P4")
@pytest.mark.parametrize("name", RECORDS)
def test_every_bit_of_the_envelope_is_guarded(name):
    record, read = RECORDS[name]
    for bit in range(ENVELOPE_BYTES * 8):
        broken = bytearray(record)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptRecordError, match=name):
            read(broken)


@QUICK
@given(st.sampled_from(sorted(RECORDS)), st.data())
def test_cut_lengthened_and_changed_records_are_refused(name, data):
    """Invariant 12: nothing but the typed error comes out."""
    record, read = RECORDS[name]
    at = data.draw(st.integers(0, len(record) - 1))
    change = data.draw(st.sampled_from(["cut", "lengthen", "change"]))
    if change == "cut":
        broken = record[:at]
    elif change == "lengthen":
        broken = record + b"\0"
    else:
        broken = record[:at] + bytes([record[at] ^ data.draw(st.integers(1, 255))]) + record[at + 1 :]
    with pytest.raises(CorruptRecordError):
        read(broken)


@QUICK
@given(st.sampled_from([BITMAP_MAGIC, BLOCK_MAP_MAGIC]), st.binary(max_size=80))
def test_nonsense_under_a_right_checksum_is_refused_or_valid(magic, plain):
    record = seal(magic, 1, plain)
    with contextlib.suppress(CorruptRecordError):
        if magic == BITMAP_MAGIC:
            assert PagedBitmap.from_bytes(64, record).count() <= 64
        else:
            assert BlockMap.from_bytes(record).block_total() >= 0


def bitmap_record(block_count, numbers, flags, bits=b"", pages=None):
    head = struct.pack("<QII", block_count, len(numbers) if pages is None else pages, len(bits) // 4096)
    return seal(BITMAP_MAGIC, 1, head + struct.pack(f"<{len(numbers)}Q", *numbers) + bytes(flags) + bits)


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (bitmap_record(BLOCKS, [1, 0], [0, 0]), "not ascending"),
        (bitmap_record(BLOCKS, [1, 1], [0, 0]), "not ascending"),
        (bitmap_record(BLOCKS, [4], [0]), "not ascending numbers below 4"),
        (bitmap_record(BLOCKS, [3], [0]), "beyond the last"),
        (bitmap_record(BLOCKS, [3], [1], b"\xff" * 3 + bytes(4093)), "beyond the last"),
        (bitmap_record(BLOCKS, [0], [2]), "pages with bits"),
        (bitmap_record(BLOCKS, [0], [1]), "pages with bits"),
        (bitmap_record(BLOCKS, [0], [0], pages=2), "do not fill"),
    ],
)
def test_a_well_formed_lie_about_a_bit_map_is_named(record, fault):
    with pytest.raises(CorruptRecordError, match=fault):
        PagedBitmap.from_bytes(BLOCKS, record)


@pytest.mark.parametrize(
    "columns",
    [
        (5, 3, 2, 2, 0, 0),
        (0, 1, 2, 2, 0, 0),
        (0, 5, 0, 2, 0, 0),
        (0, 5, 2, 2, -1, 0),
        (-1, 5, 2, 2, 0, 0),
        (0, 5, 2, (1 << 63) - 1, 0, 0),
    ],
)
def test_a_well_formed_lie_about_a_block_map_is_refused(columns):
    with pytest.raises(CorruptRecordError, match="not ascending and disjoint"):
        BlockMap.from_bytes(seal(BLOCK_MAP_MAGIC, 1, struct.pack("<Q6q", 2, *columns)))


def test_a_small_record_cannot_ask_for_much_memory():
    bomb = seal(b"TEST", 1, bytes(1 << 24))
    assert len(bomb) < 4096
    with pytest.raises(CorruptRecordError, match="at most 1000 can be"):
        unseal(b"TEST", 1, memoryview(bomb), max_plain_bytes=1000, what="record")


def test_the_shared_full_page_cannot_be_changed():
    with pytest.raises(TypeError):
        FULL[0] = 0
