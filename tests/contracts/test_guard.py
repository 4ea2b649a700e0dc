"""The guard checks arguments before, and results after, each call of a backend."""

import errno

import pytest

from replkit.backends.memory import MemorySaveVolume, MemoryVolume
from replkit.blocks.extent import Extent
from replkit.contracts.guard import GuardedSaveVolume, GuardedVolume
from replkit.contracts.savevolume import CellValue, Partition, SaveVolume
from replkit.contracts.volume import BlockVolume
from replkit.errors import (
    CorruptRecordError,
    InvalidArgumentError,
    NotFoundError,
    OutOfSpaceError,
    ReadOnlyError,
    SaveVolumeFailedError,
    SaveVolumeFullError,
    VolumeFailedError,
)

BLOCK = 4096


class Odd(MemoryVolume):
    """A backend that does as it is told by a test."""

    extents = (Extent(0, 1),)
    error = None
    resized_to = None

    def write_extents(self, writes):
        if self.error:
            raise self.error
        super().write_extents(writes)

    def flush(self):
        if self.error:
            raise self.error

    def in_use(self):
        yield from self.extents

    def resize(self, size_bytes):
        super().resize(self.resized_to or size_bytes)


@pytest.fixture
def odd():
    return Odd(8 * BLOCK)


@pytest.fixture
def volume(odd):
    return GuardedVolume(odd, "odd:disk")


@pytest.mark.parametrize(
    "extents",
    [
        (Extent(2, 1), Extent(1, 1)),
        (Extent(1, 2), Extent(2, 1)),
        (Extent(1, 0),),
        (Extent(7, 2),),
        (Extent(-1, 1),),
    ],
)
def test_extents_that_are_not_ascending_disjoint_and_inside_are_refused(odd, volume, extents):
    odd.extents = extents
    with pytest.raises(VolumeFailedError, match="odd:disk"):
        list(volume.in_use())


@pytest.mark.requirement("U1")
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "full"), OutOfSpaceError),
        (OSError(errno.EDQUOT, "full"), OutOfSpaceError),
        (OSError(errno.EIO, "broken"), VolumeFailedError),
        (ZeroDivisionError("bug"), VolumeFailedError),
        (NotFoundError("typed"), NotFoundError),
    ],
)
def test_whatever_a_backend_raises_comes_out_typed(odd, volume, error, expected):
    odd.error = error
    with pytest.raises(expected):
        volume.write_extents([(0, bytes(BLOCK))])


def test_a_failed_flush_poisons_the_volume_for_good(odd, volume):
    """Invariant 1: the second fsync after a failed one may report success for lost data."""
    odd.error = OSError(errno.EIO, "broken")
    with pytest.raises(VolumeFailedError):
        volume.flush()
    odd.error = None
    for call in (
        volume.flush,
        lambda: volume.write(0, bytes(BLOCK)),
        lambda: volume.write_extents([(0, bytes(BLOCK))]),
        lambda: volume.discard(0, 1),
        lambda: volume.resize(BLOCK),
    ):
        with pytest.raises(VolumeFailedError, match="broken"):
            call()
    volume.read_into(0, bytearray(BLOCK))


def test_writes_of_one_call_must_not_overlap(volume):
    with pytest.raises(InvalidArgumentError, match="overlap"):
        volume.write_extents([(3, bytes(2 * BLOCK)), (0, bytes(BLOCK)), (4, bytes(BLOCK))])


@pytest.mark.parametrize(
    "call",
    [
        lambda v: v.read_into(0, bytes(BLOCK)),
        lambda v: v.read_into(0, memoryview(bytearray(2 * BLOCK))[::2]),
        lambda v: v.read_extents([Extent(0, 2)], bytearray(BLOCK)),
        lambda v: v.read_extents([Extent(0, 1)], bytes(BLOCK)),
        lambda v: v.read_extents([Extent(7, 2)], bytearray(2 * BLOCK)),
        lambda v: v.read_extents([Extent(1, -1), Extent(1, 2)], bytearray(BLOCK)),
        lambda v: v.discard(7, 2),
        lambda v: v.discard(3, -1),
        lambda v: v.resize(-1),
    ],
)
def test_arguments_that_cannot_be_are_refused(volume, call):
    with pytest.raises(InvalidArgumentError, match="odd:disk"):
        call(volume)


def test_calls_for_nothing_do_nothing(volume):
    volume.write(8, b"")
    volume.read_into(8, bytearray())
    volume.read_extents([], bytearray())
    volume.write_extents([])
    volume.discard(8, 0)


def test_a_resize_that_did_something_else_is_refused(odd, volume):
    odd.resized_to = BLOCK
    with pytest.raises(VolumeFailedError, match="resize"):
        volume.resize(2 * BLOCK)


@pytest.mark.parametrize(("contract", "guard"), [(BlockVolume, GuardedVolume), (SaveVolume, GuardedSaveVolume)])
def test_every_call_of_a_contract_reaches_the_backend(contract, guard):
    """A default that the guard inherits would hide what the backend does instead."""
    calls = {name for name, value in vars(contract).items() if callable(value) and not name.startswith("_")}
    assert calls - set(vars(guard)) == set()


