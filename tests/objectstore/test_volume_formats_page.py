"""The tables of docs/reference/bucket-formats.md say what the code does, and records stay what they were."""

from __future__ import annotations

import re
import struct
from array import array
from pathlib import Path

import pytest

from replkit.objectstore import map_pages, pack, volume_format
from replkit.objectstore.map_pages import PageRef
from replkit.objectstore.pack import PageName
from replkit.objectstore.volume_format import DataRow

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "bucket-formats.md").read_text()


def section(title: str) -> str:
    match = re.search(rf"^##+ {re.escape(title)}$(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert match, f"bucket-formats.md has no section {title}"
    return match[1]


def rows(title: str, first_column: str) -> list[list[str]]:
    lines = section(title).splitlines()
    (head,) = [
        at for at, line in enumerate(lines[1:]) if line[:4] == "|---" and lines[at][2:].startswith(f"{first_column} |")
    ]
    body = []
    for line in lines[head + 2 :]:
        if not line.startswith("|"):
            break
        body.append([cell.strip() for cell in line.strip("|").split("|")])
    return body


@pytest.mark.parametrize(
    ("title", "fields"),
    [("Data object", volume_format.DATA_FIELDS), ("Page", map_pages.PAGE_FIELDS), ("Pack", pack.PACK_FIELDS)],
)
def test_the_fixed_parts_are_documented(title, fields):
    expected, offset = [], 0
    for name, code in fields:
        size = struct.calcsize(f"<{code}")
        expected.append([str(offset), str(size), name])
        offset += size
    assert [row[:3] for row in rows(title, "offset")] == expected


@pytest.mark.parametrize(
    ("title", "column", "fields"),
    [("Pack", "entry", pack.PACK_ENTRY_FIELDS), *(("Page", *kind) for kind in map_pages.COLUMNS.items())],
)  # fmt: skip
def test_the_columns_are_documented(title, column, fields):
    expected = [[name, str(struct.calcsize(f"<{code}"))] for name, code in fields]
    assert [row[:2] for row in rows(title, column)] == expected


def test_the_fields_of_the_root_are_documented():
    assert [row[0] for row in rows("Root", "field")] == list(volume_format.Root.__struct_fields__)


@pytest.mark.parametrize(
    ("title", "magic", "version"),
    [
        ("Root", volume_format.ROOT_MAGIC, volume_format.ROOT_VERSION),
        ("Data object", volume_format.DATA_MAGIC, volume_format.DATA_VERSION),
        ("Page", map_pages.PAGE_MAGIC, map_pages.PAGE_VERSION),
        ("Pack", pack.PACK_MAGIC, pack.PACK_VERSION),
    ],
)
def test_magic_and_version_are_documented(title, magic, version):
    assert re.search(rf"magic `{magic.decode()}`, version {version}", section(title), re.IGNORECASE)


def test_sizes_that_the_page_tells_are_those_of_the_code():
    assert 1 << map_pages.LEAF_SHIFT[map_pages.BLOCK_TREE] == 4096
    assert 1 << map_pages.LEAF_SHIFT[map_pages.OBJECT_TREE] == 1 << map_pages.NODE_SHIFT == 1024
    assert (map_pages.NODE_LEVELS, map_pages.SLOT_BITS, map_pages.MAX_VALUE) == (2, 16, 1 << 62)
    assert (volume_format.SEQUENCE_BITS, volume_format.MAX_RUNS) == (24, 1 << 20)
    assert volume_format.object_key("data", (5 << 24) + 0x123456, "ab") == "data/000005-ab/123/456"


GOLDEN = {
    "index": (
        "524b56440100000020000000000000002000000000000000998f471870dd509f09000005000000000002000001000000"
        "6300000000000000faffffffffffffff"
    ),
    "leaf": (
        "524b564d010000001a000000000000001a000000000000008276bbb190cbef6600000b00000000000000010000000300"
        "07000200090000050000"
    ),
    "pack": (
        "524b5650010000001a000000000000001a000000000000003f37a751bbbaa9364d000000000000000100000001020300"
        "00000000000090010000"
    ),
    "checksums": ["c26ca60fb18325c5", "25ec2e3776bb85b7"],
}


def test_records_are_what_they_were():
    """What is in somebody's bucket is read by every later replkit."""
    index = volume_format.encode_index((5 << 24) + 9, 512, [(99, -6)])
    assert index.hex() == GOLDEN["index"]
    assert volume_format.decode_index(DataRow((5 << 24) + 9, 0, 0), 512, memoryview(index), "") == [(99, -6)]
    leaf = (array("H", [3]), array("H", [7]), array("Q", [(5 << 24) + 9 << 16 | 2]))
    page = map_pages.encode_page(0, 0, 11, leaf)
    assert page.hex() == GOLDEN["leaf"]
    listed = pack.encode_pack_index(77, [(PageName(1, 2, 3), 400)])
    assert listed.hex() == GOLDEN["pack"]
    assert pack.decode_pack_index(77, memoryview(listed), "") == [(PageName(1, 2, 3), PageRef(77, 0, 400))]
    out = bytearray(2 * volume_format.stride(512))
    blocks = [bytes([1]) * 512, bytes([2]) * 512]
    volume_format.pack_blocks(memoryview(out), 512, 1000, (5 << 24) + 9 << 16 | 2, blocks)
    assert [bytes(out[at : at + 8]).hex() for at in (0, 520)] == GOLDEN["checksums"]
    assert [bytes(out[at + 8 : at + 520]) for at in (0, 520)] == blocks
