"""The receiver and the one that takes its place."""

from __future__ import annotations

import pytest

from replkit.rcp import messages as m
from replkit.replication.receiver import Receiver
from replkit.testing.sim.machines import BLOCK_SIZE
from replkit.testing.sim.world import World


@pytest.mark.requirement("D4")
def test_a_closed_receiver_does_not_carry_out_what_waited_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 5: its successor has counted what is there, and may take in another set or copy."""
    world = World()
    world.write(0, b"a" * BLOCK_SIZE)
    world.add_members()
    world.settle(lambda: bool(world.secondaries[0].receivers))
    receiver = world.secondaries[0].receivers[0]
    carried: list[object] = []
    monkeypatch.setattr(Receiver, "_carry_out", lambda _self, body, _message: carried.append(body))
    monkeypatch.setattr(receiver, "_report", lambda: None)
    receiver._waiting = (m.Chunk(tag="t", index=0), m.encode(m.Ping(token=1)))
    receiver.close()
    assert receiver.step() is None
    assert not carried
