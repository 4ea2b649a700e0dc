"""Readers beside a writer, and two writers: what each sees, what is kept for it, and who is refused."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from replkit.blocks.extent import Extent
from replkit.errors import AlreadyExistsError, FencedError, NotFoundError, ReadOnlyError, RecordMissingError
from replkit.objectstore.memory import MemoryObjectStore
from replkit.objectstore.volume import ObjectVolume
from replkit.objectstore.volume_objects import Tuning
from replkit.testing.runtime import ManualRuntime, ThreadRuntime

BLOCK = 512
BLOCKS = 5000
TINY = Tuning(
    object_bytes=8 * BLOCK, cache_bytes=0, page_cache_bytes=0, read_ahead_bytes=0, recent_objects=2,
    small_bytes=3 * BLOCK,
)  # fmt: skip


class World:
    def __init__(self) -> None:
        self.runtime = ManualRuntime()
        self.store = MemoryObjectStore()
        self.writer = ObjectVolume.create(
            self.store, block_size=BLOCK, size_bytes=BLOCKS * BLOCK, runtime=self.runtime, tuning=TINY
        )

    def open(self, **options) -> ObjectVolume:
        return ObjectVolume.open(self.store, runtime=self.runtime, tuning=options.pop("tuning", TINY), **options)

    def fill(self, value: int) -> None:
        for start in (0, 4090):
            self.writer.write(start, bytes([value]) * BLOCK * 20)
        self.writer.flush()

    def churn(self) -> None:
        """Replace everything several times, and collect what became garbage."""
        for value in (2, 3, 4):
            self.fill(value)
            self.writer.compact()

    def objects(self) -> set[str]:
        return {key for key in self.store.objects if key.startswith(("data/", "map/", "holds/"))}


@pytest.fixture
def world() -> World:
    return World()


def values(volume: ObjectVolume, start: int = 0, count: int = 20) -> set[int]:
    buffer = bytearray(count * BLOCK)
    volume.read_into(start, buffer)
    return set(buffer)


@pytest.mark.requirement("C3")
def test_a_reader_sees_the_last_flush_and_stays_at_it(world):
    world.fill(1)
    world.writer.write(0, bytes([9]) * BLOCK * 20)
    reader = world.open(read_only=True)
    assert (values(world.writer), values(reader)) == ({9}, {1})
    world.writer.flush()
    assert values(reader) == {1}
    assert values(world.open(read_only=True)) == {9}
    assert list(reader.in_use()) == [Extent(0, 20), Extent(4090, 20)]


@pytest.mark.requirement("C3")
def test_what_a_reader_holds_is_kept_until_it_closes(world):
    world.fill(1)
    world.fill(1)
    reader = world.open(read_only=True)
    world.churn()
    assert values(reader) | values(reader, 4090) == {1}
    assert values(world.writer) == {4}
    many = len(world.objects())
    reader.close()
    world.fill(5)
    world.fill(6)
    assert len(world.objects()) < many / 2
    assert not any(key.startswith("holds/") for key in world.objects())


def test_a_reader_without_a_hold_reads_the_right_data_or_is_told_that_it_was_trimmed(world):
    world.fill(1)
    world.fill(1)
    readers = [
        world.open(read_only=True, tuning=Tuning(hold_s=0, cache_bytes=cache_bytes)) for cache_bytes in (0, 1 << 20)
    ]
    assert values(readers[1]) == {1}
    world.churn()
    with pytest.raises(RecordMissingError, match=r"(data|map)/.* trimmed .*open the volume again"):
        values(readers[0])
    assert values(readers[1]) == {1}


def test_a_hold_runs_out_with_the_clock_unless_the_reader_reads(world):
    world.fill(1)
    world.fill(1)
    lazy, busy = world.open(read_only=True), world.open(read_only=True)
    for _ in range(4):
        world.runtime.advance(TINY.hold_s * 0.7)
        assert values(busy) == {1}
        world.churn()
    assert values(busy) == {1}
    assert len([key for key in world.objects() if key.startswith("holds/")]) == 1
    busy.close()
    world.churn()
    with pytest.raises(RecordMissingError):
        values(lazy)


def test_a_reader_that_may_not_put_goes_without_a_hold(world):
    world.fill(1)

    class ReadableStore(MemoryObjectStore):
        def put(self, key, parts):
            raise FencedError("no right to put")

    reader = ObjectVolume.open(ReadableStore(objects=world.store.objects), runtime=world.runtime, read_only=True)
    assert values(reader) == {1}
    with pytest.raises(ReadOnlyError):
        reader.write(0, bytes(BLOCK))
    reader.flush()
    reader.close()


def test_a_volume_is_made_once_and_is_not_found_before():
    store, runtime = MemoryObjectStore(), ManualRuntime()
    with pytest.raises(NotFoundError):
        ObjectVolume.open(store, runtime=runtime)
    ObjectVolume.create(store, block_size=BLOCK, size_bytes=BLOCK, runtime=runtime)
    with pytest.raises(AlreadyExistsError):
        ObjectVolume.create(store, block_size=BLOCK, size_bytes=BLOCK, runtime=runtime)


@pytest.mark.requirement("R9")
def test_whoever_was_replaced_as_writer_publishes_nothing_more(world):
    """Invariant 8."""
    world.fill(1)
    second = world.open()
    world.writer.write(0, bytes([7]) * BLOCK)
    for call in (world.writer.flush, world.writer.flush, lambda: world.writer.write(0, bytes(BLOCK))):
        with pytest.raises(FencedError, match="another owner"):
            call()
    second.write(1, bytes([8]) * BLOCK)
    second.flush()
    assert values(world.open(read_only=True), 0, 3) == {1, 8}


@pytest.mark.requirement("R9")
def test_another_site_takes_the_volume_only_with_a_higher_epoch(world):
    world.open(site="a", epoch=3)
    with pytest.raises(FencedError, match="site a with epoch 3"):
        world.open(site="b", epoch=3)
    with pytest.raises(FencedError, match="epoch 3; this one has 2"):
        world.open(site="a", epoch=2)
    assert world.open(site="a", epoch=3).epoch == 3
    assert world.open(site="b", epoch=4).epoch == 4
    assert world.open().epoch == 4


def test_objects_of_a_replaced_writer_are_deleted_and_its_late_ones_harm_nobody(world):
    world.fill(1)
    before = world.objects()
    world.writer.write(0, bytes([7]) * BLOCK * 60)
    world.writer._put_written()
    assert len(world.objects()) > len(before) + 5
    second = world.open()
    assert world.objects() == before
    world.writer.write(0, bytes([7]) * BLOCK)
    with pytest.raises(FencedError):
        world.writer.flush()
    second.flush()
    assert values(second) == {1}


@pytest.mark.parametrize("seed", range(3))
def test_owners_that_race_leave_the_state_of_one_of_them(seed):
    """Each writes its own value everywhere, again and again, until another one has fenced it."""
    store = MemoryObjectStore()
    runtime = ThreadRuntime()
    size = {"block_size": BLOCK, "size_bytes": 100 * BLOCK}
    ObjectVolume.create(store, runtime=runtime, **size)
    start = threading.Barrier(4)
    fenced, published = [], []

    def own(value: int) -> None:
        start.wait()
        for turn in range(6):
            try:
                volume = ObjectVolume.open(store, runtime=runtime, tuning=TINY)
                for step in range(turn + 1):
                    mine = value * 40 + turn * 6 + step
                    volume.write(0, bytes([mine]) * BLOCK * 100)
                    volume.flush()
                    published.append((volume.root_version, mine))
            except FencedError:
                fenced.append(value)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(own, value) for value in range(1, 5)]:
            done.result()
    assert len({version for version, _ in published}) == len(published)
    last_version, last_value = max(published)
    reader = ObjectVolume.open(store, runtime=runtime, read_only=True)
    assert values(reader, 0, 100) == {last_value}
    assert reader.root_version >= last_version
    assert fenced


def test_readers_and_garbage_collection_in_threads_never_see_wrong_data():
    """One writer's own reads, while it collects garbage under them."""
    store, runtime = MemoryObjectStore(), ThreadRuntime()
    volume = ObjectVolume.create(store, block_size=BLOCK, size_bytes=200 * BLOCK, runtime=runtime, tuning=TINY)
    volume.write(0, bytes([1]) * BLOCK * 200)
    volume.flush()
    done = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            while not done.is_set():
                assert values(volume, 100, 100) == {1}
                assert sum(count for _, count in volume.in_use()) == 200
                reader = ObjectVolume.open(store, runtime=runtime, read_only=True, tuning=TINY)
                assert values(reader, 100, 100) == {1}
                reader.close()
        except BaseException as error:  # carried to the main thread
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(60):
        for block in random.Random(turn).sample(range(200), 60):
            value = 1 if block >= 100 else turn
            volume.write(block, bytes([value]) * BLOCK)
        volume.flush()
    volume.compact()
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert volume.counts.moved_blocks > 0


def test_a_read_whose_blocks_are_moved_and_deleted_under_it_looks_again():
    """Deterministic: between lookup and request the writer collects garbage twice."""
    armed: list[ObjectVolume] = []

    class Store(MemoryObjectStore):
        def get(self, key, start=0, stop=None):
            if key.startswith("data/") and armed:
                volume = armed.pop()
                for _ in range(2):
                    volume.write(0, bytes([1]) * BLOCK * 40)
                    volume.compact()
                assert key not in self.objects
            return super().get(key, start, stop)

    volume = ObjectVolume.create(
        Store(), block_size=BLOCK, size_bytes=100 * BLOCK, runtime=ManualRuntime(), tuning=TINY
    )
    volume.write(0, bytes([1]) * BLOCK * 40)
    volume.compact()
    armed.append(volume)
    assert values(volume, 0, 40) == {1}
    assert not armed
