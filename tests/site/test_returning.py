"""A return that is refused: what the command leaves behind at either side (R4, R9)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from replkit.errors import DivergedError, FencedError
from replkit.site.returning import Returning
from replkit.testing.sim.sites import Sites, block


@pytest.mark.requirement("R4", "R9")
def test_a_resync_with_a_primary_of_equal_count_is_refused_until_a_failover_there_decides() -> None:
    """Invariant 8: both have met the other, take no writes, and wait for a command; `failover` at either can decide."""
    world = Sites("abc")
    world.a.write(0, block("0", 16))
    world.follow(world.a, world.b, world.c)
    world.a.stop()
    for site in (world.b, world.c):
        site.secondary.promote()
        site.reopen()
    links: Any = SimpleNamespace(peer=world.peer)
    returning = Returning(links, world.c.url, "c", {"b": world.b.url})
    arguments = {"source": "b", "request": "r"}
    with pytest.raises(DivergedError, match="give failover there"):
        returning.resync(world.c.primary, "vol", arguments, None)
    for site in (world.b, world.c):
        with pytest.raises(FencedError, match="two sites were promoted to epoch 2"):
            site.write(1, block("x"))

    there = Returning(links, world.b.url, "b", {})
    assert there.go_on(world.b.primary, "vol", None, arguments)["position"]["epoch"] == 3
    world.b.write(1, block("x"))
    assert returning.resync(world.c.primary, "vol", arguments, None)["salvage"]
