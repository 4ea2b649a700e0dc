"""The comparison of hashes finds exactly what differs, by few calls, and both sides hash at the same time (R4)."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from replkit.backends.memory.volume import MemoryVolume
from replkit.blocks.bitmap import PagedBitmap
from replkit.contracts.position import Epoch, Position
from replkit.errors import InvalidArgumentError, LinkClosedError
from replkit.recovery.comparison import COMPARE_BLOCKS, Comparison, when_waited_for
from replkit.recovery.hashes import block_hashes, range_hashes
from replkit.recovery.peer import Peer, Prepared

SIZE = 512
BLOCKS = 3 * COMPARE_BLOCKS + 37
STAMP = Position(Epoch(1, "a"), 1, "x")


class Other(Peer):
    """The snapshot of another site, and the calls that it answered."""

    def __init__(self, volume: MemoryVolume) -> None:
        super().__init__(lambda *_: ({}, b""), "disk")
        self.snapshot = volume
        self.calls: list[str] = []
        self.broken_calls = 0

    def hashes(
        self, snapshot: str, start: int, count: int, range_blocks: int, ranges: PagedBitmap | None = None
    ) -> bytes:
        self._called("hashes")
        return range_hashes(self.snapshot, start, count, range_blocks, ranges)

    def block_hashes(self, snapshot: str, start: int, blocks: PagedBitmap) -> bytes:
        self._called("block-hashes")
        return block_hashes(self.snapshot, start, blocks)

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.broken_calls:
            self.broken_calls -= 1
            raise LinkClosedError("the link broke")


class Two:
    """Two volumes that are equal but for some blocks."""

    def __init__(self, differing: list[int], blocks: int = BLOCKS) -> None:
        self.mine, theirs = (MemoryVolume(blocks * SIZE, block_size=SIZE) for _ in range(2))
        for block in range(0, blocks, 1000):
            for volume in (self.mine, theirs):
                volume.write(block, bytes([block % 250 + 1]) * SIZE)
        for block in differing:
            theirs.write(block, b"other" + bytes(SIZE - 5))
        self.peer = Other(theirs)

    def compare(self, blocks: PagedBitmap | None = None) -> Comparison:
        prepared = Prepared(snapshot="s", stamp=STAMP, block_count=self.peer.snapshot.block_count)
        return Comparison(prepared, self.mine.block_count, blocks)

    def run(self, comparison: Comparison) -> list[int]:
        while comparison.advance(self.mine, self.peer):
            pass
        return [block for run in comparison.differs.runs() for block in range(run.start, run.stop)]


def bitmap(blocks: list[int], count: int = BLOCKS) -> PagedBitmap:
    found = PagedBitmap(count)
    for block in blocks:
        found.add(block)
    return found


@pytest.mark.requirement("R4")
def test_what_differs_is_found_block_by_block_in_the_whole_volume() -> None:
    differing = [0, 15, 16, 777, COMPARE_BLOCKS - 1, COMPARE_BLOCKS, BLOCKS - 1]
    two = Two(differing)
    assert two.run(two.compare()) == differing


@pytest.mark.requirement("R4")
def test_of_blocks_in_doubt_only_those_that_differ_are_found_and_many_regions_share_a_call() -> None:
    two = Two([5, 300, 301, 20_000, 50_001, 90_000])
    doubt = bitmap([0, 300, 301, 302, 50_001])
    doubt.set_run(20_000, 256)
    for region in range(0, COMPARE_BLOCKS, 512):
        doubt.set_run(region + 400, 20)
    comparison = two.compare(doubt)
    assert two.run(comparison) == [300, 301, 20_000, 50_001]  # 5 and 90,000 differ, but are known to be sent or not
    assert two.peer.calls.count("hashes") == 2


@pytest.mark.requirement("R4")
def test_blocks_that_the_other_side_does_not_have_differ() -> None:
    two = Two([3], 100)
    two.mine = MemoryVolume(120 * SIZE, block_size=SIZE)
    for block in range(0, 100, 1000):
        two.mine.write(block, bytes([1]) * SIZE)
    assert two.run(two.compare()) == [3, *range(100, 120)]


@pytest.mark.requirement("R4")
def test_a_call_is_under_way_while_this_side_hashes_and_never_more_than_two() -> None:
    two = Two([1, COMPARE_BLOCKS + 1, 2 * COMPARE_BLOCKS + 1])
    waiting: list[str] = []
    most = 0

    def later(work: Callable[[], bytes]) -> Callable[[], bytes]:
        nonlocal most
        waiting.append("call")
        most = max(most, len(waiting))

        def wait() -> bytes:
            waiting.pop()
            return work()

        return wait

    prepared = Prepared(snapshot="s", stamp=STAMP, block_count=BLOCKS)
    comparison = Comparison(prepared, BLOCKS, None, later)
    assert comparison.advance(two.mine, two.peer)
    assert waiting == ["call"]  # the ranges of the next window
    assert len(two.run(comparison)) == 3
    assert most == 2
    assert not waiting


@pytest.mark.requirement("R4")
@pytest.mark.parametrize("after", range(6))
def test_after_a_broken_link_the_comparison_goes_on_and_misses_nothing(after: int) -> None:
    differing = [1, COMPARE_BLOCKS + 1, BLOCKS - 1]
    two = Two(differing)
    comparison = two.compare()
    while len(two.peer.calls) < after and comparison.advance(two.mine, two.peer):
        pass
    two.peer.broken_calls = 1
    with pytest.raises(LinkClosedError):
        two.run(comparison)
    assert two.run(comparison) == differing


def test_hashes_of_chosen_ranges_and_blocks_are_those_of_each_alone() -> None:
    chance = random.Random(4)
    volume = Two([*chance.sample(range(2000), 300)], 2000).peer.snapshot
    blocks = sorted(chance.sample(range(1990), 120))
    chosen = b"".join(range_hashes(volume, 10 + block, 1, 1) for block in blocks)
    assert block_hashes(volume, 10, bitmap(blocks, 1990)) == chosen
    ranges = [0, 3, 4, 124]
    chosen = b"".join(range_hashes(volume, 10 + 16 * one, min(16, 1990 - 16 * one), 16) for one in ranges)
    assert range_hashes(volume, 10, 1990, 16, bitmap(ranges, 125)) == chosen
    assert block_hashes(volume, 0, PagedBitmap(0)) == b""
    with pytest.raises(InvalidArgumentError):
        range_hashes(volume, 0, 1990, 16, PagedBitmap(124))
    with pytest.raises(InvalidArgumentError):
        block_hashes(volume, 11, bitmap(blocks, 1990))


def test_a_later_without_a_second_task_works_when_it_is_waited_for() -> None:
    done: list[int] = []
    wait = when_waited_for(lambda: bytes(done.append(1) or 1))
    assert not done
    assert wait() == b"\0"


@pytest.mark.requirement("R4")
def test_a_site_of_an_older_version_answers_for_all_ranges_and_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes no map with the call, as a later version may add arguments."""
    two = Two([0, 700, 5000, BLOCKS - 1])
    doubted = PagedBitmap(BLOCKS)
    for start in (600, 4900, 20_000):
        doubted.set_run(start, 200)
    monkeypatch.setattr(
        two.peer,
        "hashes",
        lambda _snapshot, start, count, size, _ranges: range_hashes(two.peer.snapshot, start, count, size),
    )
    assert two.run(two.compare(doubted)) == [700, 5000]
