"""A new copy leaves nothing of what the destination held before, also what came there behind the replica (C1)."""

from __future__ import annotations

import pytest

from replkit.testing.sim.machines import BLOCK_SIZE
from replkit.testing.sim.model import read_all
from replkit.testing.sim.world import World


@pytest.mark.requirement("C1")
def test_a_new_copy_clears_blocks_that_no_map_knows_of() -> None:
    world = World(7)
    world.write(0, b"a" * BLOCK_SIZE * 4)
    world.add_members()
    world.settle()
    secondary = world.secondaries[0]
    unused = 40
    assert all(not start <= unused < start + count for start, count in secondary.replica.volume.in_use())
    secondary.disk.write(unused, b"rot!" * (BLOCK_SIZE // 4))
    secondary.disk.flush()
    world.primary.replica.copy_again(secondary.name)
    world.settle(lambda: world.primary.replica.root.members[0].state == "following")
    world.settle()
    assert read_all(secondary.disk) == read_all(world.primary.disk)
