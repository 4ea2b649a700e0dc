"""The page on encryption says what the code does, and an object stays what it was."""

from __future__ import annotations

import itertools
import random
import re
import struct
from pathlib import Path

import pytest

from replkit.backends.s3.url import parse_url
from replkit.objectstore import encrypted, sealing
from replkit.objectstore.keys import KEY_FILE_HEAD, KeyRing, new_key, parse_keys

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "bucket-encryption.md").read_text()
KEYS = KeyRing([new_key(bytes(range(32)), 1_700_000_000.0)])


def counting():
    numbers = itertools.count(1)
    return lambda count: bytes([next(numbers)]) * count


def test_the_header_is_documented():
    expected, offset = [], 0
    for name, code in sealing.SEALED_FIELDS:
        expected.append((str(offset), str(struct.calcsize(f"<{code}")), name))
        offset += struct.calcsize(f"<{code}")
    assert re.findall(r"^\| (\d+) \| (\d+) \| ([a-z ]+) \|", PAGE, re.MULTILINE) == expected


def test_the_numbers_of_the_page_are_those_of_the_code():
    assert f"`{KEY_FILE_HEAD}`" in PAGE
    assert f"first {encrypted.NEAR_BYTES >> 10} KiB" in PAGE
    assert f"{sealing.SEGMENT_BYTES >> 10} KiB of the object" in PAGE
    assert "last 4,096 objects" in PAGE
    assert encrypted._HEADS == 4096
    noise = bytes(sealing.seal_object(KEYS, "x", memoryview(b"x"), counting()))
    assert len(noise) - 1 == 56 + 16


def test_the_options_of_the_page_are_options():
    options = re.findall(r"^\| `([a-z0-9_]+)=([^`…]*)", PAGE, re.MULTILINE)
    assert len(options) == 7
    for name, value in options:
        assert getattr(parse_url(f"s3://bucket/prefix?{name}={value or '1MiB/s'}"), name)


def test_a_golden_key_file_and_golden_objects_are_read():
    text = (
        "replkit-keys-1\n# a comment\n\n"
        "3fc5bd12402f32a2 2023-11-14T22:13:20Z AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
    )
    ring = parse_keys(text, "golden")
    short = bytes.fromhex(
        "524b534f010000003fc5bd12402f32a2010101010101010101010101010101010600000000000000b9d8f6d0f977e514"
        "333ba387ee2dff9a86931a6c8fecc46884182fdb5a4593650ab5984b8a9d"
    )
    head = sealing.unseal_head(ring, "a/b", short, "golden")
    assert head.unseal(range(1), memoryview(short)[head.offsets[0] :]) == [b"golden"]
    assert sealing.seal_object(KEYS, "a/b", memoryview(b"golden"), counting()) == short


@pytest.mark.parametrize("plain_bytes", [1, sealing.SEGMENT_BYTES, sealing.SEGMENT_BYTES + 1])
def test_segments_that_are_not_compressed_have_the_size_that_the_page_says(plain_bytes):
    plain = random.Random(plain_bytes).randbytes(plain_bytes)
    sealed = sealing.seal_object(KEYS, "x", memoryview(plain), counting())
    assert len(sealed) == 56 + sealing.stored_at_most(plain_bytes)
