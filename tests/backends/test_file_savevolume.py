"""What a file save volume does after a crash, and with its room."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from replkit.backends.file.layout import SECTOR_BYTES
from replkit.contracts.savevolume import Partition
from replkit.errors import NotFoundError, SaveVolumeBusyError, SaveVolumeFailedError

CAPACITY = 32 << 20


def keys(save, prefix=""):
    return list(save.list(prefix))


def damage(path, offset, data=b"\xff"):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def offset_of(save, key):
    return save._of(key).find(key).offset


# -- crashes --


@pytest.mark.requirement("S1", "S5")
def test_records_of_a_killed_producer_are_there_and_its_place_is_free(registry, directory, opened):
    code = f"""
import os, signal, sys
from replkit.contracts.registry import default_registry
save = default_registry().open_save_volume("file://{directory}", capacity_bytes={CAPACITY}, create=True)
for number in range(100):
    save.put(f"areas/s{{number % 3}}/{{number:03d}}", [bytes([number]) * 4096])
save.swap("root", b"x", 0)
save.sync()
save.delete(["areas/s0/000"])
print("ready", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"ready\n")
    save = opened()
    assert len(keys(save)) == 99
    assert all(bytes(save.get(key)) == bytes([int(key[-3:])]) * 4096 for key in keys(save))
    assert (save.dropped, save.damaged) == ([], [])
    save.put("areas/s0/new", [b"goes on"])
    assert bytes(opened().get("areas/s0/new")) == b"goes on"


@pytest.mark.parametrize("keep", [0, 1, 511, 512, 513, 600, 4096, 5000])
def test_a_torn_record_was_never_there(directory, opened, keep):
    """The last put is cut off after ``keep`` bytes, as by a loss of power before its sync."""
    save = opened()
    save.put("sets/a/0", [b"a" * 5000])
    save.sync()
    save.put("sets/a/1", [b"b" * 5000])
    offset = offset_of(save, "sets/a/1")
    end = (directory / "sets").stat().st_size
    save.close()
    damage(directory / "sets", offset + keep, bytes(min(8192, end - offset - keep)))
    again = opened()
    assert keys(again) == ["sets/a/0"]
    assert again.dropped == (["sets/a/1"] if keep >= 511 else [])
    again.put("sets/a/1", [b"once more"])
    again.sync()
    assert bytes(again.get("sets/a/1")) == b"once more"
    third = opened()
    assert keys(third) == ["sets/a/0", "sets/a/1"]
    assert (third.dropped, third.damaged) == ([], [])


def test_what_lies_behind_a_torn_record_does_not_come_back_later(directory, opened):
    """Unsynced puts of which only the second reached the disk: gone, now and after later syncs."""
    save = opened()
    for number in range(3):
        save.put(f"areas/s/{number}", [bytes([number]) * 1000])
    offset = offset_of(save, "areas/s/0")
    save.close()
    damage(directory / "areas", offset, bytes(SECTOR_BYTES))
    again = opened()
    assert keys(again) == []
    assert again.dropped == ["areas/s/1", "areas/s/2"]
    for _ in range(2):
        again.put("areas/s/0", [b"x" * 1000])
        again.sync()
        again.delete(["areas/s/0"])
        again.sync()
        again = opened()
        assert (keys(again), again.damaged) == ([], [])


def test_a_creation_that_was_cut_short_is_begun_again(directory, opened):
    opened().close()
    (directory / "format.json").unlink()
    save = opened()
    save.put("sets/a/0", [b"x"])
    assert keys(save) == ["sets/a/0"]


# -- room --


def test_big_records_are_taken_where_the_quota_allows(registry, directory):
    with registry.open_save_volume(f"file://{directory}", capacity_bytes=1 << 30, create=True) as save:
        part = bytes(range(256)) * 4096
        save.put("sets/a/0", [part] * 64)
        save.sync()
        assert save.get("sets/a/0") == part * 64


def test_long_lived_records_among_short_lived_ones_do_not_fill_a_partition(opened):
    """A segment with one live record is compacted when room is needed."""
    save = opened()
    for number in range(3000):
        save.put(f"lists/map-{number}/0", [bytes(20_000)])
        if number % 40 == 0:
            save.put(f"lists/kept-{number:04d}/0", [b"%d" % number])
        if number:
            save.delete([f"lists/map-{number - 1}/0"])
    kept = keys(save, "lists/kept-")
    assert len(kept) == 75
    save.sync()
    again = opened()
    assert keys(again, "lists/kept-") == kept
    assert [int(bytes(again.get(key))) for key in kept] == list(range(0, 3000, 40))


def test_a_crash_in_the_middle_of_compaction_leaves_each_record_once(opened, monkeypatch):
    save = opened()
    fdatasync, expected = os.fdatasync, []

    def fail(fd):
        if sys._getframe(2).f_code.co_name == "_compact":
            raise OSError(errno.EIO, "power lost")
        fdatasync(fd)

    def fill():
        for number in range(1000):
            save.put(f"lists/kept/{number:04d}", [b"%d" % number])
            expected.append(f"lists/kept/{number:04d}")
            save.put(f"lists/map-{number}/0", [bytes(50_000)])
            save.delete([f"lists/map-{number}/0"])

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(SaveVolumeFailedError, match="power lost"):
        fill()
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    again = opened()
    assert keys(again, "lists/kept/") == expected
    assert [int(bytes(again.get(key))) for key in expected] == list(range(len(expected)))
    again.delete(expected)
    assert keys(opened(), "lists/kept/") == []


def test_readers_follow_what_compaction_moves(registry, directory, opened):
    save = opened()
    save.put("lists/kept/0", [b"kept" * 100])
    with registry.open_save_volume(f"file://{directory}", producer=False) as reader:
        for number in range(400):
            save.put(f"lists/map-{number}/0", [bytes(50_000)])
            save.put(f"lists/kept/{number + 1}", [b"%d" % number])
            save.delete([f"lists/map-{number}/0"])
            assert bytes(reader.get("lists/kept/0")) == b"kept" * 100
        assert len(reader.list("lists/kept/")) == 401
        assert [bytes(reader.get(f"lists/kept/{number + 1}")) for number in range(400)] == [
            b"%d" % number for number in range(400)
        ]


# -- its directory --


def test_a_second_producer_in_another_process_is_refused(registry, directory, opened):
    opened()
    with pytest.raises(SaveVolumeBusyError):
        registry.open_save_volume(f"file://{directory}")


def test_a_directory_that_is_no_save_volume_is_left_alone(registry, directory):
    directory.mkdir()
    for producer in (True, False):
        with pytest.raises(NotFoundError):
            registry.open_save_volume(f"file://{directory}", producer=producer)
    assert list(directory.iterdir()) == []


def test_used_bytes_counts_whole_slots_until_they_are_free(opened):
    save = opened()
    assert save.used_bytes(Partition.AREAS) == 0
    save.put("areas/s/0", [bytes(100_000)])
    assert 100_000 < save.used_bytes(Partition.AREAS) < 120_000
    save.delete(["areas/s/0"])
    assert save.used_bytes(Partition.AREAS) == 0
