"""The part of the suite of block volumes that is about crashes, other processes and what threads see of each other.

Each test needs a way around the backend that its world gives, or a capability that the suite declares.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Final

import pytest

from replkit.contracts.volume import BlockVolume, Capability
from replkit.testing.comparing import assert_bytes
from replkit.testing.worlds import VolumeWorld, run_all, run_and_kill

SECTOR: Final = 512
_BLOCK: Final = 4096
_BLOCKS: Final = 64
_SIZE: Final = _BLOCKS * _BLOCK
_CRASHES: Final = 12


class Ledger:
    """What was written, sector by sector: the last flushed value, and every one since."""

    def __init__(self) -> None:
        self.flushed = bytes(_SIZE)
        self.image = bytearray(_SIZE)
        self._later: dict[int, list[bytes]] = {}

    def wrote(self, start: int, data: bytes) -> None:
        """A write was made, or begun."""
        at = start * _BLOCK
        self.image[at : at + len(data)] = data
        for offset in range(0, len(data), SECTOR):
            self._later.setdefault((at + offset) // SECTOR, []).append(data[offset : offset + SECTOR])

    def flush(self) -> None:
        """A flush returned."""
        self.flushed = bytes(self.image)
        self._later.clear()

    def crashed(self, found: bytes) -> None:
        """What a crash left is allowed, and is durable from now on."""
        for sector in range(_SIZE // SECTOR):
            part = slice(sector * SECTOR, (sector + 1) * SECTOR)
            if found[part] != self.flushed[part] and found[part] not in self._later.get(sector, ()):
                pytest.fail(
                    f"after a power failure sector {sector} (block {sector * SECTOR // _BLOCK}) holds neither what the "
                    "last flush made durable nor anything written since"
                )
        self.image[:] = found
        self.flush()


def read_whole(volume: BlockVolume) -> bytes:
    """All of it."""
    buffer = bytearray(volume.block_count * volume.block_size)
    volume.read_into(0, buffer)
    return bytes(buffer)


class VolumeCrashes:
    """What holds after a crash, and between processes and threads."""

    resizes = Capability.NONE
    keeps_bytes = True
    between_processes = False
    """Whether another process that opens the URL meets the same bytes."""
    follows_writer = True
    """Whether a reader sees, after ``refresh``, what was flushed; else it stays at the state that it met."""
    plugins: tuple[str, ...] = ()
    """Modules that another process has to load first, where the backend has no entry point."""

    @pytest.mark.parametrize("seed", range(3))
    def test_a_power_failure_loses_nothing_that_was_flushed(self, world: VolumeWorld, seed: int) -> None:
        """Invariant 1, crash after crash, at any call: each sector holds its last flushed value or a later one."""
        if world.lose_power is None:
            pytest.skip("the world cannot lose power")
        chance, ledger = random.Random(seed), Ledger()
        world.open(size_bytes=_SIZE, create=True).close()
        for _ in range(_CRASHES):
            with world.open() as volume:
                for _ in range(chance.randrange(1, 12)):
                    self._change(volume, ledger, chance)
            world.lose_power()
            with world.open() as volume:
                ledger.crashed(read_whole(volume))
                used = {number for extent in volume.in_use() for number in range(extent.start, extent.stop)}
                holding = {n for n in range(_BLOCKS) if any(ledger.image[n * _BLOCK : (n + 1) * _BLOCK])}
                assert holding <= used, f"after a power failure in_use leaves out blocks {sorted(holding - used)[:10]}"

    @staticmethod
    def _change(volume: BlockVolume, ledger: Ledger, chance: random.Random) -> None:
        count = chance.choice((1, 2, 7))
        start = chance.randrange(_BLOCKS - 2 * count)
        what = chance.randrange(5)
        if what == 0:
            volume.flush()
            ledger.flush()
        elif what == 1:
            volume.discard(start, count)
            ledger.wrote(start, bytes(count * _BLOCK))
        elif what == 2:
            writes = [(start, chance.randbytes(_BLOCK)), (start + count, chance.randbytes(count * _BLOCK))]
            volume.write_extents(writes)
            for place, data in writes:
                ledger.wrote(place, data)
        else:
            data = chance.randbytes(count * _BLOCK)
            volume.write(start, data)
            ledger.wrote(start, data)

    def test_a_flush_covers_what_other_threads_wrote_before_it(self, world: VolumeWorld) -> None:
        """Invariant 1: all writes that completed before the call, whoever made them."""
        if world.lose_power is None:
            pytest.skip("the world cannot lose power")
        with world.open(size_bytes=_SIZE, create=True) as volume:

            def work(lane: int) -> None:
                for number in range(lane, _BLOCKS, 4):
                    volume.write(number, bytes([lane + 1]) * _BLOCK)

            run_all(*(partial(work, lane) for lane in range(4)))
            volume.flush()
        world.lose_power()
        with world.open() as volume:
            found = read_whole(volume)
        lost = [n for n in range(_BLOCKS) if found[n * _BLOCK : (n + 1) * _BLOCK] != bytes([n % 4 + 1]) * _BLOCK]
        assert not lost, f"blocks {lost[:10]} were written by other threads before the flush, and are lost"

    def test_a_process_that_dies_loses_nothing_that_it_flushed(self, world: VolumeWorld) -> None:
        """And what it had not flushed is old or new in each sector."""
        if not self.between_processes:
            pytest.skip("the backend is not declared to be between_processes")
        code = (
            f"volume = registry.open_volume(url, size_bytes={_SIZE}, create=True)\n"
            f"volume.write(3, b'f' * {2 * _BLOCK})\nvolume.flush()\nvolume.write(4, b'u' * {2 * _BLOCK})"
        )
        run_and_kill(code, world.url, self.plugins)
        with world.open() as volume:
            found = read_whole(volume)
        assert_bytes(
            found[3 * _BLOCK : 4 * _BLOCK], b"f" * _BLOCK, "a process flushed block 3 and died: block 3 is lost"
        )
        for at in range(4 * _BLOCK, 6 * _BLOCK, SECTOR):
            allowed = (b"u" * SECTOR, (b"f" if at < 5 * _BLOCK else b"\0") * SECTOR)
            assert found[at : at + SECTOR] in allowed, f"sector {at // SECTOR} is neither what was flushed nor later"

    def test_a_reader_sees_what_was_flushed_before_its_refresh(self, world: VolumeWorld) -> None:
        """Another opener, in this process."""
        if not self.keeps_bytes:
            pytest.skip("the backend keeps nothing")
        with world.open(size_bytes=_SIZE, create=True) as volume, world.open(read_only=True) as reader:
            for turn in range(1, 4):
                before = read_whole(reader)
                volume.write(turn, bytes([turn]) * _BLOCK)
                volume.flush()
                reader.refresh()
                if self.follows_writer:
                    assert_bytes(read_whole(reader), read_whole(volume), f"turn {turn}: a reader lags behind a flush")
                else:
                    assert_bytes(read_whole(reader), before, "a reader that stays at its state has moved")

    def test_a_resize_is_there_after_reopening(self, world: VolumeWorld) -> None:
        """Durable, and so is what the volume held."""
        if not self.keeps_bytes or self.resizes is Capability.NONE:
            pytest.skip("the backend keeps nothing, or cannot be resized")
        with world.open(size_bytes=_SIZE, create=True) as volume:
            volume.write(1, b"k" * _BLOCK)
            volume.flush()
            volume.resize(2 * _SIZE)
        with world.open() as volume:
            assert volume.size_bytes == 2 * _SIZE, "a resize was forgotten by a close"
            assert_bytes(read_whole(volume), bytes(_BLOCK) + b"k" * _BLOCK + bytes(2 * _SIZE - 2 * _BLOCK))

    def test_batches_of_threads_do_not_disturb_each_other(self, world: VolumeWorld) -> None:
        """The hot call, on blocks that lie between each other's, with readers beside."""
        with world.open(size_bytes=_SIZE, create=True) as volume:

            def work(lane: int) -> None:
                for turn in range(1, 15):
                    data = bytes([16 * lane + turn]) * _BLOCK
                    volume.write_extents([(number, data) for number in range(lane, _BLOCKS, 4)])
                    for number in range(lane, _BLOCKS, 4):
                        block = bytearray(_BLOCK)
                        volume.read_into(number, block)
                        assert_bytes(block, data, f"block {number} of thread {lane} does not hold what it wrote last")

            run_all(*(partial(work, lane) for lane in range(4)))
