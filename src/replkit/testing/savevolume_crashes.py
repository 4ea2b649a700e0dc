"""The part of the suite of save volumes that is about crashes and other processes.

Each test needs a way around the backend that its world gives, or a capability that the suite declares.
"""

from __future__ import annotations

import random
from typing import Final

import pytest

from replkit.contracts.savevolume import SaveVolume
from replkit.errors import CorruptRecordError, RecordMissingError, SwapConflictError
from replkit.testing.comparing import assert_bytes
from replkit.testing.worlds import SaveVolumeWorld, run_all, run_and_kill

_CAPACITY: Final = 32 << 20
_CRASHES: Final = 12
_PRODUCE: Final = """
save = registry.open_save_volume(url, capacity_bytes=33554432, create=True)
save.put("sets/a/0", [b"synced" * 1000])
save.sync()
save.swap("root", b"durable", 0)
save.put("sets/a/1", [b"unsynced" * 100_000])
"""
_COUNT: Final = """
from replkit.errors import SwapConflictError
save, wins = registry.open_save_volume(url, producer=False), 0
while wins < 25:
    value, version = save.load("count")
    try:
        save.swap("count", b"%d" % (int(value or b"0") + 1), version)
        wins += 1
    except SwapConflictError:
        pass
"""
_BUSY: Final = """
from replkit.errors import SaveVolumeBusyError
try:
    registry.open_save_volume(url)
except SaveVolumeBusyError:
    pass
else:
    sys.exit("a second producer was let in")
"""


class Records:
    """What must be there after a crash, and what may be."""

    def __init__(self) -> None:
        self.synced: dict[str, bytes] = {}
        self.may_be: dict[str, bytes] = {}
        """Puts and deletes that were not synced."""
        self.cells: dict[str, tuple[bytes, int]] = {}

    def change(self, save: SaveVolume, chance: random.Random, key: str) -> None:
        """One call, drawn."""
        what = chance.randrange(6)
        there = sorted(save.list(""))
        if what == 0:
            save.sync()
            self.synced = {name: {**self.synced, **self.may_be}[name] for name in there}
            self.may_be = {}
        elif what == 1 and there:
            gone = chance.choice(there)
            save.delete([gone])
            if gone in self.synced:
                self.may_be[gone] = self.synced.pop(gone)
        elif what == 2:
            version = save.load("root").version
            save.swap("root", key.encode(), version)
            self.cells["root"] = (key.encode(), version + 1)
        else:
            self.may_be[key] = chance.randbytes(chance.choice((10, 600, 9000, 70_000)))
            save.put(key, [self.may_be[key][:7], self.may_be[key][7:]])

    def crashed(self, save: SaveVolume) -> None:
        """What a crash left is allowed, and is durable from now on."""
        found = {key: self._whole(save, key) for key in save.list("")}
        for key in sorted(set(self.synced) - set(found)):
            pytest.fail(f"record {key} was synced, and is gone after a power failure")
        for key, data in sorted(found.items()):
            wanted = self.synced.get(key, self.may_be.get(key))
            assert wanted is not None, f"record {key} was deleted and synced, and is back after a power failure"
            what = f"record {key} came back damaged after a power failure; it must be whole or absent"
            assert_bytes(data, wanted, what)
        for cell, (value, version) in self.cells.items():
            held = save.load(cell)
            assert tuple(held) == (value, version), (
                f"cell {cell} was swapped to version {version}, and is at {held.version} after a power failure"
            )
        self.synced, self.may_be = found, {}

    @staticmethod
    def _whole(save: SaveVolume, key: str) -> bytes:
        try:
            return bytes(save.get(key))
        except (CorruptRecordError, RecordMissingError) as error:
            pytest.fail(f"record {key} is listed after a power failure and cannot be read: {error}")


class SaveVolumeCrashes:
    """What holds after a crash, and between processes."""

    between_processes = False
    """Whether another process that opens the URL meets the same records and cells."""
    plugins: tuple[str, ...] = ()
    """Modules that another process has to load first, where the backend has no entry point."""

    @pytest.mark.parametrize("seed", range(3))
    def test_after_a_power_failure_a_record_is_whole_or_absent(self, world: SaveVolumeWorld, seed: int) -> None:
        """Crash after crash, at any call: synced records and swapped cells are there, the others whole or absent."""
        if world.lose_power is None:
            pytest.skip("the world cannot lose power")
        chance, records = random.Random(seed), Records()
        world.open(capacity_bytes=_CAPACITY, create=True).close()
        for crash in range(_CRASHES):
            with world.open() as save:
                for number in range(chance.randrange(1, 15)):
                    records.change(save, chance, f"{chance.choice(('sets', 'areas', 'lists'))}/{crash}/{number}")
            world.lose_power()
            with world.open() as save:
                records.crashed(save)
                save.sync()

    def test_a_producer_that_dies_leaves_whole_records_and_its_place(self, world: SaveVolumeWorld) -> None:
        """The next one opens it at once, and goes on."""
        self._needs_processes()
        run_and_kill(_PRODUCE, world.url, self.plugins)
        with world.open() as save:
            assert_bytes(save.get("sets/a/0"), b"synced" * 1000, "a synced record did not outlive its producer")
            assert save.load("root").value == b"durable", "a swapped cell did not outlive its producer"
            if "sets/a/1" in save.list("sets/"):
                assert_bytes(save.get("sets/a/1"), b"unsynced" * 100_000, "a record is there by half")
                save.delete(["sets/a/1"])
            save.put("sets/a/1", [b"again"])
            save.sync()
            assert_bytes(save.get("sets/a/1"), b"again")

    def test_of_two_processes_one_wins_each_swap(self, world: SaveVolumeWorld) -> None:
        """Publication and fencing rest on this."""
        self._needs_processes()
        with world.open(capacity_bytes=_CAPACITY, create=True) as save:

            def count() -> None:
                wins = 0
                while wins < 25:
                    value, version = save.load("count")
                    try:
                        save.swap("count", b"%d" % (int(value or b"0") + 1), version)
                        wins += 1
                    except SwapConflictError:
                        continue

            run_all(count, lambda: run_and_kill(_COUNT, world.url, self.plugins))
            counted = int(save.load("count").value)
            assert counted == 50, f"two processes counted to {counted} by 50 swaps: swap is not atomic between them"

    def test_there_is_one_producer_among_processes(self, world: SaveVolumeWorld) -> None:
        """Whoever comes second is told."""
        self._needs_processes()
        with world.open(capacity_bytes=_CAPACITY, create=True):
            run_and_kill(_BUSY, world.url, self.plugins)

    def _needs_processes(self) -> None:
        if not self.between_processes:
            pytest.skip("the backend is not declared to be between_processes")
