"""Damaged or lost records of delta sets are fetched again from the site that has them (D3, U3)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from replkit.contracts.buffers import Buffer
from replkit.deltaset.keys import chunk_key, header_key, list_key
from replkit.errors import RefusedError, ReplkitError
from replkit.recovery.peer import Peer
from replkit.recovery.refetch import Refetched, incomplete_tags, refetch, tag_in
from replkit.replication.directory import tag_of
from replkit.replication.policy import change_policy
from replkit.testing.crashing import PowerFailure
from replkit.testing.sim.checker import Checker
from replkit.testing.sim.scale import small_sizes
from replkit.testing.sim.sites import VOLUME, Sites, block
from replkit.testing.sim.topology import FaultSite, Options, Topology

pytestmark = pytest.mark.requirement("D3", "U3")
Spoil = Callable[[FaultSite, str], None]


def lose(site: FaultSite, key: str) -> None:
    site.save.delete([key])


def turn_a_bit(site: FaultSite, key: str) -> None:
    record = bytearray(site.save.get(key))
    record[len(record) * 2 // 3] ^= 4
    site.save.delete([key])
    site.save.put(key, [record])


def world_with_sets_to_play(count: int = 3) -> Topology:
    """b has received sets that are not played yet."""
    world = Topology(1, Options(names="ab"), Checker())
    a, b = world.fault_sites["a"], world.fault_sites["b"]
    change_policy(a.save, chunk_bytes=4096)
    write(world, 0, block("0", 40))
    world.watch.ask_copy("b")  # type: ignore[attr-defined]
    a.primary.add_member("b", b.url, VOLUME)
    world.settle(lambda: Sites.is_equal(a, b))
    for number in range(count):
        write(world, number, block(chr(97 + number), 30))
        a.primary.cut()
        while b.secondary.root.last != a.primary.root.last:
            a.run_step("send:b")
            b.run_step("receive")
    return world


def write(world: Topology, start: int, data: bytes) -> None:
    world.watch.users["a"].wrote(start * 512, data)  # type: ignore[attr-defined]
    world.a.write(start, data)


def mend(world: Topology, tags: list[str]) -> Refetched:
    b = world.fault_sites["b"]
    return refetch(b.save, lambda: b.secondary.root, world.peer_from("b", world.a.url), tags)


def newest_tag(world: Topology) -> str:
    root = world.b.secondary.root
    return tag_of(root, root.last.number)


@pytest.mark.parametrize("spoil", [lose, turn_a_bit])
@pytest.mark.parametrize("which", [header_key, lambda tag: chunk_key(tag, 1), lambda tag: list_key(tag, 0)])
def test_a_record_that_is_damaged_or_lost_is_fetched_and_the_set_is_played(
    spoil: Spoil, which: Callable[[str], str]
) -> None:
    world = world_with_sets_to_play()
    b, tag = world.fault_sites["b"], newest_tag(world)
    before = {key: bytes(b.save.get(key)) for key in b.save.list("") if tag in key}
    assert len(before) > 5
    spoil(b, which(tag))
    assert list(incomplete_tags(b.save, b.secondary.root)) == ([tag] if spoil is lose or which is header_key else [])
    assert mend(world, [tag]) == Refetched(1, ())
    assert {key: bytes(b.save.get(key)) for key in b.save.list("") if tag in key} == before
    assert mend(world, [tag]) == Refetched(0, ())
    b.crash()  # what was fetched is durable
    world.settle(lambda: Sites.is_equal(world.a, world.b))
    assert b.content == world.a.content


def test_all_sets_that_lack_something_are_named_and_mended() -> None:
    world = world_with_sets_to_play()
    b = world.fault_sites["b"]
    root = b.secondary.root
    tags = [tag_of(root, root.last.number - back) for back in (2, 1, 0)]
    lose(b, header_key(tags[0]))
    lose(b, chunk_key(tags[1], 0))
    lose(b, list_key(tags[1], 0))
    turn_a_bit(b, chunk_key(tags[2], 2))
    assert list(incomplete_tags(b.save, root)) == tags[:2]
    assert mend(world, tags) == Refetched(4, ())
    assert not list(incomplete_tags(b.save, root))
    world.settle(lambda: Sites.is_equal(world.a, world.b))


@pytest.mark.parametrize("call", range(1, 8))
@pytest.mark.parametrize("fault", ["power failure", "put error", "save full", "sync error"])
def test_it_goes_on_where_it_broke_off(fault: str, call: int) -> None:
    """A crash between the deletion of a damaged record and its replacement leaves it lost instead."""
    world = world_with_sets_to_play()
    b, tag = world.fault_sites["b"], newest_tag(world)
    for index in (0, 1):
        turn_a_bit(b, chunk_key(tag, index))
    b.save.sync()
    b.plug.fail_at(call) if fault == "power failure" else b.plug.break_at(fault, call)
    with suppress(PowerFailure, ReplkitError):
        mend(world, [tag])
    b.plug.calm()
    b.crash()
    found = mend(world, [tag, *incomplete_tags(b.save, b.secondary.root)])
    assert found.left == ()
    assert mend(world, [tag]).records == 0
    world.settle(lambda: Sites.is_equal(world.a, world.b))


def test_what_the_other_site_has_no_more_is_told_and_left() -> None:
    world = world_with_sets_to_play()
    a, b, tag = world.fault_sites["a"], world.fault_sites["b"], newest_tag(world)
    turn_a_bit(b, chunk_key(tag, 0))
    lose(a, chunk_key(tag, 0))
    found = mend(world, [tag])
    assert found.records == 0
    assert f"set {tag}: sets/{tag}/00000000 is not to be had from the other site" in found.left[0]
    a.primary.remove_member("b")
    assert mend(world, [tag]).records == 0


def test_a_record_of_another_set_or_chunk_is_not_taken_for_the_one_that_was_here() -> None:
    """Invariants 5 and 12: whatever the other site answers, a set holds what it held or nothing of it is played."""
    world = world_with_sets_to_play()
    b = world.fault_sites["b"]
    root, tag = b.secondary.root, newest_tag(world)
    other = tag_of(root, root.last.number - 1)
    for key in (chunk_key(tag, 0), header_key(tag)):
        whole = bytes(b.save.get(key))
        turn_a_bit(b, key)
        wrong = [
            b"",
            b"x" * 100,
            whole[:-1],
            bytes(b.save.get(key.replace(tag, other))),
            bytes(b.save.get(chunk_key(tag, 1))),
        ]
        for record in wrong:

            def call(
                _name: str, _arguments: dict[str, Any], _payload: Buffer, record: bytes = record
            ) -> tuple[dict[str, Any], Buffer]:
                return {"size": len(record)}, record

            found = refetch(b.save, lambda: b.secondary.root, Peer(call, VOLUME), [tag])
            assert found.records == 0
            assert found.left[0].startswith(f"set {tag}: ")
        b.save.delete([key])
        b.save.put(key, [whole])
    assert mend(world, [tag]) == Refetched(0, ())


def test_a_set_that_is_named_no_more_is_passed_over() -> None:
    world = world_with_sets_to_play()
    tags = ["00000000000000ff.x", "0000000000000001.x", newest_tag(world).replace(".", ".y")]
    assert mend(world, tags) == Refetched(0, ())
    assert [tag_in(key) for key in ("sets/x/0", "areas/1.a/x", f"lists/{newest_tag(world)}/header", "root")] == [
        "", "", newest_tag(world), "",
    ]  # fmt: skip


def test_a_record_is_asked_for_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replkit.recovery.service.RECORD_PIECE_BYTES", 1000)
    world = world_with_sets_to_play()
    tag = newest_tag(world)
    whole = bytes(world.a.save.get(chunk_key(tag, 0)))
    assert len(whole) > 3000
    assert world.peer_from("b", world.a.url).set_record(chunk_key(tag, 0)) == whole


@pytest.mark.parametrize(
    "key", ["", "root", "sets/../../x", "areas/x/y", "sets/00000000000000ff.x/00000000", "lists/x/y"]
)
def test_only_records_of_sets_that_are_named_are_given_away(key: str) -> None:
    world = world_with_sets_to_play(1)
    with pytest.raises(RefusedError) as refused:
        world.a.answer("set-record", {"volume": VOLUME, "key": key}, b"")
    assert refused.value.code == "record-missing"
    with pytest.raises(RefusedError):
        world.a.answer("set-record", {"volume": VOLUME, "key": "sets/" + "x" * 300, "start": -1}, b"")


def test_nothing_counts_as_lost_while_a_difference_arrives() -> None:
    """Its position is named before its set is there; a scrub would call that damage."""
    world = world_with_sets_to_play()
    a, b = world.fault_sites["a"], world.fault_sites["b"]
    world.settle(lambda: Sites.is_equal(a, b))
    change_policy(b.save, chunk_bytes=4096)
    with world.watch.allowing("b"):  # type: ignore[attr-defined]
        b.secondary.promote()
        world.watch.promoted(b, b.durable_root(), False)  # type: ignore[attr-defined]
        b.reopen()
    a.write(0, block("a", 40))
    world.resync(a, b)
    arriving = 0
    with small_sizes():
        for _ in range(200):
            for site in (b, a):
                for name in site.step_names():
                    site.run_step(name)
                    root = a.durable_root()
                    arriving += root.resync is not None and root.resync.stamp is not None
                    assert list(incomplete_tags(a.save, root)) == []
            world.runtime.advance(0.5)
    assert arriving > 0
    assert a.durable_root().is_at_boundary
