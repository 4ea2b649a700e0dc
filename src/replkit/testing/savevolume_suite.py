"""Conformance suite for save volumes: subclass ``SaveVolumeSuite``, define the fixture ``world``, and run pytest.

::

    class TestMySaveVolume(SaveVolumeSuite):
        @pytest.fixture
        def world(self, registry, tmp_path):
            return SaveVolumeWorld(registry=registry, url=f"mine:{tmp_path}/save", rot=lambda data: ...)

``rot`` is the oracle: it finds stored bytes without the backend and damages them. ``lose_power`` lets the machine
crash. What the backend can do is declared by the attributes of the class.
"""

from __future__ import annotations

import random
import threading
from functools import partial
from typing import Any

import pytest

from replkit.contracts.savevolume import CellValue, Partition, SaveVolume
from replkit.contracts.scrub import scrub
from replkit.errors import (
    AlreadyExistsError,
    CorruptRecordError,
    InvalidArgumentError,
    NotFoundError,
    ReadOnlyError,
    RecordMissingError,
    SaveVolumeBusyError,
    SaveVolumeFullError,
    SwapConflictError,
)
from replkit.testing.comparing import assert_bytes
from replkit.testing.savevolume_crashes import SaveVolumeCrashes
from replkit.testing.worlds import SaveVolumeWorld, run_all

CAPACITY = 32 << 20
CHUNK = (4 << 20) + 20_000
"""A chunk of 4 MiB with its head: it must fit into a save volume of ``CAPACITY``."""


