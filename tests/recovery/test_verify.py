"""Verification: a secondary is compared at a boundary while both sides go on, and only hashes travel (X4)."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from replkit.blocks.extent import Extent
from replkit.deltaset.header import Mark
from replkit.errors import ProtocolError, RefusedError
from replkit.recovery.hashes import range_hashes
from replkit.recovery.verify import NOT_YET, PREFIX, Answer, Verification, answer_hashes
from replkit.testing.sim.machines import BLOCK_SIZE
from replkit.testing.sim.world import World


class Verified:
    """A world in which a verification of its one member can be begun."""

    def __init__(self) -> None:
        self.world = World(3, block_count=6000)
        for block in (0, 100, 2500, 5999):
            self.world.write(block, bytes([block % 250 + 1]) * BLOCK_SIZE)
        self.world.add_members()
        self.world.settle()
        self.replica = self.world.secondaries[0].replica

    def ask(self, name: str, arguments: dict[str, Any], payload: object) -> Answer:
        assert name == "verify-hashes"
        replica = self.replica
        return lambda: answer_hashes(replica.volume.open_snapshot, lambda: replica.player.position.number, arguments)

    def begin(self) -> Verification:
        primary = self.world.primary.replica
        position = primary.cut(f"{PREFIX}one", (Mark(kind="verify", name="one"),))
        snapshot = primary.open_snapshot(f"{PREFIX}one")
        return Verification(id="one", number=position.number, snapshot=snapshot, ask=self.ask, volume="vol")


@pytest.mark.requirement("X4")
def test_equal_sides_are_proved_equal_while_writes_go_on_and_few_bytes_travel() -> None:
    verified = Verified()
    verification = verified.begin()
    with pytest.raises(RefusedError) as refused:
        verification.step()
    assert refused.value.code == NOT_YET
    verified.world.write(100, b"later" + bytes(BLOCK_SIZE - 5))
    verified.world.primary.replica.cut()
    verified.world.settle()
    while verification.step():
        verified.world.write(0, b"busy" + bytes(BLOCK_SIZE - 4))
    assert verification.differing == []
    assert verification.next_block == verification.block_count
    assert verification.hash_bytes == 3 * 16  # a digest of 16 bytes for each MiB


@pytest.mark.requirement("X4")
def test_this_side_hashes_while_the_other_does_and_does_it_once_for_a_question_that_is_asked_again() -> None:
    verified = Verified()
    verification = verified.begin()
    snapshot, order = verification._snapshot, []
    read_into, ask = snapshot.read_into, verified.ask

    def begin(*question: Any) -> Answer:
        order.append("asked")
        answer = ask(*question)
        return lambda: (order.append("waited for"), answer())[1]

    verification._ask = begin
    snapshot.read_into = lambda *block: (order.append("read here"), read_into(*block))[1]  # type: ignore[method-assign]
    with pytest.raises(RefusedError):
        verification.step()
    verified.world.settle()
    verification.step()
    asked_again = order.index("asked", 1)
    assert order[0] == "asked"
    assert "read here" in order[1:asked_again]
    assert order.index("waited for") == asked_again - 1
    assert order[asked_again:] == ["asked", "waited for"]
    assert verification.differing == []


@pytest.mark.requirement("X4")
def test_a_block_that_silently_changed_at_the_secondary_is_named_and_repaired_by_a_set() -> None:
    verified = Verified()
    disk = verified.world.secondaries[0].disk
    for block in (100, 2500):
        disk.write(block, b"rot!" * (BLOCK_SIZE // 4))
    verification = verified.begin()
    verified.world.settle()
    while verification.step():
        pass
    found = verification.differing
    assert found == [Extent(100, 1), Extent(2500, 1)]
    verified.world.primary.replica.volume.mark_changed(found)
    verified.world.primary.replica.cut()
    verified.world.settle()
    verified.world.check_equal()


@pytest.mark.requirement("X4")
def test_a_member_that_lost_its_snapshot_says_so_rather_than_prove_something_else() -> None:
    verified = Verified()
    verification = verified.begin()
    verified.world.settle()
    verified.replica.volume.delete_snapshot(f"{PREFIX}one")
    with pytest.raises(RefusedError, match="is gone") as refused:
        verification.step()
    assert refused.value.code == "gone"


@pytest.mark.requirement("X4")
def test_an_answer_of_another_length_proves_nothing() -> None:
    verified = Verified()
    verification = verified.begin()
    verified.world.settle()
    short = Verification(
        id="one", number=verification.number, snapshot=verified.world.primary.replica.open_snapshot(f"{PREFIX}one"),
        ask=lambda *_: lambda: ({}, b"\0" * 16), volume="vol",
    )  # fmt: skip
    with pytest.raises(ProtocolError, match="not 48"):
        short.step()


@pytest.mark.requirement("X4")
def test_a_crash_of_the_secondary_at_any_call_still_ends_with_its_snapshot_at_the_mark() -> None:
    proved = 0
    for call in range(1, 60, 3):
        verified = Verified()
        verification = verified.begin()
        secondary = verified.world.secondaries[0]
        secondary.power.fail_at(secondary.power.calls + call)
        for _ in range(200):
            verified.world.round()
        verified.replica = secondary.replica
        verified.world.settle()
        with suppress(RefusedError):  # the crash came after the mark: the snapshot is gone, which is said
            while verification.step():
                pass
            proved += 1
        assert verification.differing == []
    assert proved >= 5


def test_hashes_of_unused_blocks_are_those_of_zeros() -> None:
    verified = Verified()
    volume = verified.world.primary.replica.volume
    one = range_hashes(volume, 200, 64, 64)
    verified.world.write(210, bytes(BLOCK_SIZE))
    assert range_hashes(volume, 200, 64, 64) == one
    assert len(range_hashes(volume, 0, volume.block_count, 2048)) == 16 * 3
