"""A site whose volume and save volume are in a bucket, every request of which can fail in the ways that S3 knows.

The checker looks past the faults: what it asks a site for is neither counted nor failed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from replkit.blocks.extent import Extent
from replkit.contracts.buffers import Buffer
from replkit.contracts.registry import SaveVolumeOptions
from replkit.contracts.savevolume import CellValue, Partition, SaveVolume
from replkit.errors import AlreadyExistsError, FencedError, ReplkitError, StoreUnavailableError
from replkit.objectstore.memory import MemoryObjectStore
from replkit.objectstore.opening import open_save_volume
from replkit.objectstore.store import ObjectInfo, ObjectStore
from replkit.objectstore.volume import ObjectVolume
from replkit.objectstore.volume_objects import Tuning
from replkit.testing.objectstore_host import InlineHost
from replkit.testing.sim.devices import FaultDisk
from replkit.testing.sim.plug import Plug
from replkit.testing.sim.simruntime import SimRuntime
from replkit.testing.sim.topology import FaultSite, Options, Topology

BUCKET_FAULTS = ("503", "time-out after success", "409", "412 of its own", "short body", "stale list")
"""Not done; done, and no answer; a conflict of two creates; a create done twice by a retry; a part; an old listing."""


class Bucket:
    """The objects of one site, and whether faults come now."""

    def __init__(self, plug: Plug) -> None:
        self.plug = plug
        self._objects: dict[str, dict[str, bytes]] = {}
        self.is_quiet = False

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Requests within it are those of a checker."""
        before, self.is_quiet = self.is_quiet, True
        try:
            yield
        finally:
            self.is_quiet = before

    def store(self, prefix: str) -> FaultyStore:
        """A way to the objects under a prefix."""
        return FaultyStore(self, f"bucket:{prefix}", self._objects.setdefault(prefix, {}))


