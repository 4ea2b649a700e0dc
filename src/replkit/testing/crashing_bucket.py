"""A disk and a save volume in a bucket for worlds of ``crashing``: the power may fail at each request that changes it.

They take the places of ``CrashDisk`` and ``SimSaveVolume`` in the stories of recovery, so that each side of a story can
be in a bucket. What a request put is durable; what was only buffered is lost with the power. Then both are opened anew,
as by the next life of a daemon on the same machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

from replkit.blocks.extent import Extent
from replkit.contracts.buffers import Buffer
from replkit.contracts.registry import SaveVolumeOptions
from replkit.contracts.savevolume import CellValue, Partition, SaveVolume
from replkit.contracts.volume import BlockVolume, Capability
from replkit.errors import SaveVolumeFullError
from replkit.objectstore.memory import MemoryObjectStore
from replkit.objectstore.opening import open_save_volume
from replkit.objectstore.volume import ObjectVolume
from replkit.testing.crashing import Power
from replkit.testing.objectstore_host import InlineHost
from replkit.testing.runtime import ManualRuntime


class PoweredStore(MemoryObjectStore):
    """Objects in memory; each request that changes them spends power."""

    def __init__(self, url: str, power: Power) -> None:
        super().__init__(url)
        self._power = power

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """All or nothing."""
        self._power.spend()
        super().put(key, parts)

    def put_new(self, key: str, data: Buffer) -> None:
        """The power fails before it, or after it before anybody hears of it."""
        self._power.spend()
        super().put_new(key, data)
        self._power.spend()

    def delete(self, keys: Iterable[str]) -> None:
        """One after another."""
        for key in keys:
            self._power.spend()
            super().delete([key])


class BucketDisk(BlockVolume):
    """An ``ObjectVolume`` that outlives its process."""

    discards = Capability.NATIVE
    tells_in_use = Capability.NATIVE
    resizes = Capability.NATIVE

    def __init__(self, power: Power, block_count: int, *, block_size: int = 512) -> None:
        self.block_size = block_size
        self._store = PoweredStore("bucket:volume", power)
        self._runtime = ManualRuntime(seed=900)
        self._volume = ObjectVolume.create(
            self._store, block_size=block_size, size_bytes=block_count * block_size, runtime=self._runtime
        )
        power.attach(self)

    @property
    def size_bytes(self) -> int:  # type: ignore[override]  # it is resized beneath us
        """As the volume says."""
        return self._volume.size_bytes

    def read_into(self, start: int, buffer: Buffer) -> None:
        """Pass on."""
        self._volume.read_into(start, buffer)

    def write(self, start: int, buffer: Buffer) -> None:
        """Pass on."""
        self._volume.write(start, buffer)

    def discard(self, start: int, count: int) -> None:
        """Pass on."""
        self._volume.discard(start, count)

    def flush(self) -> None:
        """Pass on."""
        self._volume.flush()

    def in_use(self) -> Iterator[Extent]:
        """Pass on."""
        return iter(self._volume.in_use())

    def resize(self, size_bytes: int) -> None:
        """Pass on."""
        self._volume.resize(size_bytes)

    def lose_power(self, _chance: Random) -> None:
        """The next life opens what was published."""
        self._volume = ObjectVolume.open(self._store, runtime=self._runtime)


class BucketSave(SaveVolume):
    """A save volume in a bucket that outlives its process, with a limit of its own for sets."""

    def __init__(self, power: Power, *, sets_bytes: int = 1 << 30) -> None:
        self.sets_bytes = sets_bytes
        self._store = PoweredStore("bucket:save", power)
        self._host = InlineHost(ManualRuntime(seed=950))
        self._save = self._open()
        power.attach(self)

    def _open(self) -> SaveVolume:
        return open_save_volume(self._store, SaveVolumeOptions(producer=True, create=True), self._host)

    def copied(self) -> object:
        """All of it as it is now, for ``roll_back``."""
        self._save.sync()
        return dict(self._store.objects)

    def roll_back(self, copy: Any) -> None:
        """Be that copy again, and open it."""
        self._store.objects.clear()
        self._store.objects.update(copy)
        self.lose_power(Random(0))

    def lose_power(self, _chance: Random) -> None:
        """The producer is gone without a word, and the next one opens what is there."""
        self._host.kill()
        self._save = self._open()

    @property
    def requests(self) -> Mapping[str, int]:
        """Not empty: what is done only where requests cost something is tried with a failing power too."""
        return {"put requests": 1}

    def capacity_bytes(self, partition: Partition) -> int:
        """Sets have a limit of their own."""
        return self.sets_bytes if partition is Partition.SETS else self._save.capacity_bytes(partition)

    def used_bytes(self, partition: Partition) -> int:
        """Pass on."""
        return self._save.used_bytes(partition)

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Refuse what does not fit."""
        size_bytes = sum(memoryview(part).nbytes for part in parts)
        if key.startswith("sets/") and self.used_bytes(Partition.SETS) + size_bytes > self.sets_bytes:
            raise SaveVolumeFullError(f"no room for {size_bytes} bytes of {key}")
        self._save.put(key, parts)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> memoryview:
        """Pass on."""
        return self._save.get(key, start, stop)

    def recall(self, key: str) -> memoryview | None:
        """Pass on."""
        return self._save.recall(key)

    def size_bytes(self, key: str) -> int:
        """Pass on."""
        return self._save.size_bytes(key)

    def delete(self, keys: Iterable[str]) -> None:
        """Pass on."""
        self._save.delete(keys)

    def list(self, prefix: str) -> Sequence[str]:
        """Pass on."""
        return self._save.list(prefix)

    def sync(self) -> None:
        """Pass on."""
        self._save.sync()

    def load(self, cell: str) -> CellValue:
        """Pass on."""
        return self._save.load(cell)

    def swap(self, cell: str, value: bytes, expected_version: int) -> int:
        """Pass on."""
        return self._save.swap(cell, value, expected_version)

    def cells(self, prefix: str = "") -> Sequence[str]:
        """Pass on."""
        return self._save.cells(prefix)
