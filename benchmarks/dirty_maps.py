"""What a dirty map costs by kind (decision 3). Needs numpy and pyroaring installed beside replkit."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
from bitarray import bitarray
from pyroaring import BitMap64

PAGE = 32768
BLOCKS = 1 << 28  # 1 TiB of 4 KiB blocks
MARKS = 200_000


def timed(work: Callable[[], object], count: int) -> float:
    """Nanoseconds for each of ``count`` pieces of ``work``."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) / count * 1e9


def mark_pages(blocks: list[int]) -> dict[int, bitarray]:
    """Set each block in pages that exist only where a bit is set."""
    pages: dict[int, bitarray] = {}
    for block in blocks:
        page = pages.get(block >> 15)
        if page is None:
            page = pages[block >> 15] = bitarray(PAGE)
        page[block & (PAGE - 1)] = 1
    return pages


def set_runs(count: int) -> None:
    """Set 1,000 runs of ``count`` blocks in one page."""
    page = bitarray(PAGE)
    for _ in range(1000):
        page[8 : 8 + count] = 1


def runs_of_pages(pages: dict[int, bitarray]) -> int:
    """Walk the runs; their number."""
    return sum(sum(1 for _ in page.search(bitarray("01"))) + page[0] for page in pages.values())


def mark_words(words: np.ndarray, blocks: list[int]) -> None:
    """Set each block by a scalar read-modify-write, as a request for one block would."""
    for block in blocks:
        words[block >> 3] |= 1 << (block & 7)


def mark_roaring(bits: BitMap64, blocks: list[int]) -> None:
    """Set each block."""
    for block in blocks:
        bits.add(block)


def main() -> None:
    """Print one table."""
    chance = random.Random(1)
    blocks = [chance.randrange(BLOCKS // 64) for _ in range(MARKS)]  # a working set of 16 GiB
    pages: dict[int, bitarray] = {}
    tracemalloc.start()
    mark_pages(blocks)
    page_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    words = np.zeros(BLOCKS // 8, dtype=np.uint8)
    bits = BitMap64()
    rows = [
        ("bitarray pages", timed(lambda: pages.update(mark_pages(blocks)), MARKS), page_bytes),
        ("numpy, whole volume", timed(lambda: mark_words(words, blocks), MARKS), words.nbytes),
        ("BitMap64", timed(lambda: mark_roaring(bits, blocks), MARKS), len(bits.serialize())),
    ]
    print("| map | mark one block (ns) | memory |\n|---|---|---|")
    for name, cost_ns, size_bytes in rows:
        print(f"| {name} | {cost_ns:.0f} | {size_bytes / 1e6:.1f} MB |")
    print(f"\nruns of {MARKS} marks in pages: {timed(lambda: runs_of_pages(pages), 1) / 1e6:.1f} ms")
    for count in (64, 4096):
        print(f"set a run of {count} blocks: {timed(lambda count=count: set_runs(count), 1000):.0f} ns")


if __name__ == "__main__":
    main()
