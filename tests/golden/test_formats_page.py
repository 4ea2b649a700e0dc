"""The tables of docs/reference/formats.md say what the code does."""

import re
import struct
from pathlib import Path

import pytest

from replkit.blocks import maprecord, record
from replkit.deltaset import chunk, header
from replkit.deltaset.pieces import PIECE_BYTES, Kind

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "formats.md").read_text()
ENVELOPE = (*record.ENVELOPE_FIELDS, ("checksum", "Q"))


def section(title):
    match = re.search(rf"^##+ {re.escape(title)}$(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert match, f"formats.md has no section {title}"
    return match[1]


def rows(title, first_column):
    lines = section(title).splitlines()
    (head,) = [i for i, line in enumerate(lines) if line.startswith(f"| {first_column} |")]
    body = []
    for line in lines[head + 2 :]:
        if not line.startswith("|"):
            break
        body.append([cell.strip() for cell in line.strip("|").split("|")])
    return body


@pytest.mark.requirement("D3", "P4")
@pytest.mark.parametrize(
    ("title", "fields"),
    [
        ("Envelope of small records", ENVELOPE),
        ("Chunk", chunk.CHUNK_FIELDS),
        ("Bit map", maprecord.BITMAP_FIELDS),
        ("Block map", maprecord.BLOCK_MAP_FIELDS),
    ],
)
def test_the_fixed_parts_are_documented(title, fields):
    expected, offset = [], 0
    for name, code in fields:
        size = struct.calcsize(f"<{code}")
        expected.append([str(offset), str(size), name])
        offset += size
    assert [row[:3] for row in rows(title, "offset")] == expected


@pytest.mark.requirement("D3")
@pytest.mark.parametrize(("title", "model"), [("Chunk", chunk.ChunkHead), ("Set header", header.SetHeader)])
def test_the_fields_of_heads_and_headers_are_documented(title, model):
    assert [row[0] for row in rows(title, "field")] == list(model.__struct_fields__)


@pytest.mark.parametrize(
    ("title", "magic", "version"),
    [
        ("Chunk", chunk.CHUNK_MAGIC, chunk.CHUNK_VERSION),
        ("Set header", header.HEADER_MAGIC, header.HEADER_VERSION),
        ("Block list", header.BLOCK_LIST_MAGIC, header.BLOCK_LIST_VERSION),
        ("Bit map", maprecord.BITMAP_MAGIC, maprecord.BITMAP_VERSION),
        ("Block map", maprecord.BLOCK_MAP_MAGIC, maprecord.BLOCK_MAP_VERSION),
    ],
)
def test_magic_and_version_are_documented(title, magic, version):
    assert f"Magic `{magic.decode()}`, version {version}" in section(title)


def test_the_columns_and_kinds_of_pieces_are_documented():
    table = rows("Pieces", "column")
    assert sum(int(row[1]) for row in table) == PIECE_BYTES
    for kind in Kind:
        assert f"{kind.value} {kind.name}:" in table[-1][2]
