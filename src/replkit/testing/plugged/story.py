"""The standard scenarios: one life of a replicated volume, from the first copy to failback, with faults from a seed.

Two sites, ``a`` and ``b``. Whichever has the plugin is primary and secondary, is lost, comes back and is copied from
and to. The simulator's checker looks on after each event, so a chapter says only what must have happened at its end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from replkit.testing.sim.model import InvariantError
from replkit.testing.sim.scale import small_sizes
from replkit.testing.sim.simulation import Outcome, Simulation
from replkit.testing.sim.topology import Devices, Options
from replkit.testing.sim.workload import Event

WRITES: Final = 8
"""So many writes, discards and flushes in each stretch of work."""
ROUNDS: Final = 300
FAULTS: Final = ("power failure", "link cut", "lost reply", "put error", "sync error", "flush error", "write error")


class _TwoSites(Devices):
    """The same devices, in a world of two sites whose save volumes have room."""

    def __init__(self, devices: Devices) -> None:
        self._devices, self.without = devices, devices.without
        self.disk, self.save, self.network = devices.disk, devices.save, devices.network  # type: ignore[method-assign]

    def options(self, drawn: Options) -> Options:
        return self._devices.options(Options(names="ab", blocks=32, block_size=drawn.block_size))


class Story:
    """One run of the standard scenarios; ``faults`` lets each stretch of work meet one that the seed draws."""

    def __init__(self, seed: int, devices: Devices, *, faults: bool) -> None:
        self.chance, self.faults = random.Random(seed), faults
        self.simulation = Simulation(seed, devices=_TwoSites(devices))
        self.a, self.b = (self.simulation.world.fault_sites[name] for name in "ab")
        self._without = devices.without

    def run(self) -> None:
        """All chapters; an error names the one that it is in."""
        for chapter in CHAPTERS:
            try:
                chapter(self)
            except InvariantError as error:
                error.add_note(f"in the standard scenario {chapter.__name__!r}, seed {self.simulation.seed}")
                raise

    # -- chapters --

    def copy(self) -> None:
        """A new copy is made while users write."""
        self._users(self.a)
        self._do(Event("add", "a", "b"), lambda: any(each.name == "b" for each in self.a.durable_root().members))
        self._users(self.a, work=True)
        self._settle()

    def rounds(self) -> None:
        """Sets are cut, sent and played, snapshots made and restored, a view stays where it is."""
        for number in range(3):
            self._try(Event("pin", "b"))
            self._users(self.a, work=True)
            self._try(Event("snapshot", "a", a=number % 2))
            self._try(Event("cut", "a"))
            self._try(Event("read-pin", "b"))
            self._try(Event("unpin", "b"))
        self._try(Event("restore", "a", a=0))
        self._try(Event("resize", "a", a=40))
        self._try(Event("restart", "a"))
        self._try(Event("restart", "b"))
        self._users(self.a, work=True)
        self._settle()

    def failover(self) -> None:
        """The sites lose each other, and the secondary takes over; users write at both."""
        self._try(Event("partition", "a", "b"))
        self._users(self.a)
        self._do(Event("promote", "b"), lambda: self.b.is_primary)
        self._users(self.a)
        self._users(self.b)

    def resync(self) -> None:
        """The old primary comes back, keeps what only it had as salvage, and follows."""
        self._try(Event("mend", "a"))
        self._do(Event("resync", "a", "b"), lambda: not self.a.is_primary)
        self._users(self.b, work=True)
        self._settle()

    def failback(self) -> None:
        """The roles change back, with nothing lost and nothing copied."""
        for _ in range(10):
            self._try(Event("handover", "b", "a", b=self.simulation.checker.next_stamp()))
            if self._rounds(lambda: self.a.is_primary and not self.b.is_primary, 60):
                break
        self._must(self.a.is_primary and not self.b.is_primary, "the role did not come back")
        self._users(self.a, work=True)
        self.simulation.heal()

    # -- what chapters are made of --

    def _try(self, event: Event) -> None:
        if event.kind not in self._without:
            self.simulation.apply(event)

    def _do(self, event: Event, is_done: Callable[[], bool]) -> None:
        """A command, given again while faults spoil it."""
        for _ in range(20):
            self._try(event)
            if is_done():
                return
            self._rounds(is_done, 3)
        self._must(is_done(), f"{event.kind} was refused again and again")

    def _users(self, site: object, *, work: bool = False) -> None:
        """Writes at a site; with ``work`` all services run between them, and perhaps a fault comes true."""
        place = self.a if site is self.a else self.b
        if self.faults and work:
            self._try(Event(self.chance.choice(FAULTS), self.chance.choice("ab"), "", self.chance.randrange(1, 25)))
        for _ in range(WRITES):
            count = self.chance.choice((1, 1, 2, 5))
            start = self.chance.randrange(place.disk.block_count - count)
            kind = self.chance.choice(("write", "write", "write", "discard", "zero", "flush"))
            self._try(Event(kind, place.name, "", start, count))
            if work:
                self._rounds(lambda: False, 1)

    def _rounds(self, is_done: Callable[[], bool], rounds: int) -> bool:
        """Every service of every site, so often, or until it is done."""
        for _ in range(rounds):
            if is_done():
                return True
            for site in (self.a, self.b):
                for name in dict.fromkeys(site.step_names()):
                    self.simulation.apply(Event("step", site.name, name))
            self.simulation.world.runtime.advance(0.1)
        return is_done()

    def _settle(self) -> None:
        """Everything that was written is cut, sent and played."""
        self.simulation.faults.calm()
        primary, other = (self.a, self.b) if self.a.is_primary else (self.b, self.a)

        def is_equal() -> bool:
            member = next((each for each in primary.durable_root().members if each.name == other.name), None)
            if member is None or primary.replica is None or primary.needs_restart or other.needs_restart:
                return False
            if member.state == "stale":
                self._try(Event("catch-up", primary.name, other.name))
            replica = primary.primary
            if replica.volume.dirty_blocks or replica.cutter.is_cutting or replica.root.given_up is not None:
                self._try(Event("cut", primary.name))
                return False
            return self.simulation.world.is_equal(primary, other) and other.secondary.player.is_at_rest

        done = self._rounds(is_equal, ROUNDS)
        errors = {site.name: site.hooks.errors[-3:] for site in (self.a, self.b)}
        self._must(done, f"the two sites did not become equal; the last errors: {errors}")
        self.simulation.checker.check_equal(primary, [other])

    @staticmethod
    def _must(holds: bool, text: str) -> None:
        if not holds:
            raise InvariantError(text)


CHAPTERS: Final = (Story.copy, Story.rounds, Story.failover, Story.resync, Story.failback)


def run_story(seed: int, devices: Devices, *, faults: bool = True) -> Outcome:
    """The standard scenarios with these devices; ``InvariantError`` says what broke, and in which chapter."""
    with small_sizes():
        story = Story(seed, devices, faults=faults)
        with _closing(story.simulation):
            story.run()
        return story.simulation.outcome()


def run_random(seed: int, events: int, devices: Devices) -> Outcome:
    """Events drawn from the seed, then healing; what broke is raised."""
    with small_sizes():
        simulation = Simulation(seed, devices=devices)
        with _closing(simulation):
            outcome = simulation.run(events)
            if outcome.error:
                raise InvariantError(f"seed {seed}: {outcome.error}")
        return outcome


@contextmanager
def _closing(simulation: Simulation) -> Iterator[None]:
    """Close the devices; an error of that does not hide the one that ended the run."""
    try:
        yield
    except BaseException:
        with suppress(AssertionError):
            simulation.close()
        raise
    simulation.close()


__all__ = ["CHAPTERS", "Story", "run_random", "run_story"]
