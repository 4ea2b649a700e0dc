"""A volume with snapshots, read inside the process and by a reader from the save volume alone."""

from __future__ import annotations

from replkit.snapshot.intents import IntentLog
from replkit.snapshot.reader import SnapshotReader
from replkit.snapshot.records import CellSnapshotTable
from replkit.snapshot.snapped import SnappedVolume
from replkit.testing.crashing import CrashDisk, CrashSaveVolume, Power
from replkit.testing.runtime import ThreadRuntime

SIZE = 512
BLOCKS = 8192


def block(value, count=1):
    return bytes([value]) * SIZE * count


def read(volume, start, count=1):
    buffer = bytearray(count * SIZE)
    volume.read_into(start, buffer)
    return [buffer[number * SIZE] for number in range(count)]


class World:
    def __init__(self, **options):
        self.power = Power()
        self.disk = CrashDisk(self.power, BLOCKS)
        self.save = CrashSaveVolume(self.power, areas_bytes=options.pop("areas_bytes", 1 << 30))
        self.options = options
        self.table = CellSnapshotTable(self.save)
        self.open()

    def open(self):
        runtime = ThreadRuntime()
        intents = IntentLog(self.save, runtime, block_count=self.disk.block_count, block_size=SIZE)
        self.volume = SnappedVolume(self.disk, self.save, self.table, intents, runtime, **self.options)

    def image(self, name, start=0, count=8):
        inside = read(self.volume.open_snapshot(name), start, count)
        assert read(SnapshotReader(name, self.disk, self.save, self.table), start, count) == inside
        return inside

    def before_images(self):
        return len(self.save.list("areas/"))
