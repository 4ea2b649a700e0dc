"""A store may not say whether a swap was made: it is looked up then, and nobody takes its own for another's (R9)."""

from __future__ import annotations

import msgspec
import pytest

from replkit.errors import CutAbandonedError, FencedError, StoreUnavailableError, SwapConflictError
from replkit.replication.cells import CUTS, SetHistory
from replkit.replication.policy import load_policy
from replkit.replication.root import RootCell, StructCell, read_root
from replkit.snapshot.owned import OwnedCell
from replkit.testing.crashing import CrashSaveVolume, Power
from replkit.testing.runtime import ManualRuntime
from replkit.testing.sim.machines import BLOCK_SIZE
from replkit.testing.sim.world import World


class Doubtful(CrashSaveVolume):
    """A swap is answered by nothing, made or not, as often as asked."""

    is_made = True
    doubts = 0

    def swap(self, cell: str, value: bytes, expected_version: int) -> int:
        if not self.doubts:
            return super().swap(cell, value, expected_version)
        self.doubts -= 1
        if self.is_made:
            super().swap(cell, value, expected_version)
        raise StoreUnavailableError(f"no answer to the swap of {cell}")


@pytest.fixture(params=[True, False], ids=["made", "not made"])
def save(request: pytest.FixtureRequest) -> Doubtful:
    save = Doubtful(Power())
    save.is_made = request.param
    return save


@pytest.mark.requirement("R9", "S1")
def test_a_cell_goes_on_after_a_swap_in_doubt(save: Doubtful) -> None:
    cell = OwnedCell(save, "mine")
    cell.swap(b"1")
    save.doubts = 1
    with pytest.raises(StoreUnavailableError):
        cell.swap(b"2")
    cell.swap_or_fence(b"3")
    assert save.load("mine").value == b"3"


@pytest.mark.requirement("R9")
def test_a_cell_that_another_one_took_meanwhile_is_not_taken_back(save: Doubtful) -> None:
    cell = OwnedCell(save, "mine")
    cell.swap(b"1")
    save.doubts = 1
    with pytest.raises(StoreUnavailableError):
        cell.swap(b"2")
    other = OwnedCell(save, "mine")
    other.swap(b"theirs")
    with pytest.raises((FencedError, SwapConflictError)):
        cell.swap_or_fence(b"3")
    assert save.load("mine").value == b"theirs"


@pytest.mark.requirement("S1")
def test_a_struct_says_what_its_cell_has(save: Doubtful) -> None:
    cell = StructCell(save, CUTS, SetHistory)
    cell.set(SetHistory())
    save.doubts = 1
    with pytest.raises(StoreUnavailableError):
        cell.set(SetHistory(sets=()))
    assert msgspec.json.encode(cell.get()) == save.load(CUTS).value


@pytest.mark.requirement("R9")
def test_a_root_shows_what_is_durable_after_a_swap_in_doubt(save: Doubtful) -> None:
    """Invariant 13: neither more nor less."""
    root = RootCell.claim(save, ManualRuntime(), "primary")
    save.doubts = 1
    with pytest.raises(StoreUnavailableError):
        root.mutate(lambda now: msgspec.structs.replace(now, first_kept=7))
    assert root.get() == read_root(save)
    assert (root.get().first_kept == 7) == save.is_made
    assert root.mutate(lambda now: msgspec.structs.replace(now, first_kept=8)) == read_root(save)


@pytest.mark.requirement("R9")
def test_a_root_that_another_one_took_stays_lost(save: Doubtful) -> None:
    root = RootCell.claim(save, ManualRuntime(), "primary")
    save.doubts = 1
    with pytest.raises(StoreUnavailableError):
        root.mutate(lambda now: msgspec.structs.replace(now, first_kept=7))
    other = RootCell.claim(save, ManualRuntime(seed=2), "primary")
    with pytest.raises(FencedError):
        root.mutate(lambda now: msgspec.structs.replace(now, first_kept=9))
    assert read_root(save) == other.get()


@pytest.mark.requirement("D3", "R9")
def test_a_set_whose_position_is_taken_by_one_that_was_in_doubt_is_abandoned() -> None:
    """Invariant 5: a late commit came through while this cut was under way; one position never has two contents."""
    world = World()
    world.write(0, b"a" * BLOCK_SIZE)
    primary = world.primary.replica
    first = primary.cut()
    world.write(1, b"b" * BLOCK_SIZE)
    cut = primary.cutter._begin(load_policy(world.primary.save), None, ())
    while cut.advance(8):
        pass
    late = msgspec.structs.replace(first, number=first.number + 1, identity="late")
    primary.parts.root.mutate(lambda now: msgspec.structs.replace(now, last=late))
    with pytest.raises(CutAbandonedError, match=f"position {late.number} is taken"):
        cut.commit()
    cut.abandon()
    assert primary.root.last == late
    assert primary.volume.dirty_blocks == 1
