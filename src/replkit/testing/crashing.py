"""A disk and a save volume in memory that can lose power at any call, for exhaustive tests of the layers above.

Both keep what is durable apart from what was only written. ``Power.fail_at`` says at which call from now everything
stops; ``Power.restore`` decides, from a seed, what of the rest survived: of a block any version since its last flush,
of a record all or nothing, of a delete whether it came back.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from replkit.blocks.extent import Extent
from replkit.contracts.buffers import Buffer
from replkit.contracts.savevolume import CellValue, Partition, SaveVolume
from replkit.contracts.volume import BlockVolume, Capability
from replkit.errors import AlreadyExistsError, RecordMissingError, SaveVolumeFullError, SwapConflictError


class PowerFailure(BaseException):
    """The machine is off. No ``except Exception`` of the code under test may go on."""


class Device(Protocol):
    """What hangs on a plug."""

    def lose_power(self, chance: random.Random) -> None:
        """Lose what was not durable."""
        ...


class Power:
    """The plug of one machine."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._calls_left: int | None = None
        self._is_off = False
        self.calls = 0
        self._devices: list[Device] = []

    def attach(self, device: Device) -> None:
        """The device loses power with the others."""
        self._devices.append(device)

    def fail_at(self, call: int | None) -> None:
        """Fail at the ``call``-th device call from now, 1 being the next; ``None`` takes it back."""
        self._calls_left = call

    def spend(self) -> None:
        """Before each call that changes something: fail if its time has come."""
        self.calls += 1
        if self._calls_left is not None:
            self._calls_left -= 1
            self._is_off = self._is_off or self._calls_left <= 0
        if self._is_off:
            raise PowerFailure

    def restore(self) -> None:
        """Lose what was not durable, and switch on again."""
        self._calls_left, self._is_off = None, False
        for device in self._devices:
            device.lose_power(self._random)


