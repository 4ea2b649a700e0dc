"""A block volume in a bucket: sequential and random writes, reads, opening, garbage collection; requests and bytes.

    python benchmarks/bucket_volume.py [--mib 128] [--url s3://BUCKET/PREFIX?endpoint=URL] [--latency-ms 10]

Without ``--url`` the objects are in memory and each request takes ``--latency-ms``, so that the figures show what the
volume adds and how well its requests overlap. With ``--url`` (an empty prefix; credentials as boto3 finds them) they
show a real store. Goals: bytes put per byte written at most 1.1 for random 4 KiB, and opening 16 TiB in at most 12
requests.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast

from replkit.backends.s3.host import ThreadRuntime, run_all
from replkit.backends.s3.store import S3ObjectStore
from replkit.backends.s3.url import parse_url
from replkit.contracts.buffers import Buffer
from replkit.objectstore.memory import MemoryObjectStore
from replkit.objectstore.store import ObjectInfo, ObjectStore
from replkit.objectstore.volume import ObjectVolume

BLOCK, MIB, TIB = 4096, 1 << 20, 1 << 40


class SlowStore(MemoryObjectStore):
    """Objects in memory, each request with the latency of a store that is not near."""

    def __init__(self, latency_s: float) -> None:
        super().__init__()
        self._latency_s = latency_s

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Wait and keep."""
        time.sleep(self._latency_s)
        super().put(key, parts)

    def put_new(self, key: str, data: Buffer) -> None:
        """Wait and keep."""
        time.sleep(self._latency_s)
        super().put_new(key, data)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Wait and give."""
        time.sleep(self._latency_s)
        return super().get(key, start, stop)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Wait and list."""
        time.sleep(self._latency_s)
        return super().list(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        """Wait and forget."""
        time.sleep(self._latency_s)
        super().delete(keys)


class Bench:
    """Runs steps and prints a line for each."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.volume = ObjectVolume.create(
            store, block_size=BLOCK, size_bytes=16 * TIB, runtime=ThreadRuntime(), run_all=run_all
        )
        print("| step | seconds | MiB/s | operations/s | puts | gets | MiB put | MiB got |")
        print("|---|---|---|---|---|---|---|---|")

    def step(self, name: str, size_bytes: int, operations: int, work: Callable[[], object]) -> None:
        """Time ``work``, which moves so many bytes in so many operations."""
        counts = self.volume.counts
        before = (counts.puts, counts.gets, counts.bytes_put, counts.bytes_got)
        begun_s = time.monotonic()
        work()
        taken_s = time.monotonic() - begun_s
        self._line(name, taken_s, size_bytes, operations, before)

    def _line(self, name: str, taken_s: float, size_bytes: int, operations: int, before: tuple[int, ...]) -> None:
        counts = self.volume.counts
        puts, gets = counts.puts - before[0], counts.gets - before[1]
        put_mib, got_mib = (counts.bytes_put - before[2]) / MIB, (counts.bytes_got - before[3]) / MIB
        print(
            f"| {name} | {taken_s:.2f} | {size_bytes / MIB / taken_s:.0f} | {operations / taken_s:.0f} "
            f"| {puts} | {gets} | {put_mib:.1f} | {got_mib:.1f} |"
        )

    def reopen(self, *, read_only: bool) -> None:
        """Open it again and print what that took."""
        begun_s = time.monotonic()
        self.volume = ObjectVolume.open(self._store, runtime=ThreadRuntime(), run_all=run_all, read_only=read_only)
        name = "open as reader" if read_only else "open as writer"
        self._line(name, time.monotonic() - begun_s, 0, 1, (0, 0, 0, 0))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=128, help="written by each writing step")
    parser.add_argument("--url", help="s3 URL of an empty prefix")
    parser.add_argument("--latency-ms", type=float, default=10)
    given = parser.parse_args()
    store = cast(ObjectStore, S3ObjectStore(parse_url(given.url))) if given.url else SlowStore(given.latency_ms / 1000)
    bench, source = Bench(store), random.Random(1)
    size, blocks = given.mib * MIB, given.mib * MIB // BLOCK
    data = source.randbytes(MIB)
    places = source.sample(range(1 << 20), blocks)
    buffer = bytearray(MIB)

    def write_sequentially() -> None:
        for at in range(given.mib):
            bench.volume.write(at * MIB // BLOCK, data)
        bench.volume.flush()

    def write_randomly() -> None:
        for place in places:
            bench.volume.write(place, source.randbytes(BLOCK))
        bench.volume.flush()

    def flush_each() -> None:
        for place in places[:50]:
            bench.volume.write(place, data[:BLOCK])
            bench.volume.flush()

    def read_sequentially(request_bytes: int) -> None:
        for at in range(0, size, request_bytes):
            bench.volume.read_into(at // BLOCK, memoryview(buffer)[:request_bytes])

    def read_randomly() -> None:
        for place in places[:200]:
            bench.volume.read_into(place, memoryview(buffer)[:BLOCK])

    bench.step("sequential writes of 1 MiB, one flush", size, given.mib, write_sequentially)
    bench.step("random writes of 4 KiB in 4 GiB, one flush", size, blocks, write_randomly)
    bench.step("50 writes of 4 KiB, each flushed", 50 * BLOCK, 50, flush_each)
    bench.step("checkpoint and garbage collection", size, 1, bench.volume.compact)
    bench.reopen(read_only=True)
    bench.step("sequential reads of 1 MiB", size, given.mib, lambda: read_sequentially(MIB))
    bench.reopen(read_only=True)
    bench.step("sequential reads of 4 KiB", size, blocks, lambda: read_sequentially(BLOCK))
    bench.reopen(read_only=True)
    bench.step("200 random reads of 4 KiB, one at a time", 200 * BLOCK, 200, read_randomly)
    bench.step("all blocks in use", size, 1, lambda: sum(count for _, count in bench.volume.in_use()))
    bench.volume.close()
    bench.reopen(read_only=False)


if __name__ == "__main__":
    main()
