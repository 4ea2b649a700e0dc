"""What the cutter does with errors that nobody foresaw."""

from __future__ import annotations

import pytest

from replkit.errors import CorruptRecordError, CutAbandonedError, SaveVolumeFullError
from replkit.replication import cutter as cutter_module
from replkit.replication.cells import CUTS, SetHistory
from replkit.replication.cut import Cut
from replkit.replication.root import load_struct
from replkit.replication.set_writer import SetWriter
from replkit.testing.sim.machines import BLOCK_SIZE
from replkit.testing.sim.world import World


@pytest.mark.requirement("D1")
def test_a_cut_whose_chunk_failed_in_an_unforeseen_way_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 2: the blocks that were read for the chunk must not be missing from the set."""
    world = World(secondaries=0)
    world.write(3, b"a" * BLOCK_SIZE)
    primary = world.primary.replica
    with monkeypatch.context() as patch:
        patch.setattr(SetWriter, "add", lambda *_: (_ for _ in ()).throw(MemoryError("no memory")))
        with pytest.raises(MemoryError):
            primary.cut()
    assert not primary.cutter.is_cutting
    assert primary.volume.dirty_blocks >= 1
    primary.cut()
    assert primary.cutter.status()["history"][-1]["blocks"] >= 1  # type: ignore[index]


@pytest.mark.requirement("D1")
def test_a_cut_that_could_not_begin_its_set_does_not_stay_open(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(secondaries=0)
    world.write(3, b"a" * BLOCK_SIZE)
    primary = world.primary.replica

    def fail(*_: object, **__: object) -> Cut:
        raise CorruptRecordError("a header is damaged")

    with monkeypatch.context() as patch:
        patch.setattr(cutter_module, "Cut", fail)
        with pytest.raises(CutAbandonedError):
            primary.cut()
    assert primary.cut().number == primary.root.last.number > 0


@pytest.mark.requirement("D1")
def test_a_set_that_is_committed_stands_though_its_history_could_not_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(secondaries=0)
    world.write(3, b"a" * BLOCK_SIZE)
    primary = world.primary.replica
    save = world.primary.save
    swap = save.swap

    def refuse_history(cell: str, value: bytes, expected_version: int) -> int:
        if cell == CUTS:
            swap(cell, value, expected_version)  # and whether it was done is not known
            raise SaveVolumeFullError("no room for cells")
        return swap(cell, value, expected_version)

    with monkeypatch.context() as patch:
        patch.setattr(save, "swap", refuse_history)
        assert primary.cut() == primary.root.last
        primary.cutter.step()
    assert primary.root.last.number == 1
    assert not primary.volume.dirty_blocks
    assert primary.cutter.status()["last_error"] == ""
    assert any("not in the history" in said for said in world.model.errors)
    world.write(4, b"b" * BLOCK_SIZE)
    assert primary.cut().number == 2
    primary.cutter.step()
    kept, _version = load_struct(save, CUTS, SetHistory)
    assert kept is not None
    assert [entry.number for entry in kept.sets] == [1, 2]