def test_an_empty_part_of_a_volume_has_nothing_in_use():
    class Plain(Odd):
        in_use_between = BlockVolume.in_use_between  # the default, as a backend that does not tell has it
        extents = (Extent(0, 8),)

    plain = GuardedVolume(Plain(8 * BLOCK), "plain:disk")
    assert list(plain.in_use_between(5, 5)) == []
    assert list(plain.in_use_between(2, 5)) == [Extent(2, 3)]


def test_a_refresh_takes_what_another_process_changed(odd, volume):
    odd.refresh = lambda: MemoryVolume.resize(odd, 16 * BLOCK)
    volume.refresh()
    assert volume.block_count == 16
    volume.write(15, bytes(BLOCK))
    volume.close()
    with pytest.raises(InvalidArgumentError):
        volume.refresh()


def test_a_closed_volume_is_not_used_again(volume):
    volume.close()
    volume.close()
    for call in (volume.flush, lambda: volume.read_into(0, bytearray(BLOCK)), lambda: volume.write(0, bytes(BLOCK))):
        with pytest.raises(InvalidArgumentError, match="closed"):
            call()


def test_a_volume_that_cannot_be_is_refused_when_it_is_opened():
    for volume in (MemoryVolume(4096, block_size=1000), MemoryVolume(-1)):
        with pytest.raises(VolumeFailedError):
            GuardedVolume(volume, "odd:disk")


class OddSave(MemorySaveVolume):
    """A save volume that answers as a test wants."""

    answers = {}  # noqa: RUF012 - a test replaces it
    error = None

    def get(self, key, start=0, stop=None):
        return self.answers.get("get", super().get(key, start, stop))

    def list(self, prefix):
        return self.answers.get("list", super().list(prefix))

    def swap(self, cell, value, expected_version):
        return self.answers.get("swap", super().swap(cell, value, expected_version))

    def put(self, key, parts):
        if self.error:
            raise self.error
        super().put(key, parts)

    def sync(self):
        if self.error:
            raise self.error


@pytest.fixture
def odd_save():
    return OddSave()


@pytest.fixture
def save(odd_save):
    return GuardedSaveVolume(odd_save, "odd:save")


def test_a_short_answer_is_not_taken_for_the_whole(odd_save, save):
    save.put("sets/a/0", [b"0123456789"])
    odd_save.answers = {"get": memoryview(b"012")}
    with pytest.raises(CorruptRecordError, match="sets/a/0"):
        save.get("sets/a/0", 0, 5)


@pytest.mark.parametrize("names", [["sets/b", "sets/a"], ["sets/a", "sets/a"], ["lists/a"]])
def test_a_listing_that_is_not_sorted_or_does_not_fit_is_refused(odd_save, save, names):
    odd_save.answers = {"list": names}
    with pytest.raises(SaveVolumeFailedError, match="odd:save"):
        save.list("sets/")


def test_a_swap_that_returns_another_version_is_refused(odd_save, save):
    odd_save.answers = {"swap": 7}
    with pytest.raises(SaveVolumeFailedError, match="root"):
        save.swap("root", b"x", 0)


@pytest.mark.parametrize("version", [-1])
def test_a_version_that_cannot_be_is_refused(save, version):
    with pytest.raises(InvalidArgumentError):
        save.swap("root", b"x", version)


def test_a_cell_has_a_limit(save):
    with pytest.raises(InvalidArgumentError):
        save.swap("root", bytes((16 << 20) + 1), 0)
    assert save.load("root") == CellValue(b"", 0)


@pytest.mark.requirement("S1")
def test_a_failed_sync_poisons_the_save_volume_and_stops_publication(odd_save, save):
    """Invariant 1: a swap after it could publish records that are lost."""
    odd_save.error = OSError(errno.EIO, "broken")
    with pytest.raises(SaveVolumeFailedError):
        save.sync()
    odd_save.error = None
    for call in (
        save.sync,
        lambda: save.put("sets/a/0", [b"x"]),
        lambda: save.delete(["sets/a/0"]),
        lambda: save.swap("root", b"x", 0),
    ):
        with pytest.raises(SaveVolumeFailedError, match="broken"):
            call()
    assert save.load("root").version == 0


def test_a_full_disk_under_a_save_volume_is_a_full_save_volume(odd_save, save):
    odd_save.error = OSError(errno.ENOSPC, "full")
    with pytest.raises(SaveVolumeFullError):
        save.put("sets/a/0", [b"x"])


@pytest.mark.parametrize("parts", [b"abc", bytearray(b"abc"), memoryview(b"abc")])
def test_one_buffer_instead_of_a_sequence_is_a_mistake(save, parts):
    with pytest.raises(InvalidArgumentError, match="sequence"):
        save.put("sets/a/0", parts)
    with pytest.raises(InvalidArgumentError, match="string"):
        save.delete("sets/a/0")


def test_a_closed_save_volume_is_not_used_again(save):
    save.close()
    for call in (lambda: save.list(""), lambda: save.load("root"), save.sync, lambda: save.used_bytes(Partition.SETS)):
        with pytest.raises(InvalidArgumentError, match="closed"):
            call()


def test_a_reader_is_refused_by_the_guard_too(odd_save):
    with pytest.raises(ReadOnlyError):
        GuardedSaveVolume(odd_save.reader(), "odd:save").put("sets/a/0", [b"x"])
