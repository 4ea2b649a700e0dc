"""What an image must be: a file beside it that takes the same changes, and a digest of each MiB."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PIECE = 1 << 20
BLOCK = 4096


@dataclass(frozen=True, kw_only=True)
class Change:
    """A write, or with ``data`` None a discard: those bytes read as zeros then."""

    start: int
    count: int
    data: bytes | None

    def blocks(self, block_size: int) -> range:
        """The blocks that it covers."""
        return range(self.start // block_size, -(-(self.start + self.count) // block_size))


WINDOW = 4
"""Single blocks of a round lie together, in so many times the bytes that it changes, as users' writes do."""


def random_changes(chance: random.Random, size: int, count: int) -> list[Change]:
    """About ``count`` bytes: half in single blocks, three eighths in a row, one eighth discarded."""
    span = min(size, WINDOW * count)
    first = BLOCK * chance.randrange((size - span) // BLOCK + 1)
    single = [first + BLOCK * chance.randrange(span // BLOCK) for _ in range(count // 2 // BLOCK)]
    changes = [Change(start=start, count=BLOCK, data=chance.randbytes(BLOCK)) for start in single]
    for share, is_discard in ((3 * count // 8, False), (count // 8, True)):
        length = max(BLOCK, share // BLOCK * BLOCK)
        start = BLOCK * chance.randrange((size - length) // BLOCK + 1)
        changes.append(Change(start=start, count=length, data=None if is_discard else chance.randbytes(length)))
    return changes


class Shadow:
    """The image as it should be."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self._size = path, size
        self.digests: list[bytes] = [b""] * -(-size // PIECE)

    def fill(self, chance: random.Random, count: int) -> None:
        """Random data, ``count`` bytes of it in pieces all over the image; the rest is a hole."""
        used = set(chance.sample(range(len(self.digests)), min(len(self.digests), count // PIECE)))
        with self.path.open("wb") as file:
            file.truncate(self._size)
            for number in range(len(self.digests)):
                length = min(PIECE, self._size - number * PIECE)
                data = chance.randbytes(length) if number in used else bytes(length)
                if number in used:
                    os.pwrite(file.fileno(), data, number * PIECE)
                self.digests[number] = digest(data)

    def apply(self, changes: list[Change]) -> None:
        """In order; digests of what was touched are made anew."""
        touched: set[int] = set()
        with self.path.open("r+b") as file:
            for change in changes:
                os.pwrite(file.fileno(), bytes(change.count) if change.data is None else change.data, change.start)
                touched.update(change.blocks(PIECE))
            for number in touched:
                self.digests[number] = digest(os.pread(file.fileno(), PIECE, number * PIECE))

    def differing(self, read: Callable[[int, int], bytes], digests: list[bytes]) -> list[int]:
        """Numbers of the MiB that ``read(start, count)`` gives otherwise than ``digests`` say."""
        return [
            number
            for number, expected in enumerate(digests)
            if digest(read(number * PIECE, min(PIECE, self._size - number * PIECE))) != expected
        ]


def digest(data: bytes) -> bytes:
    """16 bytes of BLAKE2."""
    return hashlib.blake2b(data, digest_size=16).digest()
