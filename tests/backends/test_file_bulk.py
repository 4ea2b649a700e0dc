"""Large writes of a file volume go past the page cache, and nobody but the clock can tell."""

import errno
import os
import threading

import pytest

from replkit.backends.file import bulk
from replkit.backends.file.bulk import STAGE_BYTES, BulkWriter
from replkit.backends.file.volume import FileVolume
from replkit.blocks.extent import Extent
from replkit.contracts.registry import VolumeOptions
from replkit.errors import OutOfSpaceError, VolumeFailedError

BLOCK = 4096
BLOCKS = 4096
LARGE = 1024
"""Blocks of 4 MiB."""


@pytest.fixture
def url(tmp_path):
    return f"file://{tmp_path}/disk"


@pytest.fixture
def volume(url):
    with FileVolume.open(url, VolumeOptions(size_bytes=BLOCKS * BLOCK, create=True)) as volume:
        yield volume


def content(volume, start, count):
    buffer = bytearray(count * BLOCK)
    volume.read_into(start, buffer)
    return bytes(buffer)


@pytest.fixture
def held(monkeypatch):
    """Bulk writes wait for this event."""
    go, write_full = threading.Event(), bulk.write_full

    def wait_and_write(*arguments):
        assert go.wait(30)
        return write_full(*arguments)

    monkeypatch.setattr(bulk, "write_full", wait_and_write)
    yield go
    go.set()


@pytest.mark.requirement("C1")
def test_a_large_write_is_read_back_at_once_and_from_another_opening_after_a_flush(volume, url):
    data = os.urandom(LARGE * BLOCK)
    volume.write(7, data)
    assert content(volume, 7, LARGE) == data
    volume.flush()
    with FileVolume.open(url, VolumeOptions(read_only=True)) as other:
        assert content(other, 7, LARGE) == data
        assert list(other.in_use()) == [Extent(7, LARGE)]


@pytest.mark.requirement("S5")
@pytest.mark.parametrize(
    "use",
    [
        lambda volume: volume.flush(),
        lambda volume: content(volume, 0, 1),
        lambda volume: volume.write(0, bytes(BLOCK)),
        lambda volume: volume.discard(0, 1),
        lambda volume: list(volume.in_use()),
        lambda volume: volume.resize(BLOCKS * BLOCK // 2),
    ],
)
def test_what_touches_the_blocks_of_a_bulk_write_waits_for_it(volume, held, use):
    volume.write(0, os.urandom(LARGE * BLOCK))
    user = threading.Thread(target=use, args=(volume,))
    user.start()
    user.join(0.05)
    assert user.is_alive()
    held.set()
    user.join(30)
    assert not user.is_alive()


def test_other_blocks_do_not_wait_and_later_writes_win(volume, held):
    volume.write(0, bytes([1]) * LARGE * BLOCK)
    volume.write(LARGE, bytes([2]) * BLOCK)
    assert content(volume, LARGE, 1) == bytes([2]) * BLOCK
    held.set()
    volume.write(5, bytes([3]) * BLOCK)
    volume.write(0, bytes([4]) * 2 * BLOCK)
    expected = bytes([4]) * 2 * BLOCK + bytes([1]) * 3 * BLOCK + bytes([3]) * BLOCK + bytes([1]) * BLOCK
    assert content(volume, 0, 7) == expected


def test_runs_of_many_buffers_and_of_more_than_the_stages_are_whole(volume):
    parts = [os.urandom(BLOCK * count) for count in (1, 2, 600, 3, 1500, 700)]
    writes, start = [], 3
    for part in parts:
        writes.append((start, part))
        start += len(part) // BLOCK
    volume.write_extents([(0, os.urandom(BLOCK)), *writes, (start + 1, b"x" * BLOCK)])
    volume.flush()
    assert content(volume, 3, start - 3) == b"".join(parts)
    assert content(volume, start, 2) == bytes(BLOCK) + b"x" * BLOCK
    assert sum(map(len, parts)) > 2 * STAGE_BYTES


def test_a_volume_that_ends_in_a_partial_block_takes_a_large_write_up_to_its_end(tmp_path):
    options = VolumeOptions(size_bytes=LARGE * BLOCK - 512, create=True)
    with FileVolume.open(f"file://{tmp_path}/odd", options) as volume:
        data = os.urandom(LARGE * BLOCK)
        volume.write(0, data)
        volume.flush()
        assert content(volume, 0, LARGE) == data[:-512] + bytes(512)


@pytest.mark.requirement("S5")
def test_a_bulk_write_that_fails_is_final(volume, monkeypatch):
    """Invariant 1: its caller was told that it completed, so no flush may succeed after it."""

    def fail(*_arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(bulk, "write_full", fail)
    volume.write(0, os.urandom(LARGE * BLOCK))
    for call in (volume.flush, volume.flush, lambda: volume.write(3000, bytes(BLOCK))):
        with pytest.raises(VolumeFailedError, match="Input/output error"):
            call()


def test_lack_of_space_is_reported_to_the_write_that_meets_it_and_may_pass(volume, monkeypatch):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("replkit.backends.file.volume.reserve", full)
        with pytest.raises(OutOfSpaceError):
            volume.write(0, os.urandom(LARGE * BLOCK))
    data = os.urandom(LARGE * BLOCK)
    volume.write(0, data)
    volume.flush()
    assert content(volume, 0, LARGE) == data


def test_closing_writes_what_was_taken_and_idleness_gives_the_memory_back(tmp_path, monkeypatch):
    monkeypatch.setattr(bulk, "_IDLE_S", 0.01)
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * STAGE_BYTES))
    fd = os.open(path, os.O_RDWR)
    writer = BulkWriter.open(fd)
    data = os.urandom(2 * STAGE_BYTES)
    assert writer.write([memoryview(data)], 0) is None
    thread = writer._thread
    if thread is not None:
        thread.join(30)
    assert writer._thread is None
    assert not writer._free
    assert writer.write([memoryview(data)[:BLOCK]], BLOCK) is None
    writer.close()
    assert path.read_bytes() == data[:BLOCK] + data[:BLOCK] + data[2 * BLOCK :]
    os.close(fd)
