"""Draws the events of a run from its seed: a shape of the world, a subset of what can happen (swarm), then each."""

from __future__ import annotations

import random

from replkit.replication.primary import PrimaryReplica
from replkit.testing.sim.aiming import Aims
from replkit.testing.sim.faults import KINDS
from replkit.testing.sim.topology import FaultSite, Options, Topology
from replkit.testing.sim.workload import STEPS, Event

COMMANDS: dict[str, int] = {
    "cut": 10,
    "snapshot": 4,
    "delete-snapshot": 4,
    "restore": 1,
    "verify": 2,
    "resize": 2,
    "policy": 3,
    "add": 6,
    "remove": 1,
    "pause": 2,
    "resume": 4,
    "stale": 1,
    "catch-up": 3,
    "copy-again": 1,
    "pin": 4,
    "read-pin": 6,
    "unpin": 3,
    "restart": 3,
    "sleep": 2,
    "promote": 4,
    "begin-epoch": 1,
    "resync": 5,
    "rewind": 1,
    "handover": 4,
    "cancel": 1,
    "full-copy": 1,
    "drop-salvage": 1,
    "upgrade": 2,
    "downgrade": 2,
    "newer format": 1,
    "operate": 24,
}
AT_ANY = {
    "promote", "pin", "read-pin", "unpin", "full-copy", "restart", "drop-salvage", "policy", "upgrade", "downgrade",
    "newer format",
}  # fmt: skip
"""Commands at any site, not only at a primary."""
AT_SECONDARY = {"pin", "read-pin", "unpin"}
PULL_AHEAD = 6
"""The change of policy that gives sets up when there is no room."""
ALWAYS = {"cut", "operate", "add", "resume"}


class Generator:
    """The events of one seed, but for those that its world is ``without``."""

    def __init__(self, seed: int, without: frozenset[str] = frozenset()) -> None:
        self.random = chance = random.Random(seed)
        sites = chance.choices("123456", (3, 34, 38, 17, 5, 3))[0]
        blocks = chance.choice((24, 32, 48, 64))
        block_size = chance.choices((512, 1024), (7, 3))[0]
        whole = blocks * block_size
        self.options = Options(
            names="abcdef"[: int(sites)],
            blocks=blocks,
            block_size=block_size,
            sets_bytes=1 << 30 if chance.random() < 0.7 else 144 * block_size + 16384,
            areas_bytes=1 << 30 if chance.random() < 0.8 else whole,
            paid=seed % 3 == 2,
        )
        drawn = {name: weight for name, weight in COMMANDS.items() if name in ALWAYS or chance.random() < 0.75}
        self._commands = {name: weight for name, weight in drawn.items() if name not in without}
        self.kinds = [kind for kind in [kind for kind in KINDS if chance.random() < 0.4] if kind not in without]
        self._fault_rate = chance.choice((0.0, 0.005, 0.01, 0.02, 0.04)) if self.kinds else 0.0
        self._write_rate = chance.choice((0.1, 0.2, 0.3))
        self._command_rate = chance.choice((0.02, 0.04, 0.08))
        self._names = list(self._commands)
        self._weights = list(self._commands.values())
        rate = chance.choice((0.0, 0.1, 0.3)) if self._fault_rate else 0.0
        self.aims = Aims(chance, self.kinds, rate, write=self._write, commands=self._commands, without=without)
        self._last = (0, 1)
        self._count = 0

    def draw(self, world: Topology) -> Event:
        """The next event."""
        self._count += 1
        chance, sites = self.random, world.fault_sites
        aimed = self.aims.draw(world)
        if aimed is not None:
            return aimed
        what = chance.random()
        if what < self._fault_rate:
            return self._fault(world)
        what -= self._fault_rate
        if what < self._command_rate:
            return self._command(world)
        what -= self._command_rate
        if what < self._write_rate:
            primary = self._primary(world)
            if primary is not None:
                return self._write(primary)
        up = [site for site in sites.values() if not site.is_paused]
        if not up:
            return Event("sleep", next(iter(sites)), a=1)
        return self._step(up[int(chance.random() * len(up))])

    def _step(self, site: FaultSite) -> Event:
        chance = self.random
        if site.is_paused:
            return Event("sleep", site.name, a=1)
        if (site.zombies or site.ghosts) and chance.random() < 0.2:
            return Event("zombie step" if site.zombies else "ghost step", site.name, a=chance.randrange(4))
        names = site.step_names()
        return Event(STEPS, site.name, names[int(chance.random() * len(names))])

    def _primary(self, world: Topology) -> FaultSite | None:
        primaries = [each for each in world.fault_sites.values() if isinstance(each.replica, PrimaryReplica)]
        return primaries[int(self.random.random() * len(primaries))] if primaries else None

    def _write(self, site: FaultSite) -> Event:
        chance, blocks = self.random, site.disk.block_count
        what = chance.random()
        if what < 0.12:
            return Event("flush", site.name)
        start, count = self._last
        if what < 0.8 or start + count > blocks:
            count = min(blocks, chance.choice((1, 1, 1, 2, 3, 5, 8)))
            start = int(chance.random() * (blocks - count + 1))
            self._last = (start, count)
        kind = "zero" if what > 0.94 else "discard" if what > 0.86 else "write"
        return Event(kind, site.name, "", start, count)

    def _command(self, world: Topology) -> Event:
        chance = self.random
        kind = chance.choices(self._names, self._weights)[0]
        names = list(world.fault_sites)
        primary, other = self._primary(world), chance.choice(names)
        site = primary.name if primary is not None else names[0]
        number = chance.randrange(12)
        if kind == "policy" and self.options.sets_bytes < 1 << 30 and number >= 8:
            number, other = PULL_AHEAD, site  # congestion matters where there is little room
        if kind in AT_SECONDARY:
            names = [each.name for each in world.fault_sites.values() if not each.is_primary] or names
            other = names[number % len(names)]
        if kind in AT_ANY:
            return Event(kind, other, "", number if kind == "policy" else number % 3 // 2, self._count)
        if kind in {"resync", "rewind"}:
            return Event(kind, other, site)
        if kind == "resize":
            return Event(kind, site, "", chance.randrange(16, 72))
        if kind == "sleep":
            return Event(kind, site, "", chance.choice((1, 10, 100, 3600)))
        if kind in {"snapshot", "delete-snapshot", "restore"}:
            number %= 3
        return Event(kind, site, other, number, self._count)

    def _fault(self, world: Topology) -> Event:
        """A fault somewhere."""
        chance, names = self.random, list(world.fault_sites)
        kind, site = chance.choice(self.kinds), chance.choice(names)
        other = chance.choice([name for name in names if name != site] or names)
        what = chance.random()
        if kind in {"partition", "one-way partition", "slow peer"} and what < 0.5:
            return Event("mend", site)
        if kind == "rollback" and what < 0.6:
            return Event("save state", site)
        if kind == "duplicate session":
            primary = self._primary(world)
            if primary is not None and primary.senders:
                return Event(kind, primary.name, chance.choice(sorted(primary.senders)))
        if kind == "clock jump":
            return Event(kind, site, "", chance.randrange(1000))
        reach = 40 if kind in {"power failure", "link cut", "garbled payload"} else 12
        return Event(kind, site, other, chance.randrange(1, reach))
