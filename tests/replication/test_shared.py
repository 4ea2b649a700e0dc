"""A secondary that reads the primary's save volume itself: local replication without a transport (S2, FIG. 4, 6)."""

from __future__ import annotations

import pytest

from replkit.errors import InconsistentError
from replkit.replication.shared import SharedReplica
from replkit.testing.crashing import CrashDisk, Power
from replkit.testing.sim.machines import BLOCK_SIZE
from replkit.testing.sim.model import read_all
from replkit.testing.sim.world import World


class Local:
    """A primary with one local secondary."""

    def __init__(self, **options: object) -> None:
        self.world = World(secondaries=0, block_count=128, **options)  # type: ignore[arg-type]
        self.power = Power()
        self.disk = CrashDisk(self.power, 128)
        self.disk.write(90, b"old" * 512)
        self.world.write(0, b"a" * BLOCK_SIZE * 60)
        self.primary.add_member("local", "shared:", shared=True)
        self.replica = self.open()

    @property
    def primary(self):  # type: ignore[no-untyped-def]
        return self.world.primary.replica

    def open(self) -> SharedReplica:
        world = self.world
        return SharedReplica(self.disk, world.primary.save, world.primary.disk, world.runtime, world.model, "local")

    def settle(self, rounds: int = 300) -> None:
        for _ in range(rounds):
            for _name, step in self.primary.services():
                step()
            self.replica.step()
            self.world.runtime.advance(0.05)
            stands = self.replica.status()["state"] == "following"
            if (
                stands
                and self.replica.player.position == self.primary.root.last
                and not self.primary.volume.dirty_blocks
            ):
                return
        pytest.fail("did not settle")


@pytest.mark.requirement("S2", "T4")
def test_the_save_volume_is_the_link() -> None:
    local = Local()
    local.settle()
    assert read_all(local.disk) == bytes(local.world.model.image)
    local.world.write(5, b"b" * BLOCK_SIZE * 3)
    local.primary.cut()
    assert local.world.model.check_view("local", local.replica.view())
    local.settle()
    assert read_all(local.disk) == bytes(local.world.model.image)
    assert local.world.network.messages == 0


@pytest.mark.requirement("S2")
def test_nothing_is_trimmed_before_the_local_player_has_played_it() -> None:
    """Invariant 7."""
    local = Local()
    local.settle()
    local.world.write(5, b"b" * BLOCK_SIZE)
    position = local.primary.cut()
    for _ in range(10):
        for _name, step in local.primary.services():
            step()
    assert local.world.primary.save.list(f"sets/{position.number:016x}")
    local.settle()
    for _ in range(10):
        for _name, step in local.primary.services():
            step()
    assert not local.world.primary.save.list("sets/")


@pytest.mark.requirement("S2", "R6")
def test_a_copy_that_broke_off_is_unreadable_and_goes_on() -> None:
    """Invariant 6."""
    local = Local()
    local.primary.members.step()
    for _ in range(3):
        local.replica.step()
    local.power.restore()
    local.replica = local.open()
    with pytest.raises(InconsistentError):
        read_all(local.replica.view())
    local.settle()
    assert read_all(local.disk) == bytes(local.world.model.image)


@pytest.mark.requirement("S2", "R8")
def test_a_copy_that_is_complete_counts_as_played_to_its_position_before_any_set_is() -> None:
    local = Local()
    local.settle()
    local.primary.cut()
    local.primary.copy_again("local")
    local.settle()
    for _name, step in local.primary.services():
        step()
    (member,) = local.primary.status()["members"]  # type: ignore[misc]
    assert (member["state"], member["played"]) == ("following", local.primary.root.last.number)
