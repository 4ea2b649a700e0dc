"""The chunks of a new copy: every block in use that is not zero, once, in records that others can read."""

import os

import pytest

from replkit.backends.memory.volume import MemoryVolume
from replkit.blocks.extent import Extent
from replkit.contracts.position import Epoch, Position
from replkit.deltaset.chunk import decode_chunk
from replkit.deltaset.pieces import Kind
from replkit.replication.new_copy import CopySource, read_chunks

BLOCK = 4096
ZERO = {0, 3, 4, 9, 16, 17, 18, 19, 20, 21, 22, 23, 31}


@pytest.fixture
def volume():
    volume = MemoryVolume(32 * BLOCK)
    for block in set(range(32)) - ZERO:
        volume.write(block, os.urandom(BLOCK))
    return volume


def source(volume, chunk_blocks):
    return CopySource(
        snapshot=volume,
        copy_id="copy",
        stamp=Position(Epoch(1, "p"), 5, "a" * 32),
        lineage="b" * 32,
        chunk_bytes=chunk_blocks * BLOCK,
    )


def blocks_of(records):
    found = {}
    for record in records:
        chunk = decode_chunk(record, block_count=32)
        offset = 0
        for piece in chunk.pieces:
            assert piece.kind is Kind.DATA
            for block in range(piece.start, piece.stop):
                assert block not in found
                found[block] = bytes(chunk.data[offset : offset + BLOCK])
                offset += BLOCK
    return found


@pytest.mark.requirement("C1")
@pytest.mark.parametrize("chunk_blocks", [1, 5, 8, 32])
@pytest.mark.parametrize("next_block", [0, 10])
@pytest.mark.parametrize("in_use", [[Extent(0, 32)], [Extent(1, 7), Extent(9, 1), Extent(12, 20)]])
def test_the_chunks_carry_every_block_in_use_that_is_not_zero_once(volume, chunk_blocks, next_block, in_use):
    wanted = {block for extent in in_use for block in range(extent.start, extent.stop)} - ZERO
    chunks = list(read_chunks(source(volume, chunk_blocks), in_use, next_block))  # all held: none may be used again
    expected = {}
    for block in wanted:
        if block >= next_block:
            expected[block] = bytearray(BLOCK)
            volume.read_into(block, expected[block])
    assert blocks_of(record for _after, record in chunks) == expected
    assert [after for after, _record in chunks] == sorted({after for after, _record in chunks})