class CrashDisk(BlockVolume):
    """A volume in memory whose unflushed blocks hold, after a crash, any value written since the last flush."""

    discards = Capability.NATIVE
    tells_in_use = Capability.NATIVE
    resizes = Capability.NATIVE

    def __init__(self, power: Power, block_count: int, *, block_size: int = 512) -> None:
        self.block_size = block_size
        self.size_bytes = block_count * block_size
        self._power = power
        self._durable: dict[int, bytes] = {}
        self._written: dict[int, list[bytes]] = {}
        power.attach(self)

    def _block(self, block: int) -> bytes:
        versions = self._written.get(block)
        return versions[-1] if versions else self._durable.get(block, bytes(self.block_size))

    def read_into(self, start: int, buffer: Buffer) -> None:
        """The newest versions."""
        view = memoryview(buffer).cast("B")
        for index in range(view.nbytes // self.block_size):
            view[index * self.block_size : (index + 1) * self.block_size] = self._block(start + index)

    def write(self, start: int, buffer: Buffer) -> None:
        """Block by block; the power may fail between two."""
        view = memoryview(buffer).cast("B")
        for index in range(view.nbytes // self.block_size):
            self._power.spend()
            data = bytes(view[index * self.block_size : (index + 1) * self.block_size])
            self._written.setdefault(start + index, []).append(data)

    def discard(self, start: int, count: int) -> None:
        """Zeros, block by block."""
        self.write(start, bytes(count * self.block_size))

    def flush(self) -> None:
        """The newest versions become durable."""
        self._power.spend()
        self._durable.update({block: versions[-1] for block, versions in self._written.items()})
        self._written.clear()

    def in_use(self) -> Iterator[Extent]:
        """Yield blocks that are not zeros."""
        for block in range(self.block_count):
            if any(self._block(block)):
                yield Extent(block, 1)

    def resize(self, size_bytes: int) -> None:
        """Durable at once."""
        self._power.spend()
        self.size_bytes = size_bytes
        for blocks in (self._durable, self._written):
            for block in [block for block in blocks if block >= self.block_count]:
                del blocks[block]

    def lose_power(self, chance: random.Random) -> None:
        """Keep, of each block, one of the versions that may be on the disk."""
        for block, versions in sorted(self._written.items()):
            kept = chance.randrange(len(versions) + 1)
            if kept:
                self._durable[block] = versions[kept - 1]
        self._written.clear()


class CrashSaveVolume(SaveVolume):
    """A save volume in memory: unsynced puts may be lost, unsynced deletes may come back; cells are durable."""

    def __init__(self, power: Power, *, areas_bytes: int = 1 << 30) -> None:
        self.areas_bytes = areas_bytes
        self._power = power
        self._records: dict[str, bytes] = {}
        self._unsynced: set[str] = set()
        self._deleted: dict[str, bytes] = {}
        self._cells: dict[str, CellValue] = {}
        self.forgets_syncs = False
        """Planted bug: a sync that makes nothing durable."""
        power.attach(self)

    def capacity_bytes(self, partition: Partition) -> int:
        """Only the areas have a limit."""
        return self.areas_bytes if partition is Partition.AREAS else 1 << 40

    def used_bytes(self, partition: Partition) -> int:
        """Sum of the records."""
        return sum(len(data) for key, data in list(self._records.items()) if key.startswith(f"{partition}/"))

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Not durable before a sync."""
        self._power.spend()
        data = b"".join(memoryview(part) for part in parts)
        if key in self._records:
            raise AlreadyExistsError(f"{key} is already there")
        if key.startswith("areas/") and self.used_bytes(Partition.AREAS) + len(data) > self.areas_bytes:
            raise SaveVolumeFullError(f"no room for {len(data)} bytes of {key}")
        self._deleted.pop(key, None)
        self._records[key] = data
        self._unsynced.add(key)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> memoryview:
        """A view of the record."""
        try:
            return memoryview(self._records[key])[start:stop]
        except KeyError:
            raise RecordMissingError(f"no record {key}") from None

    def size_bytes(self, key: str) -> int:
        """Length of the record."""
        return len(self.get(key))

    def delete(self, keys: Iterable[str]) -> None:
        """May come back until the next sync."""
        for key in keys:
            self._power.spend()
            data = self._records.pop(key, None)
            if data is not None and key not in self._unsynced:
                self._deleted[key] = data
            self._unsynced.discard(key)

    def list(self, prefix: str) -> Sequence[str]:
        """Sorted keys."""
        return sorted(key for key in list(self._records) if key.startswith(prefix))

    def sync(self) -> None:
        """Puts and deletes before it are durable."""
        self._power.spend()
        if not self.forgets_syncs:
            self._unsynced.clear()
            self._deleted.clear()

    def load(self, cell: str) -> CellValue:
        """The cell, or version 0."""
        return self._cells.get(cell, CellValue(b"", 0))

    def swap(self, cell: str, value: bytes, expected_version: int) -> int:
        """Durable on return; the power fails before or after it."""
        self._power.spend()
        version = self.load(cell).version
        if version != expected_version:
            raise SwapConflictError(f"cell {cell} is at version {version}, not {expected_version}")
        self._cells[cell] = CellValue(bytes(value), version + 1)
        self._power.spend()
        return version + 1

    def cells(self, prefix: str = "") -> Sequence[str]:
        """Sorted names."""
        return sorted(name for name in self._cells if name.startswith(prefix))

    def copied(self) -> object:
        """All of it as it is now, for ``roll_back``: what somebody does who copies it away and back."""
        return dict(self._records), dict(self._cells)

    def roll_back(self, copy: Any) -> None:
        """Be that copy again."""
        self._records, self._cells = (dict(part) for part in copy)

    def lose_power(self, chance: random.Random) -> None:
        """Drop some unsynced puts, bring some unsynced deletes back."""
        for key in sorted(self._unsynced):
            if chance.random() < 0.5:
                del self._records[key]
        for key, data in sorted(self._deleted.items()):
            if chance.random() < 0.5:
                self._records[key] = data
        self._unsynced.clear()
        self._deleted.clear()
