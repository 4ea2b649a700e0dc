"""What a bucket volume costs: requests, bytes and memory, at sizes and rates that a bucket is used for."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from replkit.backends.memory import MemoryVolume
from replkit.blocks.extent import Extent
from replkit.errors import InvalidArgumentError, StoreUnavailableError
from replkit.objectstore.cache import LocalCache
from replkit.objectstore.memory import MemoryObjectStore
from replkit.objectstore.volume import ObjectVolume
from replkit.objectstore.volume_objects import Tuning
from replkit.testing.runtime import ManualRuntime, ThreadRuntime

BLOCK = 4096
TIB = 1 << 40
RUNTIME = ManualRuntime()


def make(size_bytes: int, tuning: Tuning | None = None) -> tuple[MemoryObjectStore, ObjectVolume]:
    store = MemoryObjectStore()
    return store, ObjectVolume.create(store, block_size=BLOCK, size_bytes=size_bytes, runtime=RUNTIME, tuning=tuning)


def read(volume: ObjectVolume, start: int, count: int = 1) -> bytes:
    buffer = bytearray(count * BLOCK)
    volume.read_into(start, buffer)
    return bytes(buffer)


@pytest.mark.requirement("U2")
@pytest.mark.parametrize("size_tib", [16, 64])
def test_a_huge_sparse_volume_opens_and_reads_with_a_handful_of_requests(size_tib):
    store, volume = make(size_tib * TIB)
    places = [0, 12345, 1 << 30, (size_tib << 28) - 1]
    for number, place in enumerate(places, 1):
        volume.write(place, bytes([number]) * BLOCK)
    volume.compact()
    again = ObjectVolume.open(store, runtime=RUNTIME, read_only=True)
    assert again.counts.gets + again.counts.lists <= 12
    opened = again.counts.gets
    assert read(again, places[3]) == bytes([4]) * BLOCK
    assert again.counts.gets - opened <= 4
    assert [extent.start for extent in again.in_use()] == places
    assert read(again, 1 << 31) == bytes(BLOCK)
    again.close()
    writer = ObjectVolume.open(store, runtime=RUNTIME)
    assert writer.counts.gets + writer.counts.puts + writer.counts.lists <= 20
    writer.discard(0, writer.block_count)
    writer.compact()
    assert list(writer.in_use()) == []
    assert not [key for key in store.objects if key.startswith("data/")]


@pytest.mark.requirement("U2")
def test_random_small_writes_are_put_as_few_large_objects():
    _store, volume = make(TIB)
    source = random.Random(1)
    before = volume.counts.puts
    for place in source.sample(range(TIB // BLOCK), 8192):
        volume.write(place, source.randbytes(16) * (BLOCK // 16))
    volume.flush()
    assert volume.counts.puts - before <= 8192 * BLOCK // (8 << 20) + 1
    assert volume.counts.bytes_put <= 8192 * (BLOCK + 8) * 1.02
    volume.compact()
    assert volume.counts.puts - before <= 12
    assert volume.counts.bytes_put <= 8192 * (BLOCK + 8) * 1.1


def test_a_small_flush_is_one_object_and_one_swap():
    _store, volume = make(TIB)
    for step in range(30):
        before = volume.counts.puts
        volume.write(step * 1000, bytes([step]) * BLOCK)
        volume.flush()
        assert volume.counts.puts - before <= 2 + (volume.root_version % 8 == 0) * 2
    before = volume.counts.puts
    volume.flush()
    assert volume.counts.puts == before


def test_what_is_written_between_flushes_takes_bounded_memory():
    class Sink(MemoryObjectStore):
        """Forgets the blocks."""

        def put(self, key, parts):
            super().put(key, [b"gone"] if key.startswith("data/") else parts)

    tuning = Tuning(
        object_bytes=1 << 20, buffer_bytes=4 << 20, cache_bytes=1 << 20, page_cache_bytes=1 << 18, recent_runs=1 << 11,
        live_percent=0, small_bytes=0,
    )  # fmt: skip
    volume = ObjectVolume.create(Sink(), block_size=BLOCK, size_bytes=TIB, runtime=RUNTIME, tuning=tuning)
    source = random.Random(2)
    tracemalloc.start()
    try:
        for _ in range(8192):
            volume.write(source.randrange(1 << 18), source.randbytes(BLOCK))
        assert tracemalloc.get_traced_memory()[1] < 14 << 20
    finally:
        tracemalloc.stop()
    assert volume.counts.bytes_put > 24 << 20
    assert volume.counts.checkpoints >= 2
    assert volume.root_version == 1


def test_adjacent_blocks_are_read_in_one_request_and_a_stream_reads_ahead():
    store, volume = make(TIB)
    volume.write(0, random.Random(3).randbytes(1024) * (4 * 1024 * 8))
    volume.flush()
    reader = ObjectVolume.open(store, runtime=RUNTIME, read_only=True)
    before = reader.counts.gets
    whole = read(reader, 0, 1024)
    assert reader.counts.gets - before <= 6
    reader = ObjectVolume.open(store, runtime=RUNTIME, read_only=True)
    before = reader.counts.gets
    assert b"".join(read(reader, block) for block in range(1024)) == whole
    assert reader.counts.gets - before <= 20
    source = random.Random(4)
    reader = ObjectVolume.open(store, runtime=RUNTIME, read_only=True)
    before_bytes = reader.counts.bytes_got
    for block in source.sample(range(0, 2048, 2), 50):
        read(reader, block)
    assert reader.counts.bytes_got - before_bytes == 50 * (BLOCK + 8)


def test_extents_are_read_at_the_same_time():
    _store, volume = make(TIB)
    for start in (0, 5000, 1 << 24):
        volume.write(start, bytes([7]) * BLOCK * 2)
    volume.flush()
    buffer = bytearray(6 * BLOCK)
    volume.read_extents([Extent(0, 2), Extent(5000, 2), Extent(1 << 24, 2)], buffer)
    assert buffer == bytes([7]) * 6 * BLOCK


def test_a_local_cache_serves_after_a_restart_and_is_never_stale():
    store, volume = make(TIB)
    for block in range(100):
        volume.write(block, bytes([block]) * BLOCK)
    volume.flush()
    disk = MemoryVolume(200 * BLOCK)

    def open_reader() -> ObjectVolume:
        cache = LocalCache(disk, ThreadRuntime().lock())
        return ObjectVolume.open(store, runtime=RUNTIME, read_only=True, cache=cache, tuning=Tuning(cache_bytes=0))

    with open_reader() as reader:
        first = read(reader, 0, 100)
    with open_reader() as reader:
        before = reader.counts.bytes_got
        assert read(reader, 0, 100) == first
        assert reader.counts.bytes_got == before
    volume.write(5, bytes([200]) * BLOCK)
    volume.flush()
    with open_reader() as reader:
        assert read(reader, 5) == bytes([200]) * BLOCK
    for block in range(disk.block_count - 100, disk.block_count):
        disk.write(block, bytes([1]) * BLOCK)  # a torn cache
    with open_reader() as reader:
        assert read(reader, 6, 94) == first[6 * BLOCK :]


def test_a_local_cache_that_fails_or_is_of_another_volume_does_no_harm():
    store, volume = make(TIB)
    other_store, other = make(TIB)
    for one, value in ((volume, 1), (other, 2)):
        one.write(0, bytes([value]) * BLOCK * 9)
        one.flush()
    disk = MemoryVolume(50 * BLOCK)
    for place, value in ((store, 1), (other_store, 2), (store, 1)):
        cache = LocalCache(disk, ThreadRuntime().lock())
        with ObjectVolume.open(place, runtime=RUNTIME, read_only=True, cache=cache) as reader:
            assert read(reader, 0, 9) == bytes([value]) * BLOCK * 9

    class Broken(MemoryVolume):
        def write(self, start, buffer):
            raise StoreUnavailableError("the cache's disk is gone")

    cache = LocalCache(Broken(50 * BLOCK), ThreadRuntime().lock())
    with ObjectVolume.open(store, runtime=RUNTIME, read_only=True, cache=cache) as reader:
        assert read(reader, 0, 9) == bytes([1]) * BLOCK * 9
    with pytest.raises(InvalidArgumentError):
        LocalCache(MemoryVolume(BLOCK), ThreadRuntime().lock())
    with pytest.raises(InvalidArgumentError):
        LocalCache(MemoryVolume(1 << 20, block_size=512), ThreadRuntime().lock()).attach("v", 4096)