class FaultyStore(ObjectStore):
    """Requests that fail when the plug says so; the power may fail before and after each that changes something."""

    def __init__(self, bucket: Bucket, url: str, objects: dict[str, bytes]) -> None:
        self.url = url
        self._bucket = bucket
        self._inner = MemoryObjectStore(url, objects)

    def _fault(self, *kinds: str) -> str:
        return "" if self._bucket.is_quiet else self._bucket.plug.breaks(*kinds)

    def _change(self, change: Callable[[], None], what: str, *kinds: str) -> None:
        fault = self._fault("503", "time-out after success", *kinds)
        if fault in {"503", "409"}:
            raise StoreUnavailableError(f"{self.url}: {what}: {fault}")
        if not self._bucket.is_quiet:
            self._bucket.plug.spend()
        change()
        if not self._bucket.is_quiet:
            self._bucket.plug.spend()
        if fault == "412 of its own":
            raise AlreadyExistsError(f"{self.url}: {what}: 412")
        if fault:
            raise StoreUnavailableError(f"{self.url}: {what}: no answer")

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        self._change(lambda: self._inner.put(key, parts), f"PUT {key}")

    def put_new(self, key: str, data: Buffer) -> None:
        self._change(lambda: self._inner.put_new(key, data), f"PUT {key}", "409", "412 of its own")

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        fault = self._fault("503", "time-out after success", "short body")
        data = self._inner.get(key, start, stop)
        if fault == "short body":
            return data[: len(data) // 2]
        if fault:
            raise StoreUnavailableError(f"{self.url}: GET {key}: {fault}")
        return data

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        fault = self._fault("503", "stale list")
        if fault == "503":
            raise StoreUnavailableError(f"{self.url}: LIST {prefix}: {fault}")
        found = sorted(self._inner.list(prefix))
        yield from found[: len(found) // 2] if fault else found

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._change(lambda: self._inner.delete([key]), f"DELETE {key}")  # noqa: B023 - called at once


class BucketDisk(FaultDisk):
    """A bucket volume, with a record of what was written and flushed for the checker."""

    def __init__(self, bucket: Bucket, runtime: SimRuntime, options: Options) -> None:
        super().__init__(bucket.plug, options.blocks, block_size=options.block_size)
        self._bucket, self._runtime = bucket, runtime
        size = self.block_size
        self._tuning = Tuning(
            object_bytes=8 * size, buffer_bytes=24 * size, recent_objects=4, small_bytes=3 * size, cache_bytes=16 * size
        )
        with bucket.quiet():
            self._volume: ObjectVolume | None = ObjectVolume.create(
                bucket.store("volume"), block_size=size, size_bytes=self.size_bytes, runtime=runtime,
                tuning=self._tuning,
            )  # fmt: skip

    def reopen(self) -> ObjectVolume:
        """As a process does that begins."""
        if self._volume is None:
            self._volume = ObjectVolume.open(self._bucket.store("volume"), runtime=self._runtime, tuning=self._tuning)
        return self._volume

    def read_into(self, start: int, buffer: Buffer) -> None:
        self.reopen().read_into(start, buffer)

    def write(self, start: int, buffer: Buffer) -> None:
        data = bytes(memoryview(buffer).cast("B"))
        self._change(start, data, lambda volume: volume.write(start, data))

    def discard(self, start: int, count: int) -> None:
        self._change(start, bytes(count * self.block_size), lambda volume: volume.discard(start, count))

    def _change(self, start: int, data: bytes, change: Callable[[ObjectVolume], None]) -> None:
        self._check()
        volume = self.reopen()
        self.sequence += 1
        at = start * self.block_size
        self.pending[len(self.pending)] = [(self.sequence, b"")]
        try:
            change(volume)
        except ReplkitError:
            self.failed = True
            raise
        self.content[at : at + len(data)] = data

    def flush(self) -> None:
        self._check()
        try:
            self.reopen().flush()
        except ReplkitError:
            self.failed = True
            raise
        self.durable[:] = self.content
        self.pending.clear()

    def in_use(self) -> Iterator[Extent]:
        return self.reopen().in_use()

    def lose_power(self, chance: random.Random) -> None:
        """The process is gone; what the bucket holds is what its last flush published."""
        self._volume, self.failed = None, False
        with self._bucket.quiet():
            reader = ObjectVolume.open(self._bucket.store("volume"), runtime=self._runtime, read_only=True)
            reader.read_into(0, self.durable)
            reader.close()
        self.content[:] = self.durable
        self.pending.clear()


class BucketSave(SaveVolume):
    """A bucket save volume that is opened anew after a power failure."""

    def __init__(self, bucket: Bucket, runtime: SimRuntime, name: str) -> None:
        self._bucket, self._runtime, self._name = bucket, runtime, name
        self._processes: dict[str, set[str]] = {}
        self._host = InlineHost(runtime, name, self._processes)
        self._save: SaveVolume | None = None
        self.capacities: dict[str, int] = {}
        self.failed = False
        self.on_root: Callable[[bytes], object] = lambda _value: None
        bucket.plug.attach(self)  # type: ignore[arg-type]
        with bucket.quiet():
            self.reopen()

    def reopen(self) -> SaveVolume:
        """As a process does that begins."""
        if self._save is None:
            options = SaveVolumeOptions(producer=True, create=True)
            self._save = open_save_volume(self._bucket.store("save"), options, self._host)
        return self._save

    def lose_power(self, chance: random.Random) -> None:
        """The process is gone, and with it what was not synced."""
        self._host.kill()
        self._host = InlineHost(self._runtime, self._name, self._processes)
        self._save, self.failed = None, False

    def _ask(self, call: Callable[[SaveVolume], Any]) -> Any:
        try:
            return call(self.reopen())
        except FencedError:
            self.failed = True
            raise

    def capacity_bytes(self, partition: Partition) -> int:
        return self.capacities.get(str(partition), 1 << 30)

    def used_bytes(self, partition: Partition) -> int:
        return int(self._ask(lambda save: save.used_bytes(Partition(partition))))

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        self._ask(lambda save: save.put(key, parts))

    def get(self, key: str, start: int = 0, stop: int | None = None) -> memoryview:
        found: memoryview = self._ask(lambda save: save.get(key, start, stop))
        return found

    def recall(self, key: str) -> memoryview | None:
        found: memoryview | None = self._ask(lambda save: save.recall(key))
        return found

    @property
    def requests(self) -> Mapping[str, int]:
        return {"put requests": 1}  # as in production: what is done only where requests cost something is proved too

    def size_bytes(self, key: str) -> int:
        return int(self._ask(lambda save: save.size_bytes(key)))

    def delete(self, keys: Iterable[str]) -> None:
        self._ask(lambda save: save.delete(keys))

    def list(self, prefix: str) -> Sequence[str]:
        found: Sequence[str] = self._ask(lambda save: save.list(prefix))
        return found

    def sync(self) -> None:
        self._ask(lambda save: save.sync())

    def load(self, cell: str) -> CellValue:
        found: CellValue = self._ask(lambda save: save.load(cell))
        return found

    def swap(self, cell: str, value: bytes, expected_version: int) -> int:
        if cell == "root":
            with self._bucket.quiet():
                self.on_root(bytes(value))
        return int(self._ask(lambda save: save.swap(cell, value, expected_version)))

    def cells(self, prefix: str = "") -> Sequence[str]:
        found: Sequence[str] = self._ask(lambda save: save.cells(prefix))
        return found


class Inspected:
    """A save volume as the checker sees it: without faults."""

    def __init__(self, bucket: Bucket, save: BucketSave) -> None:
        self._bucket, self._save = bucket, save

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._save, name)
        if not callable(value):
            return value

        def quietly(*arguments: Any) -> Any:
            with self._bucket.quiet():
                return value(*arguments)

        return quietly


class BucketSite(FaultSite):
    """A site in a bucket."""

    def __init__(self, name: str, world: Topology, *, seed: int, options: Options) -> None:
        super().__init__(name, world, seed=seed, options=options)
        self.plug = self.power = Plug(seed)
        self.bucket = Bucket(self.plug)
        self.disk = BucketDisk(self.bucket, world.runtime, options)  # type: ignore[assignment]
        self.save = save = BucketSave(self.bucket, world.runtime, name)  # type: ignore[assignment]
        save.on_root = lambda value: world.watch.publishing(self, value)
        self._inspected = Inspected(self.bucket, self.save)  # type: ignore[arg-type]

    @property
    def store(self) -> Any:
        """What the checker, and an operator who looks, see."""
        return self.__dict__.get("_inspected", self.save)

    def _start(self, role: str) -> None:
        for each in (self.disk, self.save):
            each.reopen()  # type: ignore[attr-defined]
        super()._start(role)


def make_site_in(buckets: str) -> Callable[..., FaultSite]:
    """Sites of these names are in buckets."""

    def make(name: str, world: Topology, *, seed: int, options: Options) -> FaultSite:
        kind = BucketSite if name in buckets else FaultSite
        return kind(name, world, seed=seed, options=options)

    return make
