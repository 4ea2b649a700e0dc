"""What only a file can do: fail to sync, run full, write short, be a device or something else."""

import errno
import os
import subprocess

import pytest

from replkit.backends.file import syscalls
from replkit.backends.file.volume import FileVolume
from replkit.blocks.extent import Extent
from replkit.contracts.registry import VolumeOptions
from replkit.contracts.volume import Capability
from replkit.errors import InvalidArgumentError, NotFoundError, OutOfSpaceError, VolumeFailedError
from replkit.testing.volume_suite import BLOCK, block, read


@pytest.fixture
def url(tmp_path):
    return f"file://{tmp_path}/disk"


@pytest.fixture
def volume(url):
    with FileVolume.open(url, VolumeOptions(size_bytes=64 * BLOCK, create=True)) as volume:
        yield volume


def failing(code, times=1):
    """A system call that fails some times, and then would succeed."""
    left = [times]

    def call(*arguments):
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(code, os.strerror(code))

    return call


@pytest.mark.requirement("S5")
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_an_fsync_that_fails_once_and_then_succeeds_is_final(volume, url, monkeypatch, code):
    """Invariant 1: after a failed fsync the volume is poisoned until it is opened again."""
    volume.write(0, block(1))
    monkeypatch.setattr(os, "fdatasync", failing(code))
    with pytest.raises(VolumeFailedError, match="fdatasync"):
        volume.flush()
    for call in (
        volume.flush,
        lambda: volume.write(0, block(2)),
        lambda: volume.write_extents([(0, block(2)), (4, block(2))]),
        lambda: volume.discard(0, 1),
        lambda: volume.resize(BLOCK),
    ):
        with pytest.raises(VolumeFailedError, match="fdatasync"):
            call()
    with FileVolume.open(url, VolumeOptions()) as again:
        again.write(0, block(3))
        again.flush()


@pytest.mark.parametrize("name", ["pwrite", "pwritev"])
@pytest.mark.parametrize(("code", "expected"), [(errno.ENOSPC, OutOfSpaceError), (errno.EIO, VolumeFailedError)])
def test_a_failed_write_says_what_and_where(volume, monkeypatch, name, code, expected):
    monkeypatch.setattr(os, name, failing(code))
    with pytest.raises(expected, match="disk: writing"):
        volume.write_extents([(1, block(1))] if name == "pwrite" else [(1, block(1)), (2, block(1))])
    monkeypatch.undo()
    volume.write(1, block(2))
    assert read(volume, 1) == block(2)


