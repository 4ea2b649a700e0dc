"""A writer that dies, or whose store fails, at every request of a scenario: the old state or the new one, whole."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

import pytest

from replkit.blocks.extent import Extent
from replkit.contracts.buffers import Buffer
from replkit.errors import ReplkitError, StoreUnavailableError, VolumeFailedError
from replkit.objectstore.map_pages import OBJECT_TREE
from replkit.objectstore.map_tree import PageCache, Tree
from replkit.objectstore.memory import MemoryObjectStore
from replkit.objectstore.store import ObjectInfo, ObjectStore
from replkit.objectstore.volume import ObjectVolume
from replkit.objectstore.volume_objects import Tuning
from replkit.testing.runtime import ManualRuntime

BLOCK = 512
ZEROS = bytes(BLOCK)
BLOCKS = 2 * 4096 + 10
WINDOWS = (Extent(0, 40), Extent(4090, 40), Extent(8180, 22))
"""The blocks that the scenario touches: both sides of each end of a leaf of the map."""
TINY = Tuning(
    object_bytes=8 * BLOCK, buffer_bytes=40 * BLOCK, cache_bytes=8 * BLOCK, page_cache_bytes=1024,
    read_ahead_bytes=0, recent_objects=5, recent_runs=24, small_bytes=3 * BLOCK, moved_bytes=32 * BLOCK,
)  # fmt: skip


class Killed(BaseException):
    """The process is gone; no ``except Exception`` may go on."""


class FailingStore(ObjectStore):
    """Fails at the ``fail_at``-th request and at all later ones, before or after that request took effect."""

    url = "memory-objects:"

    def __init__(self, inner: MemoryObjectStore, fail_at: int, *, after: bool, error: BaseException) -> None:
        self._inner, self._after, self._error = inner, after, error
        self._left = fail_at
        self.calls = 0

    def _spend(self) -> bool:
        """Whether the request takes effect; raises in place of those after the failing one."""
        self.calls += 1
        self._left -= 1
        if self._left < 0 or (self._left == 0 and not self._after):
            raise self._error
        return self._left == 0

    def _end(self, is_last: bool) -> None:
        if is_last:
            raise self._error

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        is_last = self._spend()
        self._inner.put(key, parts)
        self._end(is_last)

    def put_new(self, key: str, data: Buffer) -> None:
        is_last = self._spend()
        self._inner.put_new(key, data)
        self._end(is_last)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        is_last = self._spend()
        self._end(is_last)
        return self._inner.get(key, start, stop)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._end(self._spend())
        return self._inner.list(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        is_last = self._spend()
        given = list(keys)
        self._inner.delete(given[: len(given) // 2] if is_last else given)  # a batch may end in the middle
        self._end(is_last)


class Run:
    """The scenario on one store; remembers the states that a reader may see."""

    def __init__(self) -> None:
        self.runtime = ManualRuntime()
        self.memory = MemoryObjectStore()
        self.image = dict.fromkeys((block for start, count in WINDOWS for block in range(start, start + count)), ZEROS)
        ObjectVolume.create(self.memory, block_size=BLOCK, size_bytes=BLOCKS * BLOCK, runtime=self.runtime)
        self.allowed = [dict(self.image)]

    def open(self, store: ObjectStore | None = None, **options: bool) -> ObjectVolume:
        return ObjectVolume.open(store or self.memory, runtime=self.runtime, tuning=TINY, **options)

    def play(self, store: ObjectStore, seed: int = 5) -> None:
        """Writes, discards, flushes, garbage collection and a second opening."""
        source = random.Random(seed)
        for turn in range(3):
            volume = self.open(store)
            for step in range(14):
                start = source.choice(WINDOWS).start + source.randrange(20)
                count = min(source.choice([1, 1, 2, 20]), WINDOWS[0].count - 20, BLOCKS - start)
                if source.random() < 0.2:
                    volume.discard(start, count)
                    self._change(start, [ZEROS] * count)
                else:
                    data = [bytes([turn, step, number]) * 170 + b"ab" for number in range(count)]
                    volume.write(start, b"".join(data))
                    self._change(start, data)
                if step % 3 == 2:
                    self._publish(volume.flush)
            self._publish(volume.compact if turn == 1 else volume.flush)

    def _change(self, start: int, data: list[bytes]) -> None:
        self.image.update(enumerate(data, start))

    def _publish(self, call: Callable[[], None]) -> None:
        self.allowed = [self.allowed[-1], dict(self.image)]
        call()
        self.allowed = self.allowed[-1:]


def contents(volume: ObjectVolume) -> dict[int, bytes]:
    """The blocks of the windows."""
    found = {}
    for start, count in WINDOWS:
        buffer = bytearray(count * BLOCK)
        volume.read_into(start, buffer)
        found |= {start + at: bytes(buffer[at * BLOCK : (at + 1) * BLOCK]) for at in range(count)}
    return found


def named(volume: ObjectVolume) -> set[str]:
    """Keys of all objects that the root, the table of objects and the list of the condemned name."""
    objects = volume._objects
    root, table = objects.root, Tree(OBJECT_TREE, PageCache(objects))
    numbers = [("data", row.number) for row in root.recent] + [("map", number) for number in root.packs]
    for leaf, columns in table.load(list(table.leaves(root.object_top, 0, 1 << 62))):
        numbers += [("data", leaf << 10 | slot) for slot in columns[0]]
    numbers += [(entry.kind, number) for entry in root.condemned for number in entry.numbers]
    return {objects.key(kind, number) for kind, number in numbers}


def stored(memory: MemoryObjectStore) -> set[str]:
    return {key for key in memory.objects if key.startswith(("data/", "map/"))}


def calls_of_scenario() -> int:
    run = Run()
    store = FailingStore(run.memory, 1 << 30, after=False, error=Killed())
    run.play(store)
    return store.calls


CALLS = calls_of_scenario()


ENDS = [(Killed(), False), (Killed(), True), (StoreUnavailableError("no answer"), False),
        (StoreUnavailableError("no answer"), True)]  # fmt: skip
STEP = 4


@pytest.mark.requirement("U2")
@pytest.mark.parametrize("end", range(len(ENDS)), ids=["killed-before", "killed-after", "no-answer", "answer-lost"])
@pytest.mark.parametrize("part", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, STEP))])
def test_a_failure_at_any_request_leaves_one_flushed_state_whole(end, part):
    """Invariants 1 and 5; what nothing names afterwards is found and deleted by the next writer."""
    error, after = ENDS[end]
    for fail_at in range(1 + (part + end) % STEP, CALLS + 1, STEP):
        run = Run()
        with suppress(Killed, ReplkitError):
            run.play(FailingStore(run.memory, fail_at, after=after, error=error))
        with run.open(read_only=True) as reader:
            assert contents(reader) in run.allowed, fail_at
        with run.open() as volume:
            image = contents(volume)
            assert image in run.allowed, fail_at
            volume.write(7, bytes([fail_at & 255]) * BLOCK)
            image[7] = bytes([fail_at & 255]) * BLOCK
            volume.compact()
            assert contents(volume) == image
            assert stored(run.memory) == named(volume), fail_at
            live = sum(count for _, count in volume.in_use())
            assert volume.live_bytes == live * BLOCK


def test_the_scenario_meets_checkpoints_garbage_collection_and_deletion():
    run = Run()
    volumes = []
    opened = run.open
    run.open = lambda *arguments, **options: volumes.append(opened(*arguments, **options)) or volumes[-1]
    run.play(run.memory)
    counts = [volume.counts for volume in volumes]
    assert sum(count.checkpoints for count in counts) >= 4
    assert sum(count.moved_blocks for count in counts) > 4
    assert sum(count.deletes for count in counts) >= 4
    assert CALLS > 150


def test_after_a_failed_flush_nothing_is_written_until_it_is_opened_again():
    run = Run()
    volume = run.open()
    volume._objects.store._inner = FailingStore(run.memory, 1, after=True, error=StoreUnavailableError("no answer"))
    volume.write(0, bytes([1]) * BLOCK)
    with pytest.raises(StoreUnavailableError):
        volume.flush()
    volume._objects.store._inner = run.memory
    for call in (volume.flush, lambda: volume.write(0, bytes(BLOCK)), lambda: volume.discard(0, 1), volume.compact):
        with pytest.raises(VolumeFailedError, match="an earlier flush failed"):
            call()
    assert set(contents(run.open()).values()) == {ZEROS}