class SaveVolumeSuite(SaveVolumeCrashes):
    """What every save volume must do (U1, S1)."""

    @pytest.fixture
    def save(self, world: SaveVolumeWorld) -> Any:
        """A new save volume, opened as producer."""
        with world.open(capacity_bytes=CAPACITY, create=True) as save:
            yield save

    @pytest.fixture
    def reader(self, world: SaveVolumeWorld, save: SaveVolume) -> Any:  # noqa: ARG002 - it must exist first
        """A reader beside the producer."""
        with world.open(producer=False) as reader:
            yield reader

    def test_an_absent_save_volume_is_not_found(self, world: SaveVolumeWorld) -> None:
        """Neither by a producer nor by a reader."""
        for producer in (True, False):
            with pytest.raises(NotFoundError):
                world.open(producer=producer)

    @pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 4096, 1 << 20, CHUNK])
    def test_a_record_comes_back_as_the_concatenation_of_its_parts(self, save: SaveVolume, size: int) -> None:
        """Of any size, from any kind of buffer, whole and in ranges."""
        data = random.Random(size).randbytes(size)
        third = size // 3
        save.put("sets/a/0", [data[:third], bytearray(data[third : 2 * third]), memoryview(data)[2 * third :], b""])
        assert save.size_bytes("sets/a/0") == size
        assert_bytes(save.get("sets/a/0"), data)
        assert_bytes(save.get("sets/a/0", third), data[third:])
        assert_bytes(save.get("sets/a/0", third, 2 * third), data[third : 2 * third])
        assert_bytes(save.get("sets/a/0", size, size), b"")
        save.put("areas/s/0", [data[:9]] * 3000)  # more parts than one system call takes
        assert_bytes(save.get("areas/s/0"), data[:9] * 3000)

    def test_a_range_beyond_the_end_is_refused(self, save: SaveVolume) -> None:
        """A short answer could be taken for the whole."""
        save.put("sets/a/0", [b"0123456789"])
        for start, stop in ((0, 11), (11, 12), (5, 4), (-1, 3), (11, None)):
            with pytest.raises(InvalidArgumentError):
                save.get("sets/a/0", start, stop)

    def test_a_key_in_use_is_not_overwritten(self, save: SaveVolume) -> None:
        """Records are immutable."""
        save.put("lists/a/header", [b"first"])
        with pytest.raises(AlreadyExistsError):
            save.put("lists/a/header", [b"second"])
        assert_bytes(save.get("lists/a/header"), b"first")

    def test_a_missing_record_says_so(self, save: SaveVolume) -> None:
        """With a typed error for each call."""
        for call in (
            lambda: save.get("sets/a/0"),
            lambda: save.get("sets/a/0", 1, 2),
            lambda: save.size_bytes("sets/a/0"),
        ):
            with pytest.raises(RecordMissingError):
                call()

    def test_deleted_records_are_gone_and_absent_ones_are_passed_over(self, save: SaveVolume) -> None:
        """The key can be used again."""
        save.put("sets/a/0", [b"one"])
        save.put("sets/a/1", [b"two"])
        save.delete(["sets/a/0", "sets/b/7"])
        assert save.list("sets/") == ["sets/a/1"]
        with pytest.raises(RecordMissingError):
            pytest.fail(f"get of a deleted record gave {bytes(save.get('sets/a/0'))!r}")
        save.put("sets/a/0", [b"three"])
        assert_bytes(save.get("sets/a/0"), b"three")

    def test_list_is_sorted_and_keeps_to_the_prefix(self, save: SaveVolume) -> None:
        """With prefixes that end anywhere."""
        keys = ["areas/s1/0", "areas/s1/1", "areas/s10/0", "areas/s2/0", "lists/t/header", "sets/t/0", "sets/x"]
        for key in random.Random(1).sample(keys, len(keys)):
            save.put(key, [b"x"])
        for prefix in ("", "areas/", "areas/s1", "areas/s1/", "areas/s1/1", "sets/", "sets", "s", "lists/u", "zzz"):
            wanted, found = [key for key in keys if key.startswith(prefix)], save.list(prefix)
            assert found == wanted, f"list of {prefix!r} leaves out {sorted(set(wanted) - set(found))}"

    @pytest.mark.parametrize(
        "key", ["", "sets", "sets/", "other/a", "sets/A", "sets/../x", "sets/a//b", "sets/a/b/c/d", "sets/" + "x" * 200]
    )
    def test_what_is_no_key_is_refused(self, save: SaveVolume, key: str) -> None:
        """Invariant 12; names never become paths unchecked."""
        for call in (lambda: save.put(key, [b"x"]), lambda: save.get(key), lambda: save.delete([key])):
            with pytest.raises(InvalidArgumentError):
                call()
        assert save.list("") == []

    def test_rotten_bytes_are_found(self, world: SaveVolumeWorld, save: SaveVolume) -> None:
        """Oracle: a whole record is verified when it is read (invariant 12)."""
        if world.rot is None:
            pytest.skip("the world has no oracle")
        data = random.Random(3).randbytes(10_000)
        save.put("sets/a/0", [data])
        save.put("sets/a/1", [b"another"])
        save.sync()
        assert list(scrub(save)) == []
        world.rot(data[5000:5100])
        with pytest.raises(CorruptRecordError):
            pytest.fail(f"get gave {len(save.get('sets/a/0'))} bytes, and did not see that they are damaged")
        with world.open(producer=False) as reader:
            with pytest.raises(CorruptRecordError):
                reader.get("sets/a/0")
            for opener in (save, reader):
                (found,) = scrub(opener)
                assert found.startswith("sets/a/0: ")
        assert_bytes(save.get("sets/a/1"), b"another")

    def test_quotas_share_the_capacity(self, save: SaveVolume) -> None:
        """Each partition has one, and their sum is at most the capacity."""
        quotas = [save.capacity_bytes(partition) for partition in Partition]
        assert all(quota > 0 for quota in quotas)
        assert sum(quotas) <= CAPACITY
        assert quotas[0] >= 3 * CHUNK

    @pytest.mark.requirement("S1", "S4")
    @pytest.mark.parametrize("partition", list(Partition))
    def test_a_full_partition_refuses_and_starves_no_other(self, save: SaveVolume, partition: Partition) -> None:
        """Nothing of the refused record is there, and what was there stays."""
        kept = self.fill(save, partition)
        assert 0.5 * save.capacity_bytes(partition) < save.used_bytes(partition) <= save.capacity_bytes(partition)
        assert save.list(f"{partition}/") == kept, "a put that was refused as full left something"
        for other in set(Partition) - {partition}:
            save.put(f"{other}/free/0", [bytes(100_000)])
        assert_bytes(save.get(kept[0]), bytes(50_000))

    def fill(self, save: SaveVolume, partition: Partition) -> list[str]:
        """Put records of 50,000 bytes until the partition is full; return their keys."""
        kept: list[str] = []
        for number in range(CAPACITY // 50_000):
            key = f"{partition}/fill/{number:04d}"
            try:
                save.put(key, [bytes(50_000)])
            except SaveVolumeFullError:
                return kept
            kept.append(key)
        pytest.fail(f"partition {partition} took more than the capacity")

    @pytest.mark.parametrize("partition", list(Partition))
    def test_room_comes_back_when_records_are_deleted(self, save: SaveVolume, partition: Partition) -> None:
        """Also without a sync between."""
        kept = self.fill(save, partition)
        save.delete(kept)
        assert self.fill(save, partition) == kept

    @pytest.mark.requirement("S1")
    def test_the_partition_of_sets_is_a_wrap_around_buffer(self, save: SaveVolume) -> None:
        """FIG. 8: for ever, with chunks of 4 MiB in a small save volume, if old ones are deleted in time."""
        data = random.Random(4).randbytes(CHUNK)
        for number in range(20):
            save.put(f"sets/{number:04d}/0", [data])
            save.put(f"lists/{number:04d}/header", [b"header"])
            save.sync()
            save.delete([f"sets/{number - 1:04d}/0", f"lists/{number - 1:04d}/header"])
        assert save.list("") == ["lists/0019/header", "sets/0019/0"]
        assert_bytes(save.get("sets/0019/0"), data)

    def test_a_record_that_never_fits_is_refused_clearly(self, save: SaveVolume) -> None:
        """And a record of more than 64 MiB is no record."""
        with pytest.raises(SaveVolumeFullError):
            save.put("sets/a/0", [bytes(1 << 20)] * 25)
        with pytest.raises(InvalidArgumentError):
            save.put("sets/a/0", [bytes(1 << 20)] * 65)
        assert save.list("") == []

    def test_there_is_one_producer(self, world: SaveVolumeWorld, save: SaveVolume) -> None:
        """Its place is free again when it closes."""
        with pytest.raises(SaveVolumeBusyError), world.open():
            pytest.fail("a second producer was let in beside the first")
        save.close()
        with world.open() as again:
            assert not again.read_only

    def test_everything_is_there_after_reopening(self, world: SaveVolumeWorld, save: SaveVolume) -> None:
        """S1: no other state is needed to go on."""
        save.put("sets/a/0", [b"data"])
        save.put("sets/a/1", [b"gone"])
        save.swap("root", b"value", 0)
        save.delete(["sets/a/1"])
        save.sync()
        save.close()
        with world.open() as again:
            assert again.list("") == ["sets/a/0"]
            assert_bytes(again.get("sets/a/0"), b"data")
            assert again.load("root") == CellValue(b"value", 1)
            assert again.capacity_bytes(Partition.SETS) == save.inner.capacity_bytes(Partition.SETS)  # type: ignore[attr-defined]

    def test_another_capacity_is_refused(self, world: SaveVolumeWorld, save: SaveVolume) -> None:
        """A save volume is not made smaller or larger by opening it."""
        save.close()
        with pytest.raises(InvalidArgumentError):
            world.open(capacity_bytes=CAPACITY * 2, create=True)

    @pytest.mark.requirement("S2", "T6")
    def test_a_reader_follows_the_producer(self, save: SaveVolume, reader: SaveVolume) -> None:
        """Puts, deletes, ranges and sizes, for several turns."""
        for turn in range(3):
            keys = [f"areas/s/{turn}-{number}" for number in range(50)]
            for key in keys:
                save.put(key, [key.encode()])
            save.sync()
            assert reader.list("areas/s/") == sorted(keys)
            assert [reader.get(key) for key in keys] == [key.encode() for key in keys]
            assert_bytes(reader.get(keys[0], 1, 5), keys[0].encode()[1:5])
            assert reader.size_bytes(keys[0]) == len(keys[0])
            save.delete(keys)
            save.sync()
            assert reader.list("areas/") == []
            with pytest.raises(RecordMissingError):
                reader.get(keys[0])

    def test_a_reader_changes_no_records(self, save: SaveVolume, reader: SaveVolume) -> None:
        """But cells of its own."""
        assert reader.read_only
        with pytest.raises(ReadOnlyError):
            reader.put("sets/a/0", [b"x"])
        with pytest.raises(ReadOnlyError):
            reader.delete(["sets/a/0"])
        with pytest.raises(ReadOnlyError):
            reader.sync()
        assert reader.swap("sent/member", b"cursor", 0) == 1
        assert save.load("sent/member") == CellValue(b"cursor", 1)

    def test_a_reader_outlives_its_producer(self, world: SaveVolumeWorld, save: SaveVolume, reader: SaveVolume) -> None:
        """And follows the next one."""
        save.put("sets/a/0", [b"one"])
        save.sync()
        save.close()
        assert_bytes(reader.get("sets/a/0"), b"one")
        with world.open() as again:
            again.put("sets/a/1", [b"two"])
            again.delete(["sets/a/0"])
            again.sync()
            assert reader.list("") == ["sets/a/1"]
            assert_bytes(reader.get("sets/a/1"), b"two")

    def test_a_reader_never_gets_wrong_bytes(self, save: SaveVolume, reader: SaveVolume) -> None:
        """While places are reused all the time it gets the record, or is told that it is gone."""
        done = threading.Event()
        size = 200_000

        def produce() -> None:
            try:
                for number in range(600):
                    save.put(f"sets/{number:04d}/0", [bytes([number % 251]) * size])
                    save.delete([f"sets/{number - 20:04d}/0"])
            finally:
                done.set()

        def consume() -> None:
            seen = 0
            while not (done.is_set() and seen):
                for key in reader.list("sets/"):
                    value = int(key.split("/")[1]) % 251
                    try:
                        assert_bytes(reader.get(key, 1000, 150_000), bytes([value]) * 149_000)
                        assert_bytes(reader.get(key), bytes([value]) * size)
                        seen += 1
                    except RecordMissingError:
                        continue

        run_all(produce, consume)

    def test_a_cell_begins_at_version_zero_and_counts_swaps(self, save: SaveVolume) -> None:
        """The value may be empty."""
        assert save.load("root") == CellValue(b"", 0)
        assert save.swap("root", b"one", 0) == 1
        assert save.swap("root", b"", 1) == 2
        assert save.load("root") == CellValue(b"", 2)

    def test_a_swap_at_another_version_changes_nothing(self, save: SaveVolume, reader: SaveVolume) -> None:
        """Whoever comes second is told."""
        save.swap("root", b"first", 0)
        for version in (0, 2, 7):
            with pytest.raises(SwapConflictError):
                pytest.fail(f"a swap at version {version} of 1 gave {reader.swap('root', b'second', version)}")
        assert reader.load("root") == CellValue(b"first", 1)

    def test_cells_are_listed_by_prefix(self, save: SaveVolume) -> None:
        """Sorted, like records."""
        for name in ("sent/b", "root", "sent/a", "sentinel"):
            save.swap(name, b"x", 0)
        assert save.cells() == ["root", "sent/a", "sent/b", "sentinel"]
        assert save.cells("sent/") == ["sent/a", "sent/b"]

    @pytest.mark.parametrize("name", ["", "A", "a//b", "../a", "a/b/c/d/e", "x" * 201])
    def test_what_is_no_name_of_a_cell_is_refused(self, save: SaveVolume, name: str) -> None:
        """Invariant 12."""
        for call in (lambda: save.load(name), lambda: save.swap(name, b"x", 0)):
            with pytest.raises(InvalidArgumentError):
                call()

    def test_of_two_swappers_one_wins_each_time(self, save: SaveVolume, reader: SaveVolume) -> None:
        """Counting up from two openers loses no count."""

        def count(opener: SaveVolume) -> None:
            wins = 0
            while wins < 25:
                value, version = opener.load("count")
                try:
                    opener.swap("count", b"%d" % (int(value or b"0") + 1), version)
                    wins += 1
                except SwapConflictError:
                    continue

        run_all(lambda: count(save), lambda: count(reader))
        counted = save.load("count")
        assert counted == CellValue(b"50", 50), f"50 swaps of two openers counted to {counted.value!r}: not atomic"

    def test_threads_put_sync_and_delete_at_the_same_time(self, save: SaveVolume) -> None:
        """Nothing is lost or mixed up; several wait for one sync."""

        def work(lane: int) -> None:
            for number in range(40):
                key = f"areas/lane-{lane}/{number:03d}"
                data = bytes([lane, number]) * 3000
                save.put(key, [data[:100], data[100:]])
                save.sync()
                assert_bytes(save.get(key), data)
                if number % 2:
                    save.delete([key])

        run_all(*(partial(work, lane) for lane in range(4)))
        kept = [f"areas/lane-{lane}/{number:03d}" for lane in range(4) for number in range(0, 40, 2)]
        assert save.list("areas/") == kept


__all__ = ["CAPACITY", "SaveVolumeSuite", "SaveVolumeWorld", "run_all"]
