"""The disk and the save volume of a simulated site: what is durable apart from what was only written, and every fault.

A crash keeps, of each unflushed sector, any version since the last flush; of each unsynced record all or nothing. A
failed flush loses writes and calls the pages clean, as kernels do. ``Plug`` decides at which call what happens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from replkit.blocks.extent import Extent
from replkit.contracts.buffers import Buffer
from replkit.contracts.savevolume import CellValue, Partition, SaveVolume
from replkit.contracts.volume import BlockVolume, Capability
from replkit.errors import (
    AlreadyExistsError,
    OutOfSpaceError,
    RecordMissingError,
    SaveVolumeFailedError,
    SaveVolumeFullError,
    SwapConflictError,
    VolumeFailedError,
)
from replkit.testing.sim.plug import Plug

SECTOR: Final = 512
"""What a disk writes whole: a block of several is torn between them."""


class FaultDisk(BlockVolume):
    """A disk with a page cache."""

    discards = Capability.NATIVE
    tells_in_use = Capability.NATIVE
    resizes = Capability.NATIVE

    def __init__(self, plug: Plug, block_count: int, *, block_size: int = SECTOR) -> None:
        self.block_size, self.size_bytes = block_size, block_count * block_size
        self.content = bytearray(self.size_bytes)
        self.durable = bytearray(self.size_bytes)
        self.pending: dict[int, list[tuple[int, bytes]]] = {}
        """Sector: its versions since the last flush, with the number of their write; oldest write first."""
        self.sequence = 0
        self.failed = False
        self._plug = plug
        plug.attach(self)

    def read_into(self, start: int, buffer: Buffer) -> None:
        """What was written last, unless the sector cannot be read."""
        view = memoryview(buffer).cast("B")
        if self._plug.breaks("read error"):
            raise VolumeFailedError(f"read error at block {start}")
        at = start * self.block_size
        if at + view.nbytes > self.size_bytes:  # a process that outlived a resize asks for what was
            raise VolumeFailedError(f"block {start} is beyond the end")
        view[:] = memoryview(self.content)[at : at + view.nbytes]

    def write(self, start: int, buffer: Buffer) -> None:
        """Into the page cache; when the power fails here any sector of it may reach the disk."""
        data = bytes(memoryview(buffer).cast("B"))
        self._check()
        at = start * self.block_size
        fault = self._plug.breaks("write error", "disk full")
        if fault == "disk full":
            raise OutOfSpaceError(f"no room for block {start}")
        self.sequence += 1
        first, chance = at // SECTOR, self._plug.random
        for index in range(len(data) // SECTOR):
            part = data[index * SECTOR : (index + 1) * SECTOR]
            if fault and chance.random() < 0.5:
                continue
            self.pending.setdefault(first + index, []).append((self.sequence, part))
            if fault:
                self.content[(first + index) * SECTOR : (first + index + 1) * SECTOR] = part
        self._plug.spend()
        if fault:
            raise VolumeFailedError(f"write error at block {start}")
        self.content[at : at + len(data)] = data

    def discard(self, start: int, count: int) -> None:
        """Zeros."""
        self.write(start, bytes(count * self.block_size))

    def flush(self) -> None:
        """All that was written becomes durable; a failure loses some of it and calls it clean."""
        self._check()
        self._plug.spend()
        if self._plug.breaks("flush error"):
            for sector, versions in self.pending.items():
                if self._plug.random.random() < 0.5:
                    self._settle(sector, versions[-1][1])
            self.pending.clear()
            self.failed = True
            raise VolumeFailedError("a flush failed")
        for sector, versions in self.pending.items():
            self._settle(sector, versions[-1][1])
        self.pending.clear()

    def in_use(self) -> Iterator[Extent]:
        """Blocks that are not zeros."""
        size, zeros = self.block_size, bytes(self.block_size)
        for block in range(self.block_count):
            if self.content[block * size : (block + 1) * size] != zeros:
                yield Extent(block, 1)

    def resize(self, size_bytes: int) -> None:
        """Durable at once."""
        self._check()
        self._plug.spend()
        for content in (self.content, self.durable):
            del content[size_bytes:]
            content.extend(bytes(size_bytes - len(content)))
        self.size_bytes = size_bytes
        for sector in [each for each in self.pending if each * SECTOR >= size_bytes]:
            del self.pending[sector]

    def lose_power(self, chance: random.Random) -> None:
        """Keep, of each sector, one of the versions that may be on the disk."""
        for sector in sorted(self.pending):
            versions = self.pending[sector]
            kept = chance.randrange(len(versions) + 1)
            if kept:
                self._settle(sector, versions[kept - 1][1])
        self.pending.clear()
        self.content[:] = self.durable
        self.failed = False

    def survivors(self, writes: Collection[int], torn: int = 0) -> dict[int, bytes]:
        """Sector: what it holds if just these writes reach the disk; of the newest only ``torn`` sectors, 0 for all."""
        newest = max(writes, default=0)
        stop = self.size_bytes
        if torn:
            stop = torn + min(sector for sector, versions in self.pending.items() if versions[-1][0] == newest)
        found: dict[int, bytes] = {}
        for sector, versions in self.pending.items():
            for number, data in versions:
                if number in writes and (number != newest or sector < stop):
                    found[sector] = data
        return found

    def survive(self, writes: Collection[int], torn: int = 0) -> None:
        """The power fails, and that is on the disk."""
        for sector, data in self.survivors(writes, torn).items():
            self._settle(sector, data)
        self.pending.clear()

    @property
    def waiting(self) -> list[int]:
        """Numbers of the writes that are not flushed."""
        return sorted({number for versions in self.pending.values() for number, _data in versions})

    @property
    def oldest_pending(self) -> int | None:
        """The number of the oldest write that a crash could lose."""
        return min((versions[0][0] for versions in self.pending.values()), default=None)

    def state(self) -> Any:
        """A copy of all that the disk holds, as after a flush."""
        return bytes(self.content)

    def become(self, state: Any) -> None:
        """Hold what another disk, or this one, held once."""
        self.content, self.durable, self.failed = bytearray(state), bytearray(state), False
        self.size_bytes = len(state)
        self.pending.clear()

    def _settle(self, sector: int, data: bytes) -> None:
        self.durable[sector * SECTOR : (sector + 1) * SECTOR] = data

    def _check(self) -> None:
        if self.failed:
            raise VolumeFailedError("a flush failed before: open the volume again")


class FaultSave(SaveVolume):
    """A save volume whose unsynced puts may be lost and whose unsynced deletes may come back; cells are durable.

    One that is ``paid`` says that its swaps cost requests, as in a bucket: then its services do with fewer.
    """

    def __init__(self, plug: Plug, *, sets_bytes: int, areas_bytes: int = 1 << 30, paid: bool = False) -> None:
        self.capacities: dict[str, int] = {"sets": sets_bytes, "areas": areas_bytes}
        self._paid = paid
        self.failed = False
        self._plug = plug
        self._records: dict[str, dict[str, bytes]] = {}
        self._used: dict[str, int] = {}
        self._unsynced: set[str] = set()
        self._deleted: dict[str, bytes] = {}
        self._cells: dict[str, CellValue] = {}
        self.on_root: Callable[[bytes], None] = lambda _value: None
        """Called with a root that is about to be published."""
        plug.attach(self)

    @property
    def requests(self) -> Mapping[str, int]:
        """Whether there are any is what counts."""
        return {"put": len(self._cells)} if self._paid else {}

    def capacity_bytes(self, partition: Partition) -> int:
        """Sets and areas may have a limit."""
        return self.capacities.get(str(partition), 1 << 30)

    def used_bytes(self, partition: Partition) -> int:
        """Sum of the records."""
        return self._used.get(str(partition), 0)

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Not durable before a sync."""
        self._check()
        partition = key[: key.index("/")]
        data = b"".join(memoryview(part) for part in parts)
        records = self._records.setdefault(partition, {})
        if key in records:
            raise AlreadyExistsError(f"{key} is already there")
        fault = self._plug.breaks("put error", "save full") if partition != "areas" else ""
        used = self._used.get(partition, 0) + len(data)
        if fault == "save full" or used > self.capacities.get(partition, 1 << 30):
            raise SaveVolumeFullError(f"no room for {len(data)} bytes of {key}")
        if not fault or self._plug.random.random() < 0.5:
            self._deleted.pop(key, None)
            records[key] = data
            self._used[partition] = used
            self._unsynced.add(key)
        self._plug.spend()
        if fault:
            self.failed = True
            raise SaveVolumeFailedError(f"write error at {key}")

    def get(self, key: str, start: int = 0, stop: int | None = None) -> memoryview:
        """The record, or now and then one with a bit turned, or another one."""
        partition = key[: key.index("/")]
        records = self._records.get(partition, {})
        data = records.get(key)
        if data is None:
            raise RecordMissingError(f"no record {key}")
        fault = self._plug.breaks("rot", "misdirected read") if partition == "sets" else ""
        if fault == "rot" and data:
            at, rotted = self._plug.random.randrange(len(data)), bytearray(data)
            rotted[at] ^= 1 << self._plug.random.randrange(8)
            data = bytes(rotted)
        elif fault:
            data = records[sorted(records)[self._plug.random.randrange(len(records))]]
        return memoryview(data)[start:stop]

    def size_bytes(self, key: str) -> int:
        """Length of the record."""
        try:
            return len(self._records.get(key[: key.index("/")], {})[key])
        except KeyError:
            raise RecordMissingError(f"no record {key}") from None

    def delete(self, keys: Iterable[str]) -> None:
        """May come back until the next sync."""
        self._check()
        for key in keys:
            self._plug.spend()
            partition = key[: key.index("/")]
            data = self._records.get(partition, {}).pop(key, None)
            if data is not None:
                self._used[partition] -= len(data)
                if key not in self._unsynced:
                    self._deleted[key] = data
                self._unsynced.discard(key)

    @property
    def waiting(self) -> list[str]:
        """Keys of the records that are put, then of those that are deleted, and not synced."""
        return [*sorted(self._unsynced), *sorted(self._deleted)]

    def list(self, prefix: str) -> Sequence[str]:
        """Sorted keys."""
        partition, slash, _rest = prefix.partition("/")
        if slash:
            return sorted(key for key in self._records.get(partition, ()) if key.startswith(prefix))
        return sorted(key for each in self._records.values() for key in each if key.startswith(prefix))

    def sync(self) -> None:
        """Puts and deletes before it are durable; a failure makes some of them so."""
        self._check()
        self._plug.spend()
        if self._plug.breaks("sync error"):
            self.failed = True
            raise SaveVolumeFailedError("a sync failed")
        self.make_durable()

    def make_durable(self) -> None:
        """What a sync does."""
        self._unsynced.clear()
        self._deleted.clear()

    def load(self, cell: str) -> CellValue:
        """The cell, or version 0."""
        return self._cells.get(cell, _NO_CELL)

    def swap(self, cell: str, value: bytes, expected_version: int) -> int:
        """Durable on return; the power fails before or after it, and after an error nobody knows which."""
        self._check()
        self._plug.spend()
        version = self.load(cell).version
        if version != expected_version:
            raise SwapConflictError(f"cell {cell} is at version {version}, not {expected_version}")
        if cell == "root":
            self.on_root(value)
        fault = self._plug.breaks("swap error")
        if not fault or self._plug.random.random() < 0.5:
            self._cells[cell] = CellValue(bytes(value), version + 1)
        if fault:
            self.failed = True
            raise SaveVolumeFailedError(f"cell {cell} may or may not have been swapped")
        self._plug.spend()
        return version + 1

    def cells(self, prefix: str = "") -> Sequence[str]:
        """Sorted names."""
        return sorted(name for name in self._cells if name.startswith(prefix))

    def lose_power(self, chance: random.Random) -> None:
        """Drop some unsynced puts, bring some unsynced deletes back."""
        self.survive({key for key in self.waiting if chance.random() >= 0.5})

    def survivors(self, keys: Collection[str]) -> dict[str, bytes]:
        """The records that are there if, of what is not synced, just these keys stay put or stay deleted."""
        found = {key: data for each in self._records.values() for key, data in each.items()}
        found |= {key: data for key, data in self._deleted.items() if key not in keys}
        return {key: data for key, data in found.items() if key not in self._unsynced or key in keys}

    def survive(self, keys: Collection[str]) -> None:
        """The power fails, and that is there."""
        records: dict[str, dict[str, bytes]] = {}
        for key, data in self.survivors(keys).items():
            records.setdefault(key[: key.index("/")], {})[key] = data
        self.become((records, self._cells))

    def record(self, key: str) -> bytes | None:
        """What is stored under a key, no fault coming between."""
        return self._records.get(key[: key.index("/")], {}).get(key)

    def crash_allows(self) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """What must be there after a crash now, and what may be: puts and deletes that were not synced."""
        records = {key: data for each in self._records.values() for key, data in each.items()}
        in_doubt = {key: data for key, data in records.items() if key in self._unsynced} | self._deleted
        return {key: data for key, data in records.items() if key not in self._unsynced}, in_doubt

    def leave(self, keys: Iterable[str]) -> None:
        """A crash left these keys: what else was in doubt is gone, and they are durable."""
        synced, in_doubt = self.crash_allows()
        kept = synced | {key: in_doubt[key] for key in keys if key in in_doubt}
        records: dict[str, dict[str, bytes]] = {}
        for key, data in kept.items():
            records.setdefault(key[: key.index("/")], {})[key] = data
        self.become((records, self._cells))

    def state(self) -> Any:
        """A copy of all that is there, as after a sync."""
        return {name: dict(each) for name, each in self._records.items()}, dict(self._cells)

    def become(self, state: Any) -> None:
        """Hold what another save volume, or this one, held once."""
        records, cells = state
        self._records = {name: dict(each) for name, each in records.items()}
        self._used = {name: sum(map(len, each.values())) for name, each in records.items()}
        self._cells = dict(cells)
        self.make_durable()
        self.failed = False

    def _check(self) -> None:
        if self.failed:
            raise SaveVolumeFailedError("the save volume failed before: open it again")


_NO_CELL: Final = CellValue(b"", 0)
