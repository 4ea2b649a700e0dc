"""Identities of positions inside a difference are not known, and nothing stands in for them (invariant 5; R4)."""

from __future__ import annotations

import pytest

from replkit.replication import difference_set
from replkit.replication.branches import identity_of
from replkit.testing.sim.sites import Sites, block


@pytest.mark.requirement("R4")
@pytest.mark.parametrize("known_inner", [400_000, 2])
def test_a_position_inside_a_difference_has_no_identity_and_its_ends_have_theirs(
    known_inner: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the difference spans more positions than its header can name."""
    monkeypatch.setattr(difference_set, "MAX_IDENTITIES", known_inner)
    world = Sites("ab", blocks=64)
    world.a.write(0, block("0", 40))
    world.follow(world.a, world.b)
    world.a.primary.set_policy(keep_sets=0)
    world.network.down.add(world.b.url)
    world.network.break_links()
    world.a.write(1, block("a"))
    world.a.primary.cut()
    world.b.secondary.promote()
    world.b.reopen()
    for number in range(6):
        world.b.write(number, block("b"))
        world.b.primary.cut()
    world.network.down.clear()
    world.resync(world.a, world.b)
    world.settle(
        lambda: not world.a.is_primary and bool(world.b.primary.root.members) and world.is_equal(world.b, world.a)
    )
    b, a = world.b.primary, world.a.secondary.root
    fork, stamp = a.spans[0].first - 1, a.spans[0].last
    assert stamp - fork >= 5

    def known(number: int) -> str:
        return identity_of(world.a.save, a, number, 64)

    assert known(fork) == b.identity_of(fork) != ""
    assert known(stamp) == b.identity_of(stamp) != ""
    assert [known(number) for number in range(fork + 1, stamp)] == [""] * (stamp - fork - 1)
    assert known(stamp + 1) == known(-1) == ""
    assert known(0) == b.identity_of(0) != ""
