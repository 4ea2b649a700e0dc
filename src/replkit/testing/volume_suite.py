"""Conformance suite for block volumes: subclass ``VolumeSuite``, define the fixture ``world``, and run pytest.

::

    class TestMyVolume(VolumeSuite):
        discards = Capability.NATIVE

        @pytest.fixture
        def world(self, registry, tmp_path):
            return VolumeWorld(registry=registry, url=f"mine:{tmp_path}/disk", peek=lambda at, size: ...)

Tests go through the registry, so the guard is part of what is tested. ``peek`` and ``poke`` are the oracle: they look
at the stored bytes without the backend. ``lose_power`` lets the machine crash. What the backend can do is declared by
the attributes of the class; a declaration that is not true fails.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from replkit.blocks.extent import Extent
from replkit.contracts.volume import BlockVolume, Capability
from replkit.errors import InvalidArgumentError, NotFoundError, ReadOnlyError, UnsupportedError
from replkit.testing.comparing import assert_bytes
from replkit.testing.volume_crashes import VolumeCrashes
from replkit.testing.worlds import VolumeWorld

BLOCK = 4096
BLOCKS = 300
TAIL_BYTES = 100
SIZE = (BLOCKS - 1) * BLOCK + TAIL_BYTES
"""The last block is partial."""


def block(value: int, count: int = 1) -> bytes:
    """Blocks that are filled with one value."""
    return bytes([value]) * (BLOCK * count)


def read(volume: BlockVolume, start: int, count: int = 1) -> bytes:
    """Blocks of a volume."""
    buffer = bytearray(b"\xaa") * (count * volume.block_size)
    volume.read_into(start, buffer)
    return bytes(buffer)


def used_blocks(volume: BlockVolume) -> set[int]:
    """Every block in ``in_use``."""
    return {number for extent in volume.in_use() for number in range(extent.start, extent.stop)}


class VolumeSuite(VolumeCrashes):
    """What every block volume must do (U1)."""

    discards = Capability.EMULATED
    tells_in_use = Capability.NONE
    resizes = Capability.NONE
    keeps_bytes = True
    """Whether another opener, after a close, meets the bytes again."""

    @pytest.fixture
    def volume(self, world: VolumeWorld) -> Any:
        """A new volume of ``SIZE`` bytes."""
        with world.open(size_bytes=SIZE, create=True) as volume:
            yield volume

    def test_capabilities_are_the_declared_ones(self, volume: BlockVolume) -> None:
        """Tri-state and never guessed."""
        for name in ("discards", "tells_in_use", "resizes"):
            declared, found = getattr(self, name), getattr(volume, name)
            assert found is declared, f"{name} is {found.name}, the suite declares {declared.name}"

    def test_an_absent_volume_is_not_found(self, world: VolumeWorld) -> None:
        """Only ``create`` makes one."""
        with pytest.raises(NotFoundError):
            world.open()

    def test_a_new_volume_has_the_size_asked_for_and_reads_as_zeros(self, volume: BlockVolume) -> None:
        """Also where the last block is partial."""
        assert (volume.size_bytes, volume.block_size, volume.block_count) == (SIZE, BLOCK, BLOCKS)
        assert_bytes(read(volume, 0, BLOCKS), bytes(BLOCKS * BLOCK))

    def test_a_write_is_read_back_and_disturbs_no_neighbour(self, volume: BlockVolume) -> None:
        """The basic promise."""
        volume.write(10, block(1, 3))
        volume.write(11, block(2))
        assert_bytes(read(volume, 9, 5), block(0) + block(1) + block(2) + block(1) + block(0))

    def test_the_stored_bytes_are_those_written(self, world: VolumeWorld, volume: BlockVolume) -> None:
        """Oracle: what lies in the store after a flush is what was written, where it was written."""
        if world.peek is None:
            pytest.skip("the world has no oracle")
        data = random.Random(1).randbytes(5 * BLOCK)
        volume.write(7, data)
        volume.flush()
        assert_bytes(world.peek(7 * BLOCK, len(data)), data, "after a flush the store does not hold what was written")
        assert_bytes(world.peek(6 * BLOCK, BLOCK), bytes(BLOCK))

    def test_bytes_changed_in_the_store_are_read(self, world: VolumeWorld, volume: BlockVolume) -> None:
        """Oracle, the other way: a read comes from the store, not from memory of writes."""
        if world.poke is None:
            pytest.skip("the world has no oracle")
        volume.write(3, block(1))
        volume.flush()
        world.poke(3 * BLOCK, b"changed")
        assert_bytes(read(volume, 3), b"changed" + block(1)[7:], "a read came from memory, not from the store")

    def test_the_bytes_beyond_the_end_read_as_zeros_and_are_dropped(self, volume: BlockVolume) -> None:
        """The partial last block."""
        volume.write(BLOCKS - 2, block(7, 2))
        volume.write_extents([(BLOCKS - 3, block(6)), (BLOCKS - 2, block(6)), (BLOCKS - 1, block(9))])
        last = read(volume, BLOCKS - 1)
        assert_bytes(last[:TAIL_BYTES], bytes([9]) * TAIL_BYTES)
        assert not any(last[TAIL_BYTES:]), "bytes beyond the end of the volume do not read as zeros"
        assert volume.size_bytes == SIZE

    def test_extents_are_read_and_written_like_single_runs(self, volume: BlockVolume) -> None:
        """Neighbours, gaps, and an order that is not ascending."""
        writes = [(20, block(1)), (21, block(2, 2)), (40, block(3)), (5, block(4))]
        volume.write_extents(writes)
        for start, data in writes:
            assert_bytes(
                read(volume, start, len(data) // BLOCK), data, f"write_extents lost its write at block {start}"
            )
        buffer = bytearray(6 * BLOCK)
        volume.read_extents([Extent(5, 1), Extent(20, 3), Extent(23, 1), Extent(40, 1)], buffer)
        assert_bytes(buffer, block(4) + block(1) + block(2, 2) + block(0) + block(3))

    def test_many_small_writes_in_one_call(self, volume: BlockVolume) -> None:
        """More parts than one system call takes."""
        data = random.Random(2).randbytes(BLOCKS * BLOCK)
        volume.write_extents([(number, data[number * BLOCK : (number + 1) * BLOCK]) for number in range(BLOCKS)])
        assert_bytes(read(volume, 0, BLOCKS)[:SIZE], data[:SIZE])

    def test_a_discarded_block_reads_as_zeros(self, volume: BlockVolume) -> None:
        """Everywhere, with and without native discard; the last block included."""
        volume.write(0, block(5, BLOCKS))
        volume.discard(1, 2)
        volume.discard(100, 150)
        volume.discard(BLOCKS - 1, 1)
        assert not any(read(volume, 1, 2)), "a discarded block does not read as zeros"
        assert_bytes(read(volume, 0, 4), block(5) + block(0, 2) + block(5))
        assert_bytes(read(volume, 99, 152), block(5) + block(0, 150) + block(5))
        assert_bytes(read(volume, BLOCKS - 2, 2), block(5) + block(0))

    def test_in_use_covers_what_was_written(self, volume: BlockVolume) -> None:
        """In doubt, in use."""
        volume.write(17, block(1))
        volume.write(200, block(1, 3))
        volume.write(BLOCKS - 1, block(1))
        volume.flush()
        missing = {17, 200, 201, 202, BLOCKS - 1} - used_blocks(volume)
        assert not missing, f"in_use leaves out blocks {sorted(missing)}, which hold data: every copy would lose them"
        for start, stop in ((0, 17), (17, 18), (16, 201), (201, 250), (250, BLOCKS), (5, 5)):
            part = {n for extent in volume.in_use_between(start, stop) for n in range(extent.start, extent.stop)}
            assert part == used_blocks(volume) & set(range(start, stop))

    def test_in_use_leaves_out_what_was_never_written_or_discarded(self, volume: BlockVolume) -> None:
        """Only where the backend says that it can tell."""
        if self.tells_in_use is not Capability.NATIVE:
            pytest.skip("the backend does not tell what is in use")
        volume.write(0, block(1, BLOCKS))
        volume.discard(64, 192)
        volume.flush()
        assert used_blocks(volume) <= set(range(64)) | set(range(256, BLOCKS))

    def test_flushed_writes_are_there_after_reopening(self, world: VolumeWorld, volume: BlockVolume) -> None:
        """Invariant 1 as far as a test without a crash can see it."""
        if not self.keeps_bytes:
            pytest.skip("the backend keeps nothing")
        volume.write(4, block(8))
        volume.flush()
        volume.close()
        with world.open() as again:
            assert again.size_bytes == SIZE
            assert_bytes(read(again, 4), block(8), "a flushed block is not there after a close")

    def test_another_size_is_refused(self, world: VolumeWorld, volume: BlockVolume) -> None:
        """A volume is not made smaller or larger by opening it."""
        volume.close()
        with pytest.raises(InvalidArgumentError):
            world.open(size_bytes=SIZE + BLOCK, create=True)

    def test_a_read_only_volume_refuses_changes(self, world: VolumeWorld, volume: BlockVolume) -> None:
        """And reads, at the same time as a writer."""
        volume.write(2, block(3))
        volume.flush()
        with world.open(read_only=True) as reader:
            assert reader.read_only
            assert_bytes(read(reader, 2), block(3))
            changes: list[Callable[[], None]] = [
                lambda: reader.write(2, block(4)),
                lambda: reader.write_extents([(2, block(4))]),
                lambda: reader.discard(2, 1),
                lambda: reader.resize(SIZE),
            ]
            for change in changes:
                with pytest.raises(ReadOnlyError):
                    change()
            reader.flush()
        assert_bytes(read(volume, 2), block(3))

    @pytest.mark.parametrize(
        ("start", "size"), [(-1, BLOCK), (BLOCKS, BLOCK), (BLOCKS - 1, 2 * BLOCK), (0, BLOCK + 1), (1 << 60, BLOCK)]
    )
    def test_what_is_outside_or_no_whole_block_is_refused(self, volume: BlockVolume, start: int, size: int) -> None:
        """Invariant 12; nothing changes."""
        calls: list[Callable[[], None]] = [
            lambda: volume.write(start, bytearray(size)),
            lambda: volume.read_into(start, bytearray(size)),
            lambda: volume.write_extents([(0, block(1)), (start, bytearray(size))]),
        ]
        for call in calls:
            with pytest.raises(InvalidArgumentError):
                call()
        assert_bytes(read(volume, 0), block(0))

    def test_resize(self, volume: BlockVolume) -> None:
        """Grown blocks read as zeros, also those that were cut off before."""
        if self.resizes is Capability.NONE:
            with pytest.raises(UnsupportedError):
                volume.resize(SIZE * 2)
            return
        volume.write(0, block(1, BLOCKS))
        volume.resize(10 * BLOCK + 1)
        assert volume.block_count == 11
        assert_bytes(read(volume, 10), b"\1" + bytes(BLOCK - 1))
        volume.resize(2 * SIZE)
        assert_bytes(read(volume, 9, 3), block(1) + b"\1" + bytes(2 * BLOCK - 1))
        volume.write(volume.block_count - 1, block(2))
        assert volume.size_bytes == 2 * SIZE

    def test_threads_on_disjoint_blocks_do_not_disturb_each_other(self, volume: BlockVolume) -> None:
        """Writers, discards and a flusher at the same time."""
        failures: list[BaseException] = []

        def work(lane: int) -> None:
            try:
                for turn in range(1, 20):
                    for number in range(lane, BLOCKS - 1, 4):
                        volume.write(number, block(turn))
                    volume.discard(lane, 1)
                    volume.flush()
                    assert all(read(volume, number) == block(turn) for number in range(lane + 4, BLOCKS - 1, 4))
            except BaseException as error:  # carried to the main thread
                failures.append(error)

        threads = [threading.Thread(target=work, args=(lane,)) for lane in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert_bytes(read(volume, 0, 5), block(0, 4) + block(19))

    @pytest.mark.parametrize("seed", range(5))
    def test_any_sequence_of_calls_equals_a_plain_image(self, volume: BlockVolume, seed: int) -> None:
        """Random writes and discards against a model that knows nothing of backends."""
        source = random.Random(seed)
        image = bytearray(BLOCKS * BLOCK)
        for _ in range(120):
            start = source.randrange(BLOCKS)
            count = min(source.choice((1, 1, 2, 17, 90)), BLOCKS - start)
            place = slice(start * BLOCK, (start + count) * BLOCK)
            if source.random() < 0.3:
                volume.discard(start, count)
                image[place] = bytes(count * BLOCK)
            else:
                image[place] = source.randbytes(count * BLOCK)
                volume.write(start, image[place])
            image[SIZE:] = bytes(len(image) - SIZE)
        assert_bytes(read(volume, 0, BLOCKS), image)
        nonzero = {number for number in range(BLOCKS) if any(image[number * BLOCK : (number + 1) * BLOCK])}
        assert used_blocks(volume) >= nonzero


__all__ = ["BLOCK", "BLOCKS", "SIZE", "VolumeSuite", "VolumeWorld", "block", "read", "used_blocks"]
