"""What cannot go the short way between real daemons: no room for a set or a difference, or no list of what differs."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack

import pytest

from replkit.contracts.registry import default_registry
from replkit.site.control import ControlClient
from replkit.site.nbd.client import NbdClient

from .role_world import RoleWorld, begun

MIB = 1 << 20


@pytest.fixture
def begin(tmp_path):
    """Begins a world of two sites, after ``change`` was made to it."""
    with ExitStack() as stack:

        def make(change=lambda world: None, **options):
            world = RoleWorld(tmp_path, **options)
            change(world)
            return stack.enter_context(begun(world))

        yield make


def rot(site, part):
    """Damage the newest records of a site's save volume whose key ends so, as a disk does it, behind its back."""
    folder = site.folder / "save"
    with default_registry().open_save_volume(folder.as_uri(), producer=False) as save:
        key = max((key for key in save.list("lists/") if part in key), key=lambda key: key.split("/")[1])
        held = bytes(save.get(key))
    found = [path for path in folder.rglob("*") if path.is_file() and held in path.read_bytes()]
    for path in found:
        at = path.read_bytes().index(held)
        with path.open("r+b") as file:
            file.seek(at + len(held) // 2)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 0xFF]))
    assert found, f"{key} is nowhere in {folder}"


def part(world, *, damaged_at="", what="/blocks-"):
    """Both sides are written after they parted; a is ended cleanly with a set that never got away, and comes back."""
    a, b = world.a, world.b
    world.put(a, 1, b"kept")
    world.ask("wait", "disk", "--durable-on", 1, "--played")
    world.ask("pause", "disk")
    world.put(a, 2, b"lost")
    world.ask("cut", "disk")
    world.end(a)
    world.ask("failover", "disk", "--yes", site=b)
    world.put(b, 3, b"while a was away")
    world.ask("cut", "disk", site=b)
    if damaged_at == "a":
        rot(a, what)
    elif damaged_at == "b":
        rot(b, what)
    world.start(a)
    world.is_in(a, "fenced")


@pytest.mark.requirement("R4", "R8")
@pytest.mark.parametrize("what", ["/blocks-", "/header"])
def test_a_list_that_is_damaged_here_is_replaced_by_a_comparison_which_is_said(begin, what):
    world = begin()
    a, b = world.a, world.b
    part(world, damaged_at="a", what=what)
    assert "comparison" in world.run("plan", "resync", "disk")
    said = world.run("resync", "disk", "--yes")
    assert "both sides are compared by hashes" in said.replace("\n", " ")
    world.are_equal(b, a)
    assert [world.block(a, number) for number in (1, 2, 3)] == [b"kept", b"", b"while a was away"]
    (salvage,) = world.ask("salvage", "list", "disk")["salvages"]
    assert salvage["id"]


@pytest.mark.requirement("R4")
@pytest.mark.parametrize("what", ["/blocks-", "/header"])
def test_a_list_that_is_damaged_at_the_new_primary_is_replaced_by_a_comparison(begin, what):
    world = begin()
    a, b = world.a, world.b
    part(world, damaged_at="b", what=what)
    said = world.run("resync", "disk", "--yes").replace("\n", " ")
    assert re.search(r"list damaged: what set \d+ changed is not known", said)  # which: by the clock
    world.are_equal(b, a)
    assert [world.block(a, number) for number in (1, 2, 3)] == [b"kept", b"", b"while a was away"]


@pytest.mark.requirement("R4", "R6", "S4")
def test_a_difference_larger_than_the_save_volume_is_written_in_place_though_it_is_killed_meanwhile(begin):
    world = begin(size=256 * MIB, capacity="64MiB")
    a, b = world.a, world.b
    part(world)
    with NbdClient(b.nbd_address, "disk") as client:
        for at in range(4 * MIB, 204 * MIB, MIB):
            client.write(at, os.urandom(MIB))
        client.flush()
    with ControlClient(a.control) as client:
        client.request("resync", volume="disk")
    world.is_so(lambda: (world.volume(a).get("resync") or {}).get("in_place"), "it goes in place")
    world.kill(a)
    world.start(a)
    assert world.volume(a)["state"] in {"inconsistent", "resyncing"}
    assert "stands at no boundary" in world.run("failover", "disk", "--yes", code=3)
    world.are_equal(b, a)
    assert world.block(a, 2) == b""
    assert world.volume(a)["state"] == "up-to-date"


@pytest.mark.requirement("S4", "T6")
def test_a_secondary_that_is_refused_a_set_for_want_of_room_is_brought_on_by_what_changed(begin):
    def make_small(world):
        text = world.b.config.read_text()
        world.b.config.write_text(text.replace('capacity = "1GiB"', 'capacity = "64MiB"'))

    world = begin(make_small, size=128 * MIB)
    a, b = world.a, world.b
    world.ask("policy", "disk", "interval_s=3600")
    with NbdClient(a.nbd_address, "disk") as client:
        for at in range(4 * MIB, 68 * MIB, MIB):
            client.write(at, os.urandom(MIB))
        client.flush()
    world.ask("cut", "disk")
    world.is_so(lambda: world.member(a, "b").get("sender_state") == "refused", "the set is larger than the room")
    assert "replkit replica catch-up" in world.member(a, "b")["last_error"]
    world.ask("replica", "catch-up", "disk", "b")
    world.ask("policy", "disk", "interval_s=0.3")
    world.put(a, 1, b"and on")
    world.are_equal(a, b)
