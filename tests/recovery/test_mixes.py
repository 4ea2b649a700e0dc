"""Failover, resync and failback are the same whether either side is on a disk or in a bucket (R1-R9, U3)."""

from __future__ import annotations

import pytest

from replkit.recovery.handover import begin_handover
from replkit.testing.sim.sites import BLOCK, Site, Sites, block

from .conftest import use_stores


@pytest.fixture
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Sites:
    """Sites a and b, each on a disk or in a bucket."""
    use_stores(monkeypatch, request.param)
    return Sites("ab")


MIXES = ["disk-disk", "disk-bucket", "bucket-disk", "bucket-bucket"]


def resynced(world: Sites, primary: Site, member: Site) -> bool:
    root = member.secondary.root if not member.is_primary else None
    known = {each.name for each in primary.primary.root.members}
    return root is not None and root.resync is None and member.name in known and world.is_equal(primary, member)


@pytest.mark.requirement("R1", "R4", "R5", "R7", "R9", "U3")
@pytest.mark.parametrize("world", MIXES, indirect=True)
def test_a_site_is_lost_comes_back_by_what_differs_and_is_the_primary_again(world: Sites) -> None:
    a, b = world.a, world.b
    a.write(0, block("0", 100))
    world.follow(a, b)
    assert b.content == a.content
    a.write(5, block("p"))
    a.primary.cut()
    world.settle(lambda: world.is_equal(a, b))

    fork = b.secondary.root.last
    world.network.down.add(a.url)
    a.write(7, block("m"))  # only a has these two: one in a set, one not cut
    a.primary.cut()
    a.write(9, block("u"))
    b.secondary.promote()
    b.reopen()
    assert b.primary.root.restart == fork
    b.write(11, block("t"))
    b.primary.cut()
    world.network.down.discard(a.url)

    made = world.resync(a, b)
    assert made is not None
    assert made.fork == fork
    world.settle(lambda: resynced(world, b, a))
    assert a.content == b.content
    assert a.content[7 * BLOCK : 8 * BLOCK] == block("0")
    received = sum(receiver.received_bytes for receiver in a.receivers)
    assert received < 20 * BLOCK, "only blocks that differ travelled"

    begin_handover(b.primary, "a", "back", own_url=b.url, own_name="b")
    world.settle(lambda: a.is_primary and not b.is_primary and b.secondary.root.handover is None)
    world.settle(lambda: world.is_equal(a, b))
    a.write(13, block("z"))
    a.primary.cut()
    world.settle(lambda: world.is_equal(a, b))
    assert a.content == b.content
    assert a.primary.root.epoch.count == 3