def test_short_writes_and_reads_are_gone_on_with(volume, monkeypatch):
    pwritev, preadv = os.pwritev, os.preadv

    def short_write(fd, views, offset):
        return pwritev(fd, [views[0][: max(1, views[0].nbytes // 3)]], offset)

    def short_read(fd, views, offset):
        return preadv(fd, [views[0][: max(1, views[0].nbytes // 2)]], offset)

    monkeypatch.setattr(os, "pwritev", short_write)
    monkeypatch.setattr(os, "preadv", short_read)
    monkeypatch.setattr(os, "pwrite", lambda fd, view, offset: pwritev(fd, [view[:100]], offset))
    volume.write(1, block(1))
    volume.write_extents([(2, block(2)), (3, block(3, 2)), (60, block(4))])
    assert read(volume, 1, 4) == block(1) + block(2) + block(3, 2)
    assert read(volume, 60) == block(4)


def test_a_write_of_nothing_is_no_endless_loop(volume, monkeypatch):
    monkeypatch.setattr(os, "pwritev", lambda *arguments: 0)
    with pytest.raises(VolumeFailedError):
        volume.write_extents([(2, block(2)), (3, block(3))])


def test_where_holes_cannot_be_punched_zeros_are_written(volume, monkeypatch):
    volume.write(0, block(1, 64))
    monkeypatch.setattr(syscalls, "_fallocate", lambda *arguments: -1)
    monkeypatch.setattr(syscalls.ctypes, "get_errno", lambda: errno.EOPNOTSUPP)
    volume.discard(3, 2)
    assert read(volume, 2, 4) == block(1) + block(0, 2) + block(1)
    monkeypatch.setattr(syscalls.ctypes, "get_errno", lambda: errno.EIO)
    with pytest.raises(VolumeFailedError, match="discarding"):
        volume.discard(3, 2)


@pytest.mark.requirement("P2")
def test_a_discard_gives_space_back(volume, tmp_path):
    volume.write(0, block(1, 64))
    volume.flush()
    full = (tmp_path / "disk").stat().st_blocks
    volume.discard(0, 32)
    volume.flush()
    assert (tmp_path / "disk").stat().st_blocks <= full // 2
    assert list(volume.in_use()) == [Extent(32, 32)]


def test_where_the_system_cannot_tell_all_is_in_use(volume, monkeypatch):
    monkeypatch.setattr(os, "lseek", failing(errno.EINVAL, times=99))
    assert list(volume.in_use()) == [Extent(0, 64)]
    assert list(volume.in_use_between(3, 5)) == [Extent(3, 2)]
    monkeypatch.setattr(os, "lseek", failing(errno.EIO, times=99))
    with pytest.raises(VolumeFailedError):
        list(volume.in_use())


def test_a_file_cut_off_behind_our_back_is_noticed(volume, tmp_path):
    os.truncate(tmp_path / "disk", 10 * BLOCK)
    with pytest.raises(VolumeFailedError, match="before its size"):
        read(volume, 9, 3)
    assert read(volume, 9) == block(0)


def test_a_creation_that_was_cut_short_is_begun_again(registry, tmp_path):
    (tmp_path / "disk").touch()
    with registry.open_volume(f"file://{tmp_path}/disk", size_bytes=BLOCK, create=True) as volume:
        assert volume.size_bytes == BLOCK


def test_what_is_no_file_is_refused(registry, tmp_path):
    with pytest.raises((InvalidArgumentError, VolumeFailedError)):
        registry.open_volume(f"file://{tmp_path}")
    with pytest.raises(InvalidArgumentError, match="neither"):
        registry.open_volume("file:///dev/null")
    with pytest.raises(NotFoundError):
        registry.open_volume(f"file://{tmp_path}/absent/disk")
    with pytest.raises(InvalidArgumentError, match="size"):
        registry.open_volume(f"file://{tmp_path}/disk", create=True)
    with pytest.raises(VolumeFailedError, match="created"):
        registry.open_volume(f"file://{tmp_path}/absent/disk", size_bytes=BLOCK, create=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["file:relative", "file://host/path", "file:///x?y", "file:///x#y", "file:///", "file:///a%00"]
)
def test_what_names_no_file_is_refused(registry, url):
    with pytest.raises(InvalidArgumentError):
        registry.open_volume(url)


def test_a_new_volume_takes_no_space_whatever_its_size(registry, tmp_path):
    with registry.open_volume(f"file://{tmp_path}/disk", size_bytes=15 << 40, create=True) as volume:
        assert list(volume.in_use()) == []
        volume.write(volume.block_count - 1, block(1))
        assert list(volume.in_use()) == [Extent(volume.block_count - 1, 1)]
    assert (tmp_path / "disk").stat().st_blocks * 512 < 1 << 20


@pytest.mark.needs_root
@pytest.mark.needs_tool("losetup")
def test_a_block_device_is_a_volume(registry, tmp_path):
    (tmp_path / "image").write_bytes(bytes(64 * BLOCK))
    attached = subprocess.run(
        ["losetup", "-f", "--show", tmp_path / "image"], capture_output=True, text=True, check=False
    )
    if attached.returncode:
        pytest.skip(f"no loop device: {attached.stderr.strip()}")
    device = attached.stdout.strip()
    try:
        with registry.open_volume(f"file://{device}") as volume:
            assert (volume.block_count, volume.resizes) == (64, Capability.NONE)
            volume.write(0, block(1, 64))
            volume.discard(3, 2)
            volume.flush()
            assert read(volume, 2, 4) == block(1) + block(0, 2) + block(1)
            assert list(volume.in_use()) == [Extent(0, 64)]
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def test_an_fsync_that_fails_in_a_resize_is_final(volume, monkeypatch):
    """Invariant 1: its error is told once, so that a flush after it would succeed for lost data."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.EIO))
        with pytest.raises(VolumeFailedError):
            volume.resize(80 * BLOCK)
    with pytest.raises(VolumeFailedError):
        volume.flush()
