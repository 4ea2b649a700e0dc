"""Calls come from outside: whatever is asked, only a typed error comes out and little memory is used (invariant 12)."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgspec
import pytest

from replkit.blocks.bitmap import PagedBitmap
from replkit.contracts.savevolume import Partition
from replkit.errors import RefusedError
from replkit.replication.difference import PAGE_BLOCKS, put_list
from replkit.replication.root import read_root
from replkit.testing.sim.sites import VOLUME, Sites, block

HUGE = 1 << 48
POSITION = [[1, "x"], 1, "y"]
MEMBER = {"name": "m", "url": "sim:b", "destination_volume": "vol", "state": "following", "hold": 1}
BEGIN = {"id": "r", "lineage": "l", "member": "m", "url": "sim:b", "destination": "vol", "fork": POSITION}
PROMOTE = {"id": "h", "lineage": "l", "epoch": [2, "e"], "position": POSITION, "back": MEMBER}


def two_sites() -> Sites:
    world = Sites("ab", blocks=64)
    world.a.write(0, block("0", 40))
    world.follow(world.a, world.b)
    return world


@pytest.mark.requirement("R4")
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("block-list", {"after": 0, "start": 0, "count": HUGE}),
        ("block-list", {"after": -1, "start": 0, "count": 8}),
        ("hashes", {"snapshot": "s", "start": 0, "count": HUGE, "range_blocks": 128}),
        ("hashes", {"snapshot": "s", "start": 0, "count": 64, "range_blocks": 1}),
        ("hashes", {"snapshot": "s", "start": HUGE, "count": 1, "range_blocks": 1 << 31}),
        ("block-hashes", {"snapshot": "s", "start": 0, "count": HUGE}),
        ("hashes", {"snapshot": "s", "start": 0, "count": 64, "range_blocks": 16, "payload": b"\xff" * 100}),
        ("block-hashes", {"snapshot": "s", "start": 0, "count": 64, "payload": b"\xff" * 100}),
        ("block-hashes", {"snapshot": "s", "start": HUGE, "count": 64, "payload": b"\xff" * 8}),
        ("block-hashes", {"snapshot": "none", "start": 0, "count": 64, "payload": b"\xff" * 8}),
        ("read", {"snapshot": "s", "start": 0, "count": HUGE}),
        ("read", {"snapshot": "s", "start": HUGE, "count": 1}),
        ("set-record", {"key": "sets/../../root"}),
        ("set-record", {"key": "sets/0000000000000001.x/00000000", "start": -1}),
        ("set-record", {"key": "x" * 1000}),
        ("weigh", {"start": 0, "count": HUGE}),
        ("weigh", {"start": 0, "count": 64, "payload": b"\xff" * 100}),
        ("identities", {"first": 0, "last": HUGE}),
        ("identities", {"first": [], "last": None}),
        ("resync-list", {"id": "../x", "name": "head"}),
        ("resync-list", {"id": "x", "name": "../../root"}),
        ("resync-prepare", {"id": "A" * 100}),
        ("resync-begin", {**BEGIN, "member": "../m"}),
        ("resync-begin", {**BEGIN, "url": "no url"}),
        ("resync-begin", {**BEGIN, "destination": "x" * 65}),
        ("resync-begin", BEGIN),
        ("promote", {**PROMOTE, "epoch": [1 << 62, "e"]}),
        ("promote", {**PROMOTE, "back": {**MEMBER, "name": "../m"}}),
        ("promote", {**PROMOTE, "members": [{**MEMBER, "url": ""}]}),
        ("promote", {**PROMOTE, "members": [MEMBER] * 300}),
        ("promote", PROMOTE),
        ("fence", {"epoch": [1 << 62, "e"], "lineage": "l"}),
        ("fence", {"epoch": [-1, "e"], "lineage": "l"}),
        ("fence", {"epoch": [9, "e"], "lineage": "l"}),
        ("fence", {"epoch": [9, "e"]}),
        ("handover-begin", {"id": "h", "member": ""}),
        ("pull", {"member": "z"}),
        ("no-such-call", {}),
    ],
)
def test_a_call_that_makes_no_sense_is_refused_and_changes_nothing(name: str, arguments: dict[str, Any]) -> None:
    world = two_sites()
    payload = arguments.pop("payload", b"") if "payload" in arguments else b""
    world.a.primary.cut("s")
    for site in (world.a, world.b):
        before = msgspec.json.encode(read_root(site.save)), len(site.save.list("lists/resync-"))
        tracemalloc.start()
        with pytest.raises(RefusedError) as raised:
            site.answer(name, {"volume": VOLUME, **arguments}, payload)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert raised.value.code != "internal"
        assert peak_bytes < 4 << 20
        assert before == (msgspec.json.encode(read_root(site.save)), len(site.save.list("lists/resync-")))


@pytest.mark.requirement("R4")
def test_lists_of_other_sites_leave_room_for_the_sets_of_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 11: headers and cells are in the same part of the save volume."""
    world = two_sites()
    capacity = world.a.save.capacity_bytes
    limit = world.a.save.used_bytes(Partition.LISTS) * 2 + 4096
    monkeypatch.setattr(
        world.a.save, "capacity_bytes", lambda part: limit if part is Partition.LISTS else capacity(part)
    )
    peer = world.peer(world.a.url)
    blocks = PagedBitmap(PAGE_BLOCKS)
    for number in range(0, PAGE_BLOCKS, PAGE_BLOCKS // 64):
        blocks.set_run(number, 1)
    page = blocks.to_bytes()

    def fill() -> None:
        for number in range(1000):
            peer.put_list_record("evil", f"{number:08x}", page, 1000)

    with pytest.raises(RefusedError, match="no room"):
        fill()
    assert world.a.save.used_bytes(Partition.LISTS) < limit


@pytest.mark.requirement("R4")
@pytest.mark.parametrize("name", ["00000000", "head"])
def test_a_record_of_a_list_that_was_damaged_on_its_way_is_refused_and_not_kept(name: str) -> None:
    """Invariant 12: it would be there for good, and the resync that it belongs to could never be done."""
    world = two_sites()
    peer, save = world.peer(world.a.url), world.b.save
    put_list(save, "lists/resync-x", PagedBitmap(64))
    record = bytearray(save.get(f"lists/resync-x/{name}"))
    before = world.a.save.list("lists/")
    for at in range(len(record)):
        record[at] ^= 0x10
        with pytest.raises(RefusedError) as refused:
            peer.put_list_record("x", name, bytes(record), 0)
        assert refused.value.code == "corrupt-record"
        record[at] ^= 0x10
    assert world.a.save.list("lists/") == before
    peer.put_list_record("x", name, bytes(record), 0)


@pytest.mark.requirement("R4")
def test_only_some_comparisons_are_prepared_at_the_same_time() -> None:
    world = two_sites()
    peer = world.peer(world.a.url)
    for number in range(8):
        peer.prepare(f"r{number}")
    with pytest.raises(RefusedError, match="under way"):
        peer.prepare("one-more")
    assert len(world.a.primary.snapshots()) == 8
    assert peer.prepare("r0").snapshot == "resync.r0"
