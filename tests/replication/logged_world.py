"""The volume stack of a primary beside a model that keeps full images, on devices that can lose power."""

from __future__ import annotations

from replkit.deltaset.pieces import Kind
from replkit.replication.logged import LoggedVolume
from replkit.replication.opencut import OpenCut
from replkit.snapshot.inuse import InUseMap
from replkit.snapshot.reader import SnapshotReader
from replkit.snapshot.records import CellSnapshotTable
from replkit.testing.crashing import CrashDisk, CrashSaveVolume, Power, PowerFailure
from replkit.testing.runtime import ThreadRuntime

BLOCKS = 4096  # of 512 bytes: two regions of the intent log
SPOTS = [0, 1, 2, 3, 4, 5, 2047, 2048, 2049, 4095]
RUNS = [(0, 6), (2047, 3), (4095, 1)]
SIZE = 512


def block(value: int, count: int = 1) -> bytes:
    return bytes([value]) * SIZE * count


class World:
    """A stack, and what it must show: ``live`` the newest values, ``may_be`` what a crash may leave of them."""

    def __init__(
        self, seed: int, *, areas_bytes: int = 1 << 30, in_use_shift: int = 0, changes_matter: bool = True
    ) -> None:
        self.changes_matter = changes_matter
        """False for a secondary, whose intents stand for the in-use map only."""
        self.power = Power(seed)
        self.disk = CrashDisk(self.power, BLOCKS, block_size=SIZE)
        self.save = CrashSaveVolume(self.power, areas_bytes=areas_bytes)
        self.live = dict.fromkeys(SPOTS, 0)
        self.may_be = {spot: {0} for spot in SPOTS}
        self.base = dict(self.live)
        self.snapshots: dict[str, dict[int, int]] = {}
        self.in_doubt: dict[str, dict[int, int]] = {}
        self.cut: OpenCut | None = None
        self.at_cut: dict[int, int] = {}
        self.received: dict[int, int] = {}
        self.value = 0
        self.in_use_shift = in_use_shift
        self.open()

    def open(self) -> None:
        self.stack = LoggedVolume.open(
            self.disk,
            self.save,
            CellSnapshotTable(self.save),
            ThreadRuntime(),
            in_use_shift=self.in_use_shift,
            waits_for_room=False,
        )
        self.cut = None
        self.while_publishing: list[int] = []
        publish = self.stack.snapped._publish

        def write_and_publish(in_use: InUseMap) -> None:
            spots, self.while_publishing = self.while_publishing, []
            if spots and self.save.areas_bytes > 1 << 20:  # one that needs room would wait for this task itself
                self.write(spots)  # a snapshot is taken, and writers go on before it is published
            publish(in_use)

        self.stack.snapped._publish = write_and_publish

    # --- steps ------------------------------------------------------------------------------------------------

    def write(self, spots: list[int]) -> None:
        self.value = self.value % 250 + 1
        for spot in spots:
            self.may_be[spot].add(self.value)
        self.stack.write_extents([(spot, block(self.value)) for spot in spots])
        self.live.update(dict.fromkeys(spots, self.value))

    def discard(self, spots: list[int]) -> None:
        start, stop = spots[0], spots[0] + min(4, BLOCKS - spots[0])
        for spot in SPOTS:
            if start <= spot < stop:
                self.may_be[spot].add(0)
        self.stack.discard(start, stop - start)
        self.live.update({spot: 0 for spot in SPOTS if start <= spot < stop})

    def flush(self, _spots: list[int] | None = None) -> None:
        self.stack.flush()
        self.may_be = {spot: {value} for spot, value in self.live.items()}

    def snapshot(self, spots: list[int]) -> None:
        name = f"s{spots[0]}"
        if name in {record.name for record in self.stack.snapped.snapshots()}:
            self.in_doubt[name] = self.snapshots.pop(name, self.in_doubt.get(name, {}))
            self.stack.snapped.delete_snapshot(name)
            self.in_doubt.pop(name)
        else:
            self.in_doubt[name] = dict(self.live)
            self.while_publishing = spots[1:3]
            self.stack.snapped.create_snapshot(name)
            self.snapshots[name] = self.in_doubt.pop(name)
            self.may_be = {spot: {value} for spot, value in self.live.items()}

    def begin_cut(self, spots: list[int]) -> None:
        if self.cut is None:
            name = f"c{self.value}" if spots[0] % 2 else None
            if name in {record.name for record in self.stack.snapped.snapshots()}:
                name = None
            self.at_cut = dict(self.live)
            if name is not None:
                self.in_doubt[name] = dict(self.live)
            self.cut = self.stack.begin_cut(name)
            self.received = dict(self.base)
            if name is not None:
                self.snapshots[name] = self.in_doubt.pop(name)
                self.may_be = {spot: {value} for spot, value in self.live.items()}

    def copy_some(self, spots: list[int]) -> None:
        if self.cut is not None:
            self.copy(min(spots), max(spots) + 1)

    def copy(self, start: int, stop: int) -> None:
        assert self.cut is not None
        pieces, data = self.cut.copy_range(start, stop)
        plain = b"".join(data)
        offset = 0
        for first, count, kind in pieces:
            for number in range(first, first + count):
                value = 0
                if kind is Kind.DATA:
                    value = plain[offset]
                    offset += SIZE
                if number in self.received:
                    self.received[number] = value
                else:
                    assert value == 0
        assert offset == len(plain)

    def end_cut(self, spots: list[int]) -> None:
        if self.cut is None:
            return
        if spots[0] == 0:
            self.cut.abandon()
        else:
            self.copy(0, BLOCKS)
            self.flush()
            if self.changes_matter:
                assert self.received == self.at_cut
            self.cut.finish()
            self.base = self.received
        self.cut = None

    def clear(self, _spots: list[int]) -> None:
        if self.changes_matter:
            self.stack.clear_idle_intents()
        else:
            self.stack.snapped.clear_intents()

    def checkpoint(self, _spots: list[int]) -> None:
        self.stack.checkpoint()

    def reopen_clean(self, _spots: list[int]) -> None:
        self.stack.close_clean()
        self.may_be = {spot: {value} for spot, value in self.live.items()}
        self.open()
        assert self.stack.changelog.was_clean

    def crash(self, _spots: list[int] | None = None) -> None:
        self.power.restore()
        self.open()
        found = self.image(self.stack)
        for spot, value in found.items():
            assert value in self.may_be[spot] | {self.live[spot]}, f"block {spot} has {value}"
        self.live = found
        self.may_be = {spot: {value} for spot, value in found.items()}
        names = {record.name for record in self.stack.snapped.snapshots() if record.valid}
        for name, image in self.in_doubt.items():
            if name in names:
                self.snapshots[name] = image
        self.in_doubt = {}

    # --- checks -----------------------------------------------------------------------------------------------

    @staticmethod
    def read(volume: object, number: int) -> int:
        buffer = bytearray(SIZE)
        volume.read_into(number, buffer)  # type: ignore[attr-defined]
        assert buffer == block(buffer[0])
        return buffer[0]

    @staticmethod
    def image(volume: object) -> dict[int, int]:
        found = {}
        for first, count in RUNS:
            buffer = bytearray(count * SIZE)
            volume.read_into(first, buffer)  # type: ignore[attr-defined]
            assert buffer == b"".join(block(value) for value in buffer[::SIZE])
            found.update(zip(range(first, first + count), buffer[::SIZE], strict=True))
        return found

    def check(self, *, from_another_process: bool = True) -> None:
        assert self.image(self.stack) == self.live
        valid = {record.name for record in self.stack.snapped.snapshots() if record.valid}
        for name, image in self.snapshots.items():
            if name in valid:
                assert self.image(self.stack.snapped.open_snapshot(name)) == image, name
                if from_another_process:
                    reader = SnapshotReader(name, self.disk, self.save, CellSnapshotTable(self.save))
                    assert self.image(reader) == image, name
        dirty = self.stack.changelog.current
        old = self.stack.changelog.old
        for spot, value in self.live.items():
            if value != self.base[spot] and self.changes_matter:  # invariant 2
                assert spot in dirty or (old is not None and spot in old.changed)

    def run(self, steps: list[tuple[str, list[int], int]]) -> None:
        for number, (step, spots, fail_at) in enumerate(steps):
            self.power.fail_at(fail_at or None)
            try:
                getattr(self, step)(spots)
                self.power.fail_at(None)
            except PowerFailure:
                self.crash()
            self.check(from_another_process=number % 4 == 3)
        self.crash()
        self.check()


STEPS = ["write", "write", "write", "discard", "flush", "snapshot", "begin_cut", "copy_some", "end_cut", "clear"]
STEPS += ["checkpoint", "reopen_clean", "crash"]
