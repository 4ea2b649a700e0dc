"""Bit maps and block maps as records: columns, sealed with a checksum (P4). Tables in ``docs/reference/formats.md``."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import islice
from operator import le, lt
from typing import Final

from bitarray import bitarray

from replkit.blocks.pages import FULL, PAGE_BLOCKS, PAGE_BYTES, empty_page
from replkit.blocks.record import seal, unseal
from replkit.errors import CorruptRecordError

BITMAP_MAGIC: Final = b"RKBM"
BITMAP_VERSION: Final = 1
BLOCK_MAP_MAGIC: Final = b"RKMP"
BLOCK_MAP_VERSION: Final = 1
BITMAP_FIELDS: Final = (("block count", "Q"), ("pages", "I"), ("pages with bits", "I"))
BLOCK_MAP_FIELDS: Final = (("runs", "Q"),)
_BITMAP_HEAD = struct.Struct("<" + "".join(code for _, code in BITMAP_FIELDS))
_BLOCK_MAP_HEAD = struct.Struct("<" + "".join(code for _, code in BLOCK_MAP_FIELDS))
_ROW_BYTES = 8 + 1  # page number, whether its bits follow
_RUN_BYTES = 3 * 8
MAX_RUNS: Final = 1 << 26


def encode_pages(block_count: int, pages: Iterable[tuple[int, bitarray]]) -> bytes:
    """The record of a bit map with these pages, ascending."""
    numbers: list[int] = []
    has_bits = bytearray()
    bits: list[bytes] = []
    for number, page in pages:
        raw = page.tobytes()  # once: another thread may be setting bits
        if raw == _EMPTY_BITS:
            continue
        numbers.append(number)
        has_bits.append(raw != _FULL_BITS)
        if raw != _FULL_BITS:
            bits.append(raw)
    head = _BITMAP_HEAD.pack(block_count, len(numbers), len(bits))
    plain = b"".join((head, struct.pack(f"<{len(numbers)}Q", *numbers), has_bits, *bits))
    return seal(BITMAP_MAGIC, BITMAP_VERSION, plain)


def decode_pages(block_count: int, record: memoryview, what: str = "bit map") -> dict[int, bitarray]:
    """Pages of a record made by ``encode_pages`` for as many blocks; ``CorruptRecordError`` for anything else."""
    most_pages = -(-block_count // PAGE_BLOCKS)
    most_bytes = _BITMAP_HEAD.size + most_pages * (_ROW_BYTES + PAGE_BYTES)
    plain = memoryview(unseal(BITMAP_MAGIC, BITMAP_VERSION, record, max_plain_bytes=most_bytes, what=what))
    if len(plain) < _BITMAP_HEAD.size:
        raise CorruptRecordError(f"{what}: {len(plain)} bytes are too few for its head")
    found_blocks, page_count, bits_count = _BITMAP_HEAD.unpack_from(plain)
    if found_blocks != block_count:
        raise CorruptRecordError(f"{what}: is of {found_blocks} blocks, not of {block_count}")
    if len(plain) != _BITMAP_HEAD.size + page_count * _ROW_BYTES + bits_count * PAGE_BYTES:
        raise CorruptRecordError(f"{what}: {page_count} pages, {bits_count} with bits, do not fill {len(plain)} bytes")
    numbers = struct.unpack_from(f"<{page_count}Q", plain, _BITMAP_HEAD.size)
    has_bits = plain[_BITMAP_HEAD.size + page_count * 8 :][:page_count].tobytes()
    if not _ascending(numbers) or (numbers and numbers[-1] >= most_pages):
        raise CorruptRecordError(f"{what}: its pages are not ascending numbers below {most_pages}")
    if has_bits.count(1) != bits_count or has_bits.count(0) != page_count - bits_count:
        raise CorruptRecordError(f"{what}: its pages with bits are not the {bits_count} that it announces")
    return _build_pages(block_count, numbers, has_bits, plain[len(plain) - bits_count * PAGE_BYTES :], what)


def _build_pages(
    block_count: int, numbers: tuple[int, ...], has_bits: bytes, bits: memoryview, what: str
) -> dict[int, bitarray]:
    pages: dict[int, bitarray] = {}
    at = 0
    for number, with_bits in zip(numbers, has_bits, strict=True):
        page = FULL
        if with_bits:
            page = bitarray(endian="little")
            page.frombytes(bits[at : at + PAGE_BYTES].tobytes())
            at += PAGE_BYTES
        pages[number] = page
    last, beyond = divmod(block_count, PAGE_BLOCKS)
    if last in pages and pages[last].find(1, beyond) >= 0:
        raise CorruptRecordError(f"{what}: holds blocks beyond the last of {block_count}")
    return pages


def encode_runs(starts: Iterable[int], counts: Iterable[int], values: Iterable[int]) -> bytes:
    """The record of a block map with these runs, ascending."""
    columns = [list(column) for column in (starts, counts, values)]
    run_count = len(columns[0])
    packed = [struct.pack(f"<{run_count}q", *column) for column in columns]
    return seal(BLOCK_MAP_MAGIC, BLOCK_MAP_VERSION, _BLOCK_MAP_HEAD.pack(run_count) + b"".join(packed))


def decode_runs(
    record: memoryview, what: str = "block map"
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Starts, counts and values of a record made by ``encode_runs``; ``CorruptRecordError`` for anything else."""
    most_bytes = _BLOCK_MAP_HEAD.size + MAX_RUNS * _RUN_BYTES
    plain = unseal(BLOCK_MAP_MAGIC, BLOCK_MAP_VERSION, record, max_plain_bytes=most_bytes, what=what)
    if len(plain) < _BLOCK_MAP_HEAD.size:
        raise CorruptRecordError(f"{what}: {len(plain)} bytes are too few for its head")
    (run_count,) = _BLOCK_MAP_HEAD.unpack_from(plain)
    if len(plain) != _BLOCK_MAP_HEAD.size + run_count * _RUN_BYTES:
        raise CorruptRecordError(f"{what}: {run_count} runs do not fill {len(plain)} bytes")
    starts, counts, values = (
        struct.unpack_from(f"<{run_count}q", plain, _BLOCK_MAP_HEAD.size + column * run_count * 8)
        for column in range(3)
    )
    stops = [start + count for start, count in zip(starts, counts, strict=True)]
    in_order = run_count == 0 or (starts[0] >= 0 and min(counts) > 0 and min(values) >= 0 and stops[-1] < 1 << 63)
    if not in_order or not all(map(le, stops, islice(starts, 1, None))):
        raise CorruptRecordError(f"{what}: its runs are not ascending and disjoint")
    return starts, counts, values


def _ascending(numbers: tuple[int, ...]) -> bool:
    return all(map(lt, numbers, islice(numbers, 1, None)))


_EMPTY_BITS = empty_page().tobytes()
_FULL_BITS = FULL.tobytes()
