"""Records as they were first written: a later replkit reads them, and writes the same bytes where it can.

``python tests/golden/test_golden.py`` writes the file of a sample that has none yet; it never changes one.
"""

from pathlib import Path

import pytest
from xxhash import xxh3_64

from replkit.blocks.bitmap import PagedBitmap
from replkit.blocks.blockmap import BlockMap
from replkit.contracts.position import Epoch
from replkit.deltaset.chunk import ChunkHead, decode_chunk, encode_chunk
from replkit.deltaset.header import (
    Mark,
    SetHeader,
    decode_block_list,
    decode_header,
    encode_block_list,
    encode_header,
)
from replkit.deltaset.identity import IdentityDigest, lineage_identity
from replkit.deltaset.pieces import Kind, Piece

FOLDER = Path(__file__).parent
EPOCH = Epoch(3, "0011223344556677")
PIECES = [Piece(1, 1, Kind.DATA), Piece(2, 3, Kind.ZERO), Piece(9, 1, Kind.DATA), Piece(20, 70_000, Kind.DISCARD)]
DATA = bytes(range(256)) * 2 + bytes(reversed(range(256))) * 2
BLOCKS = 100_000
LISTED = [Piece(10 + number * 2, 1, Kind(number % 3)) for number in range(60)]


def chunk_head(compression):
    return ChunkHead(
        lineage="5e0c7f4e", epoch=EPOCH, number=12, writer="w2", index=0, block_size=512, compression=compression,
        plain_bytes=1024,
    )  # fmt: skip


def set_header():
    digest = IdentityDigest(lineage_identity("5e0c7f4e"), EPOCH, 12)
    digest.update(PIECES, [DATA])
    return SetHeader(
        lineage="5e0c7f4e", epoch=EPOCH, first_number=12, number=12, base_identity=lineage_identity("5e0c7f4e"),
        identities=(digest.hexdigest(),), volume_size_bytes=512 * BLOCKS, block_size=512, block_count=70_005,
        data_bytes=1024, chunk_count=1, list_count=1, created_s=1_750_000_000.5, writer="w2",
        marks=(Mark(kind="verify", name="weekly"),), digest="0f" * 16,
    )  # fmt: skip


def bit_map():
    bitmap = PagedBitmap(BLOCKS)
    bitmap.set_run(7, 1000)
    bitmap.set_run(32_768, 32_768)
    return bitmap


def block_map():
    found = BlockMap()
    found.add(5, 3, 100)
    found.add(1 << 40, 1 << 30, 7)
    return found


def read_chunk(record):
    chunk = decode_chunk(record, block_count=BLOCKS)
    return chunk.head, chunk.pieces, bytes(chunk.data)


# name: (bytes that are written now, reader, what it must read, whether the bytes are free of zstd's choices)
SAMPLES = {
    "chunk-plain": (
        b"".join(encode_chunk(chunk_head("none"), PIECES, [DATA])),
        read_chunk, (chunk_head("none"), PIECES, DATA), True,
    ),
    "chunk-zstd": (
        b"".join(encode_chunk(chunk_head("zstd"), PIECES, [DATA])),
        read_chunk, (chunk_head("zstd"), PIECES, DATA), False,
    ),
    "set-header": (encode_header(set_header()), decode_header, set_header(), False),
    "block-list-short": (
        encode_block_list(PIECES),
        lambda record: decode_block_list(record, BLOCKS), PIECES, True,
    ),
    "block-list-zstd": (
        encode_block_list(LISTED),
        lambda record: decode_block_list(record, BLOCKS), LISTED, False,
    ),
    "bit-map": (
        bit_map().to_bytes(),
        lambda record: list(PagedBitmap.from_bytes(BLOCKS, record).runs()), list(bit_map().runs()), False,
    ),
    "block-map": (
        block_map().to_bytes(),
        lambda record: list(BlockMap.from_bytes(record).runs()), list(block_map().runs()), True,
    ),
}  # fmt: skip


def stored(name):
    return bytes.fromhex((FOLDER / f"{name}.hex").read_text())


@pytest.mark.requirement("D3", "P4")
@pytest.mark.parametrize("name", SAMPLES)
def test_a_golden_record_is_read_as_what_it_was(name):
    _, read, expected, _ = SAMPLES[name]
    assert read(stored(name)) == expected


@pytest.mark.requirement("D3", "P4")
@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_written_now_is_what_was_written_then(name):
    written, read, expected, is_exact = SAMPLES[name]
    assert read(written) == expected
    if is_exact:
        assert written == stored(name)


def test_every_golden_file_has_a_sample():
    assert {path.stem for path in FOLDER.glob("*.hex")} >= set(SAMPLES)


@pytest.mark.requirement("D3")
def test_identities_are_what_they_were():
    """A change of this value parts every replica from its primary."""
    assert lineage_identity("5e0c7f4e") == "18fd7501681094309183abbaae39fb4e"
    assert set_header().identities == ("f701c4fdf390324a423a15aba6bad096",)
    assert xxh3_64(b"").hexdigest() == "2d06800538d394c2"


def main():
    for name, (written, *_) in SAMPLES.items():
        path = FOLDER / f"{name}.hex"
        if not path.exists():
            path.write_text("".join(written[at : at + 32].hex() + "\n" for at in range(0, len(written), 32)))


if __name__ == "__main__":
    main()
