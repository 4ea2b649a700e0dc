"""An NBD export as a volume, whoever serves it."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
from replkit_nbd import NbdVolume
from replkit_nbd.wire import parse_url

from replkit.blocks.extent import Extent
from replkit.contracts.registry import Registry, VolumeOptions
from replkit.contracts.volume import Capability
from replkit.errors import (
    InvalidArgumentError,
    NotFoundError,
    OutOfSpaceError,
    ReadOnlyError,
    UnsupportedError,
    VolumeFailedError,
)
from replkit.site.nbd import Export, NbdServer

pytestmark = pytest.mark.requirement("U1")
MIB = 1 << 20


def read(volume: NbdVolume, start: int, count: int) -> bytes:
    buffer = bytearray(count * volume.block_size)
    volume.read_into(start, buffer)
    return bytes(buffer)


def test_random_calls_agree_with_a_plain_image(served, opened):
    volume, rng = opened(served(4 * MIB)), random.Random(4)
    image = bytearray(4 * MIB)
    for _ in range(150):
        count = rng.randrange(1, 60)
        start = rng.randrange(volume.block_count - count)
        place = slice(start * 4096, (start + count) * 4096)
        if rng.random() < 0.2:
            volume.discard(start, count)
            image[place] = bytes(count * 4096)
        elif rng.random() < 0.5:
            data = rng.randbytes(count * 4096)
            volume.write(start, data)
            image[place] = data
        else:
            assert read(volume, start, count) == image[place]
    volume.flush()
    assert read(volume, 0, volume.block_count) == image


def test_many_writes_and_reads_are_pipelined(served, opened):
    volume = opened(served(4 * MIB))
    volume.write_extents([(block, bytes([block % 251 + 1]) * 4096) for block in range(0, 1000, 2)])
    buffer = bytearray(300 * 4096)
    volume.read_extents([Extent(block, 1) for block in range(0, 600, 2)], buffer)
    assert [buffer[i * 4096] for i in range(300)] == [block % 251 + 1 for block in range(0, 600, 2)]


def test_more_than_one_request_can_carry_goes_in_pieces(served, opened):
    volume = opened(served(40 * MIB))
    data = random.Random(1).randbytes(MIB) * 36
    volume.write(3, data)
    assert read(volume, 3, 36 * 256) == data


def test_in_use_covers_what_was_written(served, opened):
    volume = opened(served(16 * MIB))
    volume.write(1024, b"x" * MIB)
    volume.flush()
    assert volume.tells_in_use is Capability.NATIVE
    used = {block for extent in volume.in_use() for block in range(extent.start, extent.stop)}
    assert used >= set(range(1024, 1280))
    assert len(used) < 2048
    assert list(volume.in_use_between(1100, 1101)) == [Extent(1100, 1)]
    assert list(volume.in_use_between(3000, 4000)) == []


def test_a_partial_last_block_is_padded(tmp_path: Path, opened):
    registry = Registry()
    under = registry.open_volume(f"file://{tmp_path}/disk", size_bytes=MIB + 1000, create=True)
    server = NbdServer({"disk": Export(volume=under)}, "127.0.0.1:0")
    server.start()
    try:
        volume = opened(f"nbd://{server.address}/disk")
        assert volume.block_count == 257
        volume.write(255, b"y" * 8192)
        assert read(volume, 255, 2) == b"y" * 5096 + bytes(3096)
        volume.discard(256, 1)
        assert read(volume, 255, 2) == b"y" * 4096 + bytes(4096)
    finally:
        server.stop()
        under.close()


def test_threads_share_the_volume(served, opened):
    volume = opened(served(4 * MIB))

    def work(part: int) -> None:
        for block in range(part, 400, 8):
            volume.write(block, bytes([part + 1]) * 4096)
            assert read(volume, block, 1) == bytes([part + 1]) * 4096

    threads = [threading.Thread(target=work, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(volume, 0, 400)[::4096] == bytes(block % 8 + 1 for block in range(400))


def test_the_registry_opens_both_schemes_by_their_entry_points(tmp_path: Path):
    registry = Registry()
    under = registry.open_volume(f"file://{tmp_path}/disk", size_bytes=MIB, create=True)
    by_tcp = NbdServer({"disk": Export(volume=under)}, "127.0.0.1:0")
    by_path = NbdServer({"a b": Export(volume=under)}, f"unix:{tmp_path}/s")
    by_tcp.start()
    by_path.start()
    try:
        with registry.open_volume(f"nbd+unix:///a%20b?socket={tmp_path}/s") as volume:
            volume.write(0, b"v" * 4096)
        with registry.open_volume(f"nbd://{by_tcp.address}/disk") as volume:
            buffer = bytearray(4096)
            volume.read_into(0, buffer)
        assert buffer == b"v" * 4096
    finally:
        by_tcp.stop()
        by_path.stop()
        under.close()


@pytest.mark.parametrize(
    "url",
    [
        "nbd:///disk",
        "nbd://host:port/x",
        "nbd+unix:///disk",
        "nbd+unix://host/disk?socket=/s",
        "http://host/x",
        "nbd://h/" + "x" * 5000,
    ],
)
def test_a_malformed_url_is_refused(url):
    with pytest.raises(InvalidArgumentError):
        parse_url(url)


def test_what_is_not_there_is_not_found(tmp_path: Path, served):
    with pytest.raises(NotFoundError):
        NbdVolume.open(f"nbd+unix:///x?socket={tmp_path}/nobody", VolumeOptions())
    url = served(MIB)
    if "/disk" in url:  # nbdkit takes any name
        with pytest.raises(NotFoundError, match="nobody"):
            NbdVolume.open(url.replace("/disk?", "/nobody?"), VolumeOptions())


class TestAgainstOurServer:
    @pytest.fixture
    def disk(self, tmp_path: Path):
        """``(server, volume under it, url)``; the volume is the naked one, so that faults can be planted."""
        from replkit.backends.memory import MemoryVolume, forget

        forget("nbd-plugin")
        under = MemoryVolume.open("memory:nbd-plugin", VolumeOptions(size_bytes=MIB, create=True))
        server = NbdServer({"disk": Export(volume=under)}, f"unix:{tmp_path}/s", on_error=lambda what, error: None)
        server.start()
        yield server, under, f"nbd+unix:///disk?socket={tmp_path}/s"
        server.stop()
        forget("nbd-plugin")

    def test_a_full_disk_is_told_as_such_and_the_volume_goes_on(self, disk, opened, monkeypatch):
        _, under, url = disk
        volume = opened(url)
        monkeypatch.setattr(under, "write_extents", lambda writes: (_ for _ in ()).throw(OutOfSpaceError("full")))
        monkeypatch.setattr(under, "write", lambda start, data: (_ for _ in ()).throw(OutOfSpaceError("full")))
        with pytest.raises(OutOfSpaceError, match="full"):
            volume.write(0, bytes(4096))
        assert read(volume, 0, 1) == bytes(4096)

    def test_a_failed_flush_is_final(self, disk, opened, monkeypatch):
        _, under, url = disk
        volume = opened(url)
        monkeypatch.setattr(under, "flush", lambda: (_ for _ in ()).throw(VolumeFailedError("disk gone")))
        with pytest.raises(VolumeFailedError, match="disk gone"):
            volume.flush()
        monkeypatch.undo()
        for call in (volume.flush, lambda: volume.write(0, bytes(4096))):
            with pytest.raises(VolumeFailedError, match="a flush failed"):
                call()
        opened(url).flush()

    def test_a_lost_server_fails_the_volume_until_it_is_opened_again(self, disk, opened):
        server, _, url = disk
        volume = opened(url)
        server.stop()
        server.start()
        for _ in range(2):
            with pytest.raises(VolumeFailedError, match="broke"):
                volume.write(0, bytes(4096))
        opened(url).write(0, bytes(4096))

    def test_a_read_only_export_opens_for_reading_only(self, disk, opened):
        server, under, url = disk
        server.add_export("ro", Export(volume=under, read_only=True))
        url = url.replace("/disk", "/ro")
        with pytest.raises(ReadOnlyError):
            opened(url)
        volume = opened(url, read_only=True)
        with pytest.raises(ReadOnlyError):
            volume.write(0, bytes(4096))
        with pytest.raises(ReadOnlyError):
            volume.discard(0, 1)

    def test_another_size_than_asked_for_is_refused(self, disk, opened):
        with pytest.raises(InvalidArgumentError, match="1048576"):
            opened(disk[2], size_bytes=4096)

    def test_resize_is_not_offered(self, disk, opened):
        with pytest.raises(UnsupportedError):
            opened(disk[2]).resize(2 * MIB)
