"""Identities of positions inside a difference are not known, and nothing stands in for them (invariant 5; R4)."""

from __future__ import annotations

import msgspec
import pytest

from replkit.errors import RefusedError
from replkit.recovery.boundary import Boundaries
from replkit.replication import difference_set
from replkit.replication.branches import identity_of
from replkit.testing.sim.model import read_all
from replkit.testing.sim.sites import VOLUME, Sites, block


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


@pytest.mark.requirement("R4", "X2")
def test_what_hashes_found_to_differ_leads_no_other_volume_and_no_older_snapshot_on() -> None:
    """Invariant 5, seed 111209: A and B had written the same block, so it was not sent to A, and C never got it."""
    world = Sites("abc", blocks=256)
    a, b, c = (world.sites[name] for name in "abc")
    a.write(0, block("0", 40))
    world.follow(a, b, c)
    fork = a.primary.create_snapshot("at-the-fork")
    world.settle(lambda: world.is_equal(a, b) and world.is_equal(a, c))
    world.network.down.update({b.url, c.url})
    world.network.break_links()
    a.primary.create_snapshot("of-what-is-given-up")
    a.write(5, block("y"))
    a.primary.cut()
    b.secondary.promote()
    b.reopen()
    b.write(5, block("y"))
    b.write(9, block("b"))
    b.primary.cut()
    a.primary.parts.root.mutate(
        lambda now: msgspec.structs.replace(now, first_listed=now.last.number + 1, first_kept=now.last.number + 1)
    )
    world.network.down.discard(b.url)
    resync = world.resync(a, b)
    assert resync is not None
    assert resync.compares
    world.settle(lambda: not a.is_primary and bool(b.primary.root.members) and world.is_equal(b, a))

    back = a.secondary
    past = Boundaries(
        a.save, lambda: back.root, back.volume.open_snapshot, back.volume.delete_snapshot, back.player.make_snapshot,
        world.runtime, 256,
    )  # fmt: skip
    stamp = back.root.spans[0].last
    assert [moment.position.number for moment in past.moments()] == [fork.number]
    assert past.base_of(stamp) is None
    boundary = past.open(stamp)
    assert boundary is not None
    assert read_all(boundary) == a.content, "on a snapshot of its own"
    boundary.close()

    b.stop()
    a.secondary.promote()
    a.reopen()
    world.network.down.clear()
    a.write(20, block("a"))
    a.primary.cut()
    with pytest.raises(RefusedError, match="hashes found to differ") as raised:
        world.resync(c, a)
    assert raised.value.code == "list-trimmed"
    assert read_all(c.secondary.view()) != a.content
    a.primary.add_member("c", c.url, VOLUME)
    world.settle(lambda: world.is_equal(a, c))
    assert c.content == a.content
