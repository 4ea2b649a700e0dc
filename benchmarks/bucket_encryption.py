"""What client-side encryption costs: the same work on the same store, plain and encrypted, as a ratio, in one run.

    python benchmarks/bucket_encryption.py [--mib 64] [--rounds 3] [--url s3://BUCKET/PREFIX?endpoint=URL]

Without ``--url`` the objects are in memory, which shows the processor time alone; with it (an empty prefix; credentials
as boto3 finds them) they show a real store. Four threads put and get objects of 8 MiB; content is noise, which zstd
cannot make smaller, and text, which it can. Rounds alternate between plain and encrypted, and the best of each counts.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import cast

from replkit.backends.s3.store import S3ObjectStore
from replkit.backends.s3.url import parse_url
from replkit.objectstore.encrypted import EncryptedStore
from replkit.objectstore.keys import KeyRing, new_key
from replkit.objectstore.memory import MemoryObjectStore
from replkit.objectstore.store import ObjectStore

MIB = 1 << 20
OBJECT_BYTES = 8 * MIB
READS = 200


class Work:
    """Steps on one store; each returns the seconds that it took."""

    def __init__(self, store: ObjectStore, data: bytes, count: int) -> None:
        self.store, self.data, self.count = store, data, count
        self._random = random.Random(3)

    def _all(self, call: Callable[[int], object], numbers: range) -> float:
        begun_s = time.perf_counter()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(call, numbers))
        return time.perf_counter() - begun_s

    def put(self) -> float:
        """Whole objects."""
        return self._all(lambda number: self.store.put(f"data/{number}", [self.data]), range(self.count))

    def get(self) -> float:
        """Whole objects."""
        return self._all(lambda number: self.store.get(f"data/{number}"), range(self.count))

    def get_ranges(self) -> float:
        """4 KiB at random places, one after another."""
        places = [
            (self._random.randrange(self.count), self._random.randrange(OBJECT_BYTES // 4096)) for _ in range(READS)
        ]
        begun_s = time.perf_counter()
        for number, block in places:
            self.store.get(f"data/{number}", block * 4096, block * 4096 + 4096)
        return time.perf_counter() - begun_s

    def put_new(self) -> float:
        """Cells of 1 KiB, one after another."""
        begun_s = time.perf_counter()
        for _ in range(READS):
            self.store.put_new(f"cells/{self._random.randbytes(8).hex()}", self.data[:1024])
        return time.perf_counter() - begun_s


def open_stores(url: str | None) -> tuple[ObjectStore, EncryptedStore]:
    """A plain one, and an encrypted one in another place of the same kind."""
    keys = KeyRing([new_key(os.urandom(32), time.time())])
    if url is None:
        return MemoryObjectStore(), EncryptedStore(MemoryObjectStore(), keys, os.urandom)
    head, mark, options = url.partition("?")
    plain, inner = (S3ObjectStore(parse_url(f"{head}/{name}{mark}{options}")) for name in ("plain", "encrypted"))
    return cast(ObjectStore, plain), EncryptedStore(inner, keys, os.urandom)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=64, help="written by each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--url", help="s3 URL of an empty prefix")
    given = parser.parse_args()
    count = max(1, given.mib * MIB // OBJECT_BYTES)
    words = b"The quick brown fox jumps over the lazy dog %d times. "
    text = b"".join(words % number for number in range(OBJECT_BYTES // 50))[:OBJECT_BYTES]
    print("| content | step | plain MiB/s | encrypted MiB/s | plain ms each | encrypted ms each | ratio of time |")
    print("|---|---|---|---|---|---|---|")
    for content, data in (("noise", random.Random(1).randbytes(OBJECT_BYTES)), ("text", text)):
        works = [Work(store, data, count) for store in open_stores(given.url)]
        for step, calls, size in (
            ("put", count, OBJECT_BYTES), ("get", count, OBJECT_BYTES), ("get_ranges", READS, 4096),
            ("put_new", READS, 1024),
        ):  # fmt: skip
            times: list[list[float]] = [[], []]
            for _ in range(given.rounds):
                for taken, work in zip(times, works, strict=True):
                    taken.append(getattr(work, step)())
            plain_s, encrypted_s = (min(taken) for taken in times)
            total = calls * size / MIB
            print(
                f"| {content} | {step} | {total / plain_s:.0f} | {total / encrypted_s:.0f} "
                f"| {plain_s / calls * 1e3:.3f} | {encrypted_s / calls * 1e3:.3f} | {encrypted_s / plain_s:.2f} |"
            )


if __name__ == "__main__":
    main()
