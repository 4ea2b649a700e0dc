"""One run: events drawn from a seed, or given, each checked; then healing, convergence and equality."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from xxhash import xxh3_64

from replkit.errors import ReplkitError
from replkit.testing.crashing import PowerFailure
from replkit.testing.sim.checker import BrokenInvariantError, Checker
from replkit.testing.sim.commands import Commands, Operator
from replkit.testing.sim.coverage import Coverage
from replkit.testing.sim.faults import STORE_FAULTS, Faults, phase_of
from replkit.testing.sim.generator import Generator
from replkit.testing.sim.scale import small_sizes
from replkit.testing.sim.sites import Sites
from replkit.testing.sim.topology import Devices, FaultSite, MakeSite, Options, StuckError, Topology
from replkit.testing.sim.versions import Versions
from replkit.testing.sim.workload import STEPS, Event, Workload

HEAL_ROUNDS = 400
ROUNDS_A_PASS = 8


@dataclass(kw_only=True)
class Outcome:
    """What a run met."""

    seed: int
    events: int = 0
    trace_hash: str = ""
    simulated_s: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    coverage: Counter[tuple[str, str]] = field(default_factory=Counter)
    error: str = ""
    invariant: int | None = None
    trace: list[Event] = field(default_factory=list)


class Simulation:
    """A world, what happens in it, and the checker that watches."""

    def __init__(
        self,
        seed: int,
        *,
        options: Options | None = None,
        blind: frozenset[int] = frozenset(),
        devices: Devices | None = None,
        make_site: MakeSite = FaultSite,
    ) -> None:
        """``options`` give a world of another shape than the seed would, ``devices`` other stores and links.

        ``make_site`` makes sites that are opened in another way.
        """
        self.seed = seed
        devices = devices or Devices()
        self.generator = Generator(seed, devices.without)
        self.checker, self.coverage = Checker(blind), Coverage()
        self.generator.aims.met = self.coverage.cells
        self.checker.on_closing = self._closing
        self.counts: Counter[str] = Counter()
        options = devices.options(options or self.generator.options)
        self.world = Topology(seed, options, self.checker, devices, make_site)
        self.workload = Workload(self.world, self.checker)
        self.commands = Commands(self.world, self.checker)
        self.faults = Faults(self.world, self.checker, self.coverage)
        self.versions = Versions(self.world, self.checker)
        self.actions = {
            **self.workload.actions, **self.commands.actions, **self.faults.actions, **self.versions.actions,
        }  # fmt: skip
        self._phase, self._phase_of = "", ""
        self._hash = xxh3_64()
        self._started_s = self.world.runtime.monotonic()
        self.events = 0

    def run(self, events: int, script: Sequence[Event] | None = None, *, keep: bool = False) -> Outcome:
        """Run to the end, healing included; a broken invariant is in the outcome, not raised."""
        trace: list[Event] = []
        error_text, invariant = "", None
        try:
            for number in range(events if script is None else len(script)):
                event = self.generator.draw(self.world) if script is None else script[number]
                trace.append(event)
                self.apply(event)
            self.heal()
        except BrokenInvariantError as error:
            error_text, invariant = str(error), error.invariant
        except StuckError as error:
            error_text, invariant = f"stuck: {error}", 0
        outcome = self.outcome()
        outcome.error, outcome.invariant = error_text, invariant
        if keep or error_text:
            outcome.trace = trace
        return outcome

    def outcome(self) -> Outcome:
        """What was met so far."""
        self.counts["crashes"] = sum(site.crashes for site in self.world.fault_sites.values())
        self.counts["messages"] = self.world.net.messages
        self.counts["boundaries"] = len(self.checker.boundaries)
        self.counts["epochs"] = len(self.checker.promotions)
        self.counts["checks"] = self.checker.checks
        return Outcome(
            seed=self.seed,
            events=self.events,
            trace_hash=self._hash.hexdigest(),
            simulated_s=self.world.runtime.monotonic() - self._started_s,
            coverage=self.coverage.cells,
            counts=self.counts,
        )

    def close(self) -> None:
        """Give back what the devices hold outside of the simulation."""
        self.world.net.close()
        for site in self.world.fault_sites.values():
            site.stack.close()
            site.store.close()

    def apply(self, event: Event) -> None:
        """Carry an event out, note it, check."""
        site = self.world.fault_sites.get(event.site)
        if site is None:
            return
        self.events += 1
        self._phase, self._phase_of = phase_of(site), site.name
        self._act(site, event)
        self._settle(event)
        if self.checker.failure is not None:
            raise self.checker.failure
        self.faults.wake()
        self.world.runtime.advance((0.0, 0.005, 0.04)[self.events % 3])
        self._note(event)

    def _act(self, site: FaultSite, event: Event) -> None:
        kind = event.kind
        try:
            if kind == STEPS:
                site.run_step(event.other)
            elif kind == "ghost step":
                for ghost in site.ghosts:
                    ghost.step()
            else:
                self.actions[kind](site, event)
                self.counts[kind] += 1
        except PowerFailure:
            site.crash()
        except ReplkitError as error:
            site.hooks.errors.append(f"{type(error).__name__}: {error}")
            self.counts["refused" if kind != STEPS else "failed steps"] += 1
        except AssertionError as error:
            if "is no primary" in str(error) or "is no secondary" in str(error):
                return  # a command for the other role
            raise
        except Exception as error:
            self.checker.fail(12, site.name, f"{event}: {type(error).__name__}: {error}")

    def _settle(self, event: Event) -> None:
        """Processes that cannot go on are started again, roles that changed are opened; then all is looked at."""
        net = self.world.net
        if net.broke:
            net.broke = False
            self.coverage.add("link cut", self._phase)
        if self.world.lost_replies:
            self.world.lost_replies = 0
            self.coverage.add("lost reply", self._phase)
        garbled_at, net.garbled_at = net.garbled_at, ""
        if garbled_at:
            here = self.world.fault_sites[garbled_at]
            self.coverage.add("garbled payload", self._phase if garbled_at == event.site else phase_of(here))
        for site in self.world.fault_sites.values():
            if site.plug.broke:
                self.coverage.add(site.plug.broke, self._phase if site.name == event.site else phase_of(site))
                site.plug.broke = ""
            if site.needs_restart:
                site.crash()
            elif (site.durable_root().role == "primary") != site.is_primary:
                site.reopen()
            if site.name in {event.site, event.other} or event.kind == "operate":
                self.checker.look(site, closely=self.events % 16 == 0)

    def _closing(self, site: FaultSite) -> None:
        if not (site.stack.failed or site.store.failed):
            self.coverage.add("power failure", self._phase if site.name == self._phase_of else phase_of(site))

    def _note(self, event: Event) -> None:
        numbers = [site.durable_root().last.number for site in self.world.fault_sites.values()]
        self._hash.update(f"{event} {numbers} {self.world.net.messages}\n".encode())

    def heal(self) -> None:
        """Faults end, an operator cares for all: one primary, all others its equal members."""
        self.faults.calm()
        self.versions.calm()
        for name in list(self.workload.pins):
            self._act(self.world.fault_sites[name], Event("unpin", name))
        for site in self.world.fault_sites.values():
            if site.needs_restart:
                site.crash()
        operator = Operator(self.commands)
        for number in range(HEAL_ROUNDS):
            if number % ROUNDS_A_PASS == 0:
                winner = self._converged(operator)
                if winner is not None:
                    self.checker.check_equal(winner, [s for s in self.world.fault_sites.values() if s is not winner])
                    self.counts["full copies at the end"] += operator.full_copies
                    return
                try:
                    operator.pass_once(number // ROUNDS_A_PASS)
                except (ReplkitError, PowerFailure):
                    self.counts["operator refused"] += 1
                self._settle(Event("operate", "a"))
            for site in self.world.fault_sites.values():
                for name in dict.fromkeys(site.step_names()):
                    self.apply(Event(STEPS, site.name, name))
            self.world.runtime.advance(0.1)
        raise BrokenInvariantError(0, "all", self._why())

    def _converged(self, operator: Operator) -> FaultSite | None:
        """The primary, when all that is left to do is done."""
        winner = operator.winner()
        if winner is None:
            return None
        try:
            root, volume = winner.primary.root, winner.primary.volume
            is_busy = root.fenced is not None or root.handover is not None or volume.stats()["writes_suspended"]
            if not is_busy and (volume.dirty_blocks or winner.primary.cutter.is_cutting or root.given_up is not None):
                winner.primary.cut()
                is_busy = True
            known = {member.name for member in root.members}
            others = [site for site in self.world.fault_sites.values() if site is not winner]
            is_done = not is_busy and all(
                not site.is_primary
                and site.name in known
                and Sites.is_equal(winner, site)
                and site.secondary.player.is_at_rest
                for site in others
            )
        except ReplkitError:
            return None
        return winner if is_done else None

    def _why(self) -> str:
        lines = []
        for site in self.world.fault_sites.values():
            root = site.durable_root()
            members = [(each.name, each.state) for each in root.members]
            lines.append(
                f"{site.name}: {phase_of(site)} at {root.last} epoch {root.epoch.count} fenced {root.fenced} "
                f"resync {root.resync} members {members} errors {site.hooks.errors[-3:]}"
            )
        return "did not converge: " + "; ".join(lines)


def run_seed(
    seed: int,
    events: int,
    script: Sequence[Event] | None = None,
    *,
    blind: frozenset[int] = frozenset(),
    keep: bool = False,
) -> Outcome:
    """A whole run of a seed, or of a script in the world of that seed."""
    with small_sizes():
        return Simulation(seed, blind=blind).run(events, script, keep=keep)


__all__ = ["STORE_FAULTS", "Outcome", "Simulation", "run_seed"]
