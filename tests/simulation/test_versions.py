"""Sites of two versions: what the next one adds is passed over, what this one cannot read is refused and stays (X3)."""

from __future__ import annotations

import msgspec
import pytest
from tests.simulation.test_found import split, world_of, write

from replkit.contracts.message import Message
from replkit.rcp import messages as m
from replkit.testing.sim.checker import BrokenInvariantError
from replkit.testing.sim.links import as_offered
from replkit.testing.sim.sites import Sites, block
from replkit.testing.sim.topology import Topology
from replkit.testing.sim.versions import BOTH, ONLY_NEXT, Versions
from replkit.testing.sim.workload import Event


def versions_of(world: Topology) -> Versions:
    return Versions(world, world.watch)  # type: ignore[arg-type]


def restart(versions: Versions, name: str, kind: str, a: int = 0) -> None:
    versions.actions[kind](versions.world.fault_sites[name], Event(kind, name, "", a))


@pytest.mark.requirement("X3", "D4")
@pytest.mark.parametrize("newer", ["a", "b", "ab"])
def test_sites_of_two_versions_replicate_fail_over_and_resync(newer: str) -> None:
    """The next version offers both, and says more in hellos, refusals and calls; nothing of it is in the way."""
    world = world_of()
    versions = versions_of(world)
    for name in newer:
        restart(versions, name, "upgrade")
    write(world, "a", 3, block("v", 5))
    world.a.primary.cut()
    world.settle(lambda: Sites.is_equal(world.a, world.b))
    split(world)
    world.resync(world.a, world.b)
    world.settle(lambda: any(each.name == "a" for each in world.b.primary.root.members))
    world.settle(lambda: Sites.is_equal(world.b, world.a))
    assert world.a.content == world.b.content
    for name in newer:
        restart(versions, name, "downgrade")
    write(world, "b", 9, block("w", 2))
    world.b.primary.cut()
    world.settle(lambda: Sites.is_equal(world.b, world.a))
    assert not world.net.offers


@pytest.mark.requirement("X3", "D4")
def test_a_site_that_speaks_this_version_no_more_is_refused_and_changes_nothing() -> None:
    world = world_of()
    a, b = world.fault_sites["a"], world.fault_sites["b"]
    versions = versions_of(world)
    restart(versions, "a", "upgrade", 1)
    assert world.net.offers == {"a": ONLY_NEXT}
    write(world, "a", 3, block("v", 5))
    a.primary.cut()
    before = b.store.state()
    world.settle(lambda: a.primary.status()["members"][0]["sender_state"] == "refused")  # type: ignore[index]
    assert "speaks version 1 of RCP, not (2,)" in a.primary.status()["members"][0]["last_error"]  # type: ignore[index]
    assert b.store.state() == before
    versions.calm()
    assert world.net.offers == {"a": BOTH}
    world.settle(lambda: Sites.is_equal(a, b))
    assert a.content == b.content


@pytest.mark.requirement("X3")
@pytest.mark.parametrize("name", ["a", "b"])
def test_a_save_volume_of_a_later_format_is_refused_by_this_version_and_stays_as_it_is(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 12; the error says that it is of a later format, not that it is damaged."""
    world = world_of()
    versions = versions_of(world)
    restart(versions, name, "newer format")
    write(world, "a", 3, block("v", 5))
    world.a.primary.cut()
    world.settle(lambda: Sites.is_equal(world.a, world.b))
    assert world.a.content == world.b.content

    monkeypatch.setattr("replkit.replication.root._format_of", lambda _value: 1)
    with pytest.raises(BrokenInvariantError, match="of a newer format it is said: cell root does not hold"):
        restart(versions, name, "newer format")


def test_only_a_hello_and_a_refusal_say_more() -> None:
    refusal = m.encode(m.Refuse(code="x", text="y"))
    assert "added_later" in msgspec.msgpack.decode(as_offered(refusal, BOTH).body)
    assert m.decode(as_offered(refusal, BOTH)) == m.decode(refusal)
    bye = m.encode(m.Bye(reason="z"))
    assert as_offered(bye, BOTH) is bye
    assert as_offered(Message(bye.kind, bye.body, b"p"), ONLY_NEXT).payload == b"p"
