"""Volumes with snapshots on devices that can lose power, and naive images of them to compare with."""

from __future__ import annotations

import pytest

from replkit.replication.logged import LoggedVolume
from replkit.snapshot.records import CellSnapshotTable
from replkit.testing.crashing import CrashDisk, CrashSaveVolume, Power
from replkit.testing.runtime import ThreadRuntime

SIZE = 512


class Stack:
    """A whole volume stack; ``images`` has what each snapshot held, block by block, when it was made."""

    def __init__(self, blocks: int = 4096, *, seed: int = 0, areas_bytes: int = 1 << 30, **options) -> None:
        self.power = Power(seed)
        self.disk = CrashDisk(self.power, blocks, block_size=SIZE)
        self.save = CrashSaveVolume(self.power, areas_bytes=areas_bytes)
        self.options = options
        self.images: dict[str, list[int]] = {}
        self.open()

    def open(self) -> None:
        table = CellSnapshotTable(self.save)
        self.volume = LoggedVolume.open(self.disk, self.save, table, ThreadRuntime(), **self.options)
        self.snapped = self.volume.snapped

    def crash(self) -> None:
        self.power.restore()
        self.open()

    def write(self, start: int, value: int, count: int = 1) -> None:
        self.volume.write(start, bytes([value]) * SIZE * count)

    def snapshot(self, name: str, **options) -> None:
        self.images[name] = self.image()
        self.snapped.create_snapshot(name, **options)

    def image(self, name: str | None = None) -> list[int]:
        """The first byte of each block; all bytes of a block must be the same."""
        shown = self.volume if name is None else self.snapped.open_snapshot(name)
        buffer = bytearray(shown.block_count * SIZE)
        shown.read_into(0, buffer)
        for at in range(0, len(buffer), SIZE):
            assert buffer[at : at + SIZE].count(buffer[at]) == SIZE
        return list(buffer[::SIZE])

    def in_use(self, name: str | None = None) -> list:
        return list((self.volume if name is None else self.snapped.open_snapshot(name)).in_use())


@pytest.fixture
def new_stack():
    return Stack


@pytest.fixture
def stack():
    return Stack(64)
