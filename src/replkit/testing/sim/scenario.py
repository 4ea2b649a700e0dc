"""One seeded run: writes, crashes and breaks in the order that the seed says, then healing and convergence."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from replkit.errors import InconsistentError
from replkit.replication.view import PinnedView
from replkit.testing.crashing import PowerFailure
from replkit.testing.sim.machines import SimSecondary
from replkit.testing.sim.model import InvariantError, read_all
from replkit.testing.sim.world import DEFAULT_POLICY, World

SMALL_BYTES = 44 * 1024
"""More than one set of the whole volume, less than two."""
PULL_AHEAD = msgspec.structs.replace(DEFAULT_POLICY, congestion="pull-ahead")


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Which faults a run has; each seed draws a subset (swarm testing)."""

    primary_crashes: bool = False
    secondary_crashes: bool = False
    link_breaks: bool = False
    small_save: bool = False
    pull_ahead: bool = False
    pins: bool = False
    stale: bool = False
    """Members are declared stale, and catch up by what changed."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run met, so that a test can see that faults really happened."""

    cuts: int
    received: int
    played: int
    crashes: int
    messages: int
    trace: int


def draw_faults(seed: int) -> Faults:
    """The subset of faults of a seed: its low bits."""
    return Faults(
        primary_crashes=bool(seed & 1),
        secondary_crashes=bool(seed & 2),
        link_breaks=bool(seed & 4),
        small_save=bool(seed & 8),
        pull_ahead=bool(seed & 16),
        pins=bool(seed & 32),
        stale=bool(seed & 64),
    )


def run(
    seed: int, *, steps: int = 400, secondaries: int = 2, faults: Faults | None = None, settle_rounds: int = 3000
) -> Outcome:
    """Run a seed to its end; ``InvariantError`` names what was broken. The same seed gives the same outcome."""
    faults = faults or draw_faults(seed)
    world = World(
        seed,
        secondaries=secondaries,
        block_count=64,
        policy=PULL_AHEAD if faults.pull_ahead else DEFAULT_POLICY,
        sets_bytes=SMALL_BYTES if faults.pull_ahead else 1 << 30,
        member_sets_bytes=SMALL_BYTES if faults.small_save else 1 << 30,
    )
    chance = world.random
    pins = Pins(world)
    world.add_members()
    trace = 0
    for _ in range(steps):
        for machine in world.machines:
            if not machine.is_up and chance.random() < 0.3:
                world.restart(machine)
        if world.primary.is_up and chance.random() < 0.4:
            _write(world)
        _plan_fault(world, faults)
        world.tick()
        world.check()
        if faults.pins:
            pins.step()
        numbers = tuple(machine.replica.root.last.number for machine in world.machines if machine.is_up)
        trace = hash((trace, numbers, world.network.messages))
    pins.release()
    world.settle(rounds=settle_rounds)
    world.check()
    world.check_equal()
    return Outcome(
        cuts=world.model.cuts,
        received=world.model.received,
        played=world.model.played,
        crashes=sum(machine.crashes for machine in world.machines),
        messages=world.network.messages,
        trace=trace,
    )


def _write(world: World) -> None:
    try:
        world.write_some()
    except PowerFailure:
        world.crash(world.primary)


def _plan_fault(world: World, faults: Faults) -> None:
    chance = world.random
    if faults.primary_crashes and chance.random() < 0.02:
        world.primary.power.fail_at(chance.randrange(1, 60))
    if faults.secondary_crashes and chance.random() < 0.03:
        chance.choice(world.secondaries).power.fail_at(chance.randrange(1, 60))
    if faults.link_breaks and chance.random() < 0.05:
        world.network.break_after(chance.randrange(1, 20))
    if faults.stale and world.primary.is_up:
        if chance.random() < 0.02:
            world.primary.guarded(lambda: world.primary.replica.congestion.mark_stale("drawn"))
        elif chance.random() < 0.1:
            world.copy_stale_again()


class Pins:
    """Views that stay at a boundary: whatever is played meanwhile, they show what they showed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._pins: list[tuple[SimSecondary, int, PinnedView]] = []

    def step(self) -> None:
        """Pin, read or release one, as the seed says."""
        chance = self._world.random
        self._pins = [pin for pin in self._pins if pin[0].is_up and pin[0].crashes == pin[1]]
        what = chance.random()
        if what < 0.05:
            machine = chance.choice(self._world.secondaries)
            if machine.is_up:
                self._pin(machine)
        elif self._pins and what < 0.3:
            machine, _crashes, view = chance.choice(self._pins)
            machine.guarded(lambda: self._read(machine, view))
        elif self._pins and what < 0.35:
            machine, _crashes, view = self._pins.pop(chance.randrange(len(self._pins)))
            machine.guarded(view.close)

    def release(self) -> None:
        """Close all, so that playback is free."""
        for machine, crashes, view in self._pins:
            if machine.is_up and machine.crashes == crashes:
                machine.guarded(view.close)

    def _pin(self, machine: SimSecondary) -> None:
        def pin() -> None:
            try:
                self._pins.append((machine, machine.crashes, machine.replica.pin()))
            except InconsistentError:
                return

        machine.guarded(pin)

    def _read(self, machine: SimSecondary, view: PinnedView) -> None:
        try:
            content = read_all(view)
        except InconsistentError as error:  # a new copy replaced the boundary
            if not machine.replica.root.is_at_boundary or "replaced" in error.message:
                return
            raise InvariantError(f"{machine.name}: a pinned view cannot be read: {error}") from error
        self._world.model.check_boundary(f"pin at {machine.name}", view.boundary, content)
