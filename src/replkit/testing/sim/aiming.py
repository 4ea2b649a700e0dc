"""Faults aimed at phases that pass quickly: short stories of events that lead a site into one, and keep it there.

Drawn at random, most faults meet a site at rest, and some phases hardly ever: a role that is granted is taken at the
next call. A story is drawn while it happens, from the seed and from what the run has met so far, so a seed stays a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from random import Random

from replkit.replication.cells import Root
from replkit.testing.sim.coverage import CANNOT
from replkit.testing.sim.faults import phase_of
from replkit.testing.sim.topology import FaultSite, Topology
from replkit.testing.sim.workload import STEPS, Event

LOOK_EVERY, STEPS_AFTER, STEPS_OF_WORK, HANDOVER_STEPS = 5, 8, 36, 90
WEIGHTS = {
    "primary": 1, "cutting": 3, "giving a copy": 3, "giving a difference": 4, "fenced": 8, "draining": 8, "granted": 20,
    "empty": 4, "copying": 4, "following": 1, "playing": 4, "asking": 8, "resyncing": 6,
}  # fmt: skip
"""How much a site in this phase draws a fault."""
KEYS = {
    "primary": {"cutter", "send", "trimmer"},
    "cutting": {"cutter"},
    "giving a copy": {"send", "members"},
    "giving a difference": {"send", "members"},
    "fenced": {"cutter", "trimmer", "members", "maintenance", "send"},
    "draining": {"cutter", "draining", "send"},
    "granted": {"handover", "receive", "player"},
    "empty": {"receive"},
    "copying": {"receive"},
    "following": {"receive", "player"},
    "playing": {"player", "receive"},
    "asking": {"resync"},
    "resyncing": {"receive", "resync"},
}
"""The steps of a site that do something in this phase."""
GIVING = {"primary", "cutting", "giving a copy", "giving a difference", "draining"}
"""Phases from which a role is handed over."""
CALLING = {"granted", "asking", "resyncing"}
"""Phases in which a site calls others by itself."""
OWN = {STEPS, "sleep", "write", "zero", "discard", "flush"}
"""Events that every seed has."""
NEEDS_WORK = {"rot", "misdirected read", "write error", "disk full"}
"""Faults that come true only where sets are sent, kept or played."""
TWO_SITES = {"partition", "one-way partition", "slow peer"}


class Aims:
    """The stories of one seed: ``kinds`` of faults, and a story at a share ``rate`` of the looks.

    Args:
        write: draws what a user does at a primary.
        commands: those that this seed has.
        without: events that cannot happen.
    """

    def __init__(
        self, chance: Random, kinds: list[str], rate: float, *, write: Callable[[FaultSite], Event],
        commands: Collection[str], without: Collection[str],
    ) -> None:  # fmt: skip
        self._chance, self._kinds, self._rate, self._write = chance, kinds, rate, write
        self._commands, self._may_hand_over = commands, "handover" in commands
        self._may_fence = {"promote", "pause", "resume"} <= set(commands)
        self._may_hold = "lost reply" not in without
        self._returns = [name for name in ("resync", "rewind") if name in commands]
        self._extras = [name for name in ("cut", "snapshot", "verify") if name in commands]
        self._story: Iterator[Event] | None = None
        self._count = 0
        self.met: Counter[tuple[str, str]] = Counter()
        """Which fault has come true in which phase in this run."""

    def draw(self, world: Topology) -> Event | None:
        """The next event of the story under way, or of one that begins now."""
        self._count += 1
        if self._story is None and self._rate and not self._count % LOOK_EVERY and self._chance.random() < self._rate:
            self._story = self._begin(world)
        event = next(self._story, None) if self._story is not None else None
        if event is None:
            self._story = None
            return None
        is_step = event.kind == STEPS and world.fault_sites[event.site].is_paused
        return Event("sleep", event.site, a=1) if is_step else event

    def _begin(self, world: Topology) -> Iterator[Event]:
        chance, up = self._chance, [site for site in world.fault_sites.values() if not site.is_paused]
        phases = {site.name: phase_of(site) for site in up}
        if self._may_hand_over and chance.random() < 0.15:
            givers = [site for site in up if phases[site.name] in GIVING and self._is_followed(world, site)]
            if givers:
                return self._hand_over(world, chance.choice(givers))
        if self._may_fence and chance.random() < 0.03:
            return self._fence(world, chance.choice(up)) if up else iter(())
        primaries = sorted((site for site in up if site.is_primary), key=lambda each: each.durable_root().epoch.count)
        if len(primaries) > 1 and self._returns and chance.random() < 0.25:
            return self._return(world, primaries[0], primaries[-1])
        if not up:
            return iter(())
        (site,) = chance.choices(up, [WEIGHTS.get(phases[each.name], 1) for each in up])
        return self._ask(world, site) if phases[site.name] == "asking" else self._aim(world, site)

    # -- stories --

    def _aim(self, world: Topology, site: FaultSite, work: Iterator[Event] | None = None) -> Iterator[Event]:
        """A fault at a site, and steps, those of ``work`` or drawn ones, until it came true or the phase is over."""
        phase = phase_of(site)
        able = [kind for kind in self._kinds if (kind, phase) not in CANNOT]
        kinds = [kind for kind in able if not self.met[kind, phase]] or able
        if not kinds or phase not in KEYS:
            return
        needs_work = [each for each in kinds if each in NEEDS_WORK] if work is not None else []
        kind = self._chance.choice(needs_work if needs_work and self._chance.random() < 0.7 else kinds)
        before = self.met[kind, phase]
        yield from self._plan(world, site, kind)
        for _ in range(STEPS_AFTER if work is None else STEPS_OF_WORK):
            if site.is_paused or phase_of(site) != phase or self.met[kind, phase] > before:
                break
            if kind == "lost reply" and phase not in CALLING and "resync" in self._commands:
                yield Event("resync", site.name, self._chance.choice([*world.fault_sites]))  # its operator's call
            else:
                event = next(work, None) if work is not None else None
                yield event or self._step(world, site, phase)
        if kind in TWO_SITES and self._chance.random() < 0.7:
            yield Event("mend", site.name)

    def _plan(self, world: Topology, site: FaultSite, kind: str) -> Iterator[Event]:
        chance, names = self._chance, [name for name in world.fault_sites if name != site.name]
        other = self._other(world, site)
        far = other.name if other is not None and chance.random() < 0.7 else chance.choice(names or [site.name])
        if kind == "rollback":
            if site.is_primary:  # of one that has something in its page cache no image is made
                yield Event("flush", site.name)
            yield Event("save state", site.name)
            yield self._step(world, site, phase_of(site))
        if kind == "duplicate session":
            senders = sorted(site.senders)
            if not senders:
                return
            far = chance.choice(senders)
        number = chance.randrange(1000) if kind == "clock jump" else chance.randrange(1, 4)
        yield Event(kind, site.name, far, number)

    def _hand_over(self, world: Topology, giver: FaultSite) -> Iterator[Event]:
        """A role is handed to a member, and faults come while it is granted and not yet taken, or not known to be."""
        heir = self._heir(world, giver)
        if heir is None:
            return
        yield Event("mend", giver.name)
        if phase_of(giver) != "draining":
            yield Event("handover", giver.name, heir.name, 0, self._count)
        turns = [
            (giver, f"send:{heir.name}"), (heir, "receive"), (giver, f"send:{heir.name}"), (heir, "player"),
            (heir, "receive"), (giver, f"send:{heir.name}"), (giver, "draining"),
        ]  # fmt: skip
        for number in range(HANDOVER_STEPS):
            if phase_of(giver) != "draining" or giver.is_paused or heir.is_paused:
                break
            site, name = turns[number % len(turns)]
            yield Event(STEPS, site.name, name)
        work: Iterator[Event] | None = None
        if self._may_hold and phase_of(giver) == "granted" and self._chance.random() < 0.6:
            yield Event(STEPS, giver.name, "handover")
            yield Event("lost reply", giver.name, heir.name, 1)
            yield Event(STEPS, giver.name, "handover")  # the heir is the primary now, and this site does not know it
            work = self._work(giver, heir)
        for _ in range(6):
            if phase_of(giver) == "granted" and not giver.is_paused:
                yield from self._aim(world, giver, work)

    def _fence(self, world: Topology, site: FaultSite) -> Iterator[Event]:
        """A primary that meets a higher epoch still has sets for a member that has not."""
        members = [each for each in _members(world, site.durable_root()) if not each.is_primary and not each.is_paused]
        if not site.is_primary or phase_of(site) == "fenced" or len(members) < 2:
            return
        behind, other = self._chance.sample(members, 2)
        yield Event("pause", site.name, behind.name)
        for _ in range(3):
            yield self._write(site)
            yield Event("cut", site.name)
        yield from self._meet(site, other)
        yield Event("resume", site.name, behind.name)
        work = self._work(behind, site)
        for _ in range(3):
            if phase_of(site) == "fenced" and not site.is_paused:
                yield from self._aim(world, site, work)

    def _meet(self, site: FaultSite, other: FaultSite) -> Iterator[Event]:
        """A member is promoted, and its primary learns of it from it."""
        yield Event("promote", other.name, "", 1, self._count)
        yield Event("sleep", site.name, a=1)
        for _ in range(3):
            yield Event(STEPS, site.name, f"send:{other.name}")
            yield Event(STEPS, other.name, "receive")
        yield Event(STEPS, site.name, "send:" + other.name)
        yield Event(STEPS, site.name, "fence")

    def _return(self, world: Topology, loser: FaultSite, winner: FaultSite) -> Iterator[Event]:
        """A rival primary returns."""
        yield Event("mend", loser.name)
        yield Event(self._chance.choice(self._returns), loser.name, winner.name)
        if phase_of(loser) == "asking":
            yield from self._ask(world, loser)

    def _ask(self, world: Topology, asker: FaultSite) -> Iterator[Event]:
        """A site that asks for a resync: the list of its blocks is damaged, or the answer is lost, or another fault."""
        what, resync = self._chance.random(), asker.durable_root().resync
        if what < 0.4 and "garbled payload" in self._kinds:
            yield from self._garble_list(world, asker)
        peer, work = self._other(world, asker), None
        if self._may_hold and what < 0.7 and resync is not None and peer is not None:
            calls = len(asker.store.list(f"{resync.list_key}/")) if resync.list_key else 0
            yield Event("lost reply", asker.name, "", calls + 1)
            yield Event(STEPS, asker.name, "resync")  # it is a member now, and does not know it
            work = self._work(asker, peer)
        for _ in range(4):
            if phase_of(asker) == "asking" and not asker.is_paused:
                yield from self._aim(world, asker, work)

    def _garble_list(self, world: Topology, asker: FaultSite) -> Iterator[Event]:
        """A list of blocks is damaged on its way to a primary, which is brought into a phase of its own before."""
        peer = self._other(world, asker)
        if peer is None or peer.is_paused:
            return
        others = [each for each in _members(world, peer.durable_root()) if each not in {asker, peer}]
        ways: dict[str, list[Event]] = {"cutting": [self._write(peer), Event(STEPS, peer.name, "cutter")]}
        for other in others:
            ways["giving a copy"] = [Event("copy-again", peer.name, other.name)]
            ways["giving a difference"] = [Event("stale", peer.name), Event("catch-up", peer.name, other.name)]
            ways["draining"] = [Event("handover", peer.name, other.name, 0, self._count)]
            ways["fenced"] = [*self._meet(peer, other)]
        able = [phase for phase in ways if all(each.kind in self._commands or each.kind in OWN for each in ways[phase])]
        fresh = [phase for phase in able if not self.met["garbled payload", phase]] or able
        yield from ways[self._chance.choice([*fresh, *["fenced"] * 3 * ("fenced" in fresh)])]
        yield Event("garbled payload", peer.name, asker.name, 1)
        for _ in range(3):
            if asker.durable_root().resync is not None and not asker.is_paused:
                yield Event(STEPS, asker.name, "resync")

    # -- steps --

    def _work(self, site: FaultSite, primary: FaultSite) -> Iterator[Event]:
        """What is written at a primary comes to a site and is played there, while the site itself calls nobody."""
        while primary.is_primary:
            yield self._write(primary)
            yield Event("cut", primary.name)
            yield Event(STEPS, primary.name, "members")
            for _ in range(6):
                yield Event(STEPS, primary.name, f"send:{site.name}")
                yield Event(STEPS, site.name, "receive")
            yield Event(STEPS, site.name, "player")
            yield Event(STEPS, site.name, "player")

    def _step(self, world: Topology, site: FaultSite, phase: str) -> Event:
        """A step that does something in this phase, mostly; of the site itself or of the one that it works with."""
        chance, what = self._chance, self._chance.random()
        other = self._other(world, site)
        if what < 0.3 and other is not None and not other.is_paused:
            return self._step_of_other(site, other)
        names = site.step_names()
        if what < 0.4 and self._extras and site.is_primary:
            return Event(chance.choice(self._extras), site.name, "", 2, self._count)
        own = [name for name in names if name.partition(":")[0] in KEYS.get(phase, ())]
        return Event(STEPS, site.name, chance.choice(own if own and what < 0.9 else names))

    def _step_of_other(self, site: FaultSite, other: FaultSite) -> Event:
        if not other.is_primary:
            return Event(STEPS, other.name, self._chance.choice(("receive", "receive", "player")))
        what = self._chance.random()
        if what < 0.35:
            return self._write(other) if what < 0.2 else Event("cut", other.name)
        return Event(
            STEPS, other.name, self._chance.choice((f"send:{site.name}", f"send:{site.name}", "members", "cutter"))
        )

    def _other(self, world: Topology, site: FaultSite) -> FaultSite | None:
        """The site with which one works: the primary of a member, or a member of a primary."""
        sites, root = world.fault_sites, site.durable_root()
        if site.is_primary:
            members = [each for each in _members(world, root) if not each.is_primary]
            return self._chance.choice(members) if members else None
        if root.resync is not None:
            peer = sites.get(root.resync.peer.removeprefix("sim:"))
            return peer if peer is not None and peer.is_primary else None
        above = [each for each in sites.values() if each.is_primary and site in _members(world, each.durable_root())]
        return above[-1] if above else None

    def _is_followed(self, world: Topology, site: FaultSite) -> bool:
        """Whether a member is near enough that the role could be handed to it at once."""
        heir = self._heir(world, site)
        return heir is not None and heir.durable_root().last.number >= site.durable_root().last.number - 4

    @staticmethod
    def _heir(world: Topology, site: FaultSite) -> FaultSite | None:
        """The member to which a primary hands its role, or could."""
        root = site.durable_root()
        wanted = root.handover.member if root.handover is not None else ""
        for member in root.members:
            target = world.fault_sites.get(member.name)
            if target is None or target is site or target.is_paused or target.is_primary:
                continue
            if member.name == wanted or (not wanted and member.state == "following"):
                return target
        return None


def _members(world: Topology, root: Root) -> list[FaultSite]:
    return [world.fault_sites[each.name] for each in root.members if each.name in world.fault_sites]
