"""A whole simulated topology: one primary, some secondaries, a network, a clock and a model."""

from __future__ import annotations

import random
from collections.abc import Callable

from replkit.errors import RecordMissingError, ReplkitError, WrongRoleError
from replkit.replication.cells import MemberProgress, sent_cell
from replkit.replication.policy import Policy
from replkit.replication.root import load_struct
from replkit.testing.crashing import PowerFailure
from replkit.testing.runtime import ManualRuntime
from replkit.testing.sim.machines import BLOCK_SIZE, Machine, SimPrimary, SimSecondary, Step
from replkit.testing.sim.model import InvariantError, Model, read_all
from replkit.testing.sim.network import SimNetwork

DEFAULT_POLICY = Policy(interval_s=1.0, chunk_bytes=4096, retry_s=0.1, slow_retry_s=0.5)


class World:
    """Built from a seed; ``tick`` runs one step of one service, ``settle`` runs all until nothing is left to do."""

    def __init__(
        self,
        seed: int = 0,
        *,
        secondaries: int = 1,
        block_count: int = 64,
        policy: Policy = DEFAULT_POLICY,
        sets_bytes: int = 1 << 30,
        member_sets_bytes: int = 1 << 30,
        found: bytes = b"",
    ) -> None:
        """``found`` is what the disks of the secondaries hold before they are replicas."""
        self.random = random.Random(seed)
        self.runtime = ManualRuntime(seed=seed, waits_advance=True)
        self.model = Model(block_count, BLOCK_SIZE)
        self.network = SimNetwork()
        self.block_count = block_count
        self.primary = SimPrimary(
            self.runtime, self.model, self.network, policy=policy, seed=seed, block_count=block_count,
            sets_bytes=sets_bytes,
        )  # fmt: skip
        self.secondaries = [
            SimSecondary(
                f"m{index}", self.runtime, self.model, self.network, seed=seed + 1 + index, block_count=block_count,
                sets_bytes=member_sets_bytes,
            )
            for index in range(secondaries)
        ]  # fmt: skip
        for secondary in self.secondaries:
            if found:
                secondary.disk.write(0, found)
                secondary.disk.flush()
        for machine in self.machines:
            machine.start()

    @property
    def machines(self) -> list[SimPrimary | SimSecondary]:
        """All of them."""
        return [self.primary, *self.secondaries]

    def add_members(self) -> None:
        """Make every secondary a member."""
        for secondary in self.secondaries:
            self.primary.replica.add_member(secondary.name, secondary.url, "vol")

    # -- the application --

    def write(self, block: int, data: bytes) -> None:
        """Write through the primary's stack."""
        self.model.write(block, data)
        self.primary.replica.volume.write(block, data)

    def write_some(self) -> None:
        """A random write of a few blocks, sometimes zeros, a discard, or a flush."""
        count = self.random.randrange(1, 6)
        block = self.random.randrange(self.block_count - count)
        what = self.random.random()
        volume = self.primary.replica.volume
        if what < 0.1:
            volume.flush()
            self.model.flush()
        elif what < 0.2:
            self.model.write(block, bytes(count * BLOCK_SIZE))
            volume.discard(block, count)
        else:
            fill = b"" if what < 0.3 else self.random.randbytes(BLOCK_SIZE)
            self.write(block, (fill or bytes(BLOCK_SIZE)) * count)

    # -- time --

    def tick(self) -> None:
        """One step of one service of one machine that is up, chosen by the seed; the clock moves on a little."""
        up = [machine for machine in self.machines if machine.is_up]
        if not up:
            return
        machine = self.random.choice(up)
        self.run(machine, self.random.choice(machine.steps()))
        self.runtime.advance(self.random.choice((0.0, 0.001, 0.05)))

    def run(self, machine: Machine, step: Step) -> None:
        """One step; an error that a driver would log and try again is not the end."""

        def quietly() -> None:
            try:
                step()
            except ReplkitError as error:
                self.model.errors.append(f"{type(error).__name__}: {error}")

        machine.guarded(quietly)

    def round(self) -> None:
        """Every service of every machine once; what is down is started."""
        for machine in self.machines:
            if not machine.is_up:
                self.restart(machine)
            for step in machine.steps() if machine.is_up else ():
                if machine.is_up:
                    self.run(machine, step)
        self.runtime.advance(0.05)

    def settle(self, done: Callable[[], bool] | None = None, rounds: int = 3000) -> None:
        """Heal everything and run until ``done``, or until every member has played all; else the test fails."""
        self.network.down.clear()
        self.network.break_after(None)
        for machine in self.machines:
            machine.power.fail_at(None)
        done = done or self.has_converged
        for _ in range(rounds):
            if done():
                return
            self.copy_stale_again()
            self.round()
        raise InvariantError(f"did not settle in {rounds} rounds; last errors: {self.model.errors[-5:]}")

    def copy_stale_again(self) -> None:
        """What an operator does about a stale member."""

        def copy_again() -> None:
            for member in self.primary.replica.root.members:
                if member.state != "stale":
                    continue
                try:
                    self.primary.replica.members.catch_up(member.name)
                except (RecordMissingError, WrongRoleError):
                    self.primary.replica.copy_again(member.name)

        if self.primary.is_up:
            self.primary.guarded(copy_again)

    def has_converged(self) -> bool:
        """Every member has played all that was written."""
        if not all(machine.is_up for machine in self.machines):
            return False
        root = self.primary.replica.root
        if self.primary.replica.volume.dirty_blocks or self.primary.replica.cutter.is_cutting:
            return False
        return all(
            secondary.replica.root.is_at_boundary and secondary.replica.player.position == root.last
            for secondary in self.secondaries
            if any(member.name == secondary.name and member.state != "stale" for member in root.members)
        )

    def restart(self, machine: Machine) -> None:
        """Start a machine that is down; it may fail again while it recovers."""
        if isinstance(machine, SimPrimary):
            self.model.crashed(read_all(machine.disk))
        machine.guarded(machine.start)  # type: ignore[attr-defined]
        if machine.is_up and isinstance(machine, SimPrimary):
            self.model.committed(machine.replica.root.last)

    def crash(self, machine: Machine) -> None:
        """Pull the plug now."""
        machine.fail()

    # -- checks --

    def check(self) -> None:
        """Every invariant that can be seen from outside now."""
        for secondary in self.secondaries:
            if not secondary.is_up:
                continue
            replica = secondary.replica
            self.model.check_view(secondary.name, replica.view())
            root = replica.root
            stands = root.is_at_boundary
            if stands:
                self.model.check_ascends(f"{secondary.name} received", root.last.number)
                self.model.check_ascends(f"{secondary.name} played", replica.player.position.number)
                if replica.player.is_at_rest:
                    self.model.check_boundary(secondary.name, replica.player.position, read_all(secondary.disk))
            progress, _version = load_struct(self.primary.save, sent_cell(secondary.name), MemberProgress)
            if progress is not None and progress.received is not None:
                self.model.check_acknowledged(secondary.name, progress.received.number, root.last.number)
            if progress is not None and progress.played is not None and stands:
                played = replica.player.position.number
                self.model.check_acknowledged(f"{secondary.name} (played)", progress.played.number, played)

    def check_equal(self) -> None:
        """After ``settle``: every secondary's disk equals the primary's."""
        image = bytes(self.model.image)
        if read_all(self.primary.disk) != image:
            raise InvariantError("the primary's disk is not what was written")
        for secondary in self.secondaries:
            wrong = different_blocks(read_all(secondary.disk), image)
            if wrong:
                raise InvariantError(f"{secondary.name} differs from the primary in blocks {wrong[:20]}")


def different_blocks(left: bytes, right: bytes) -> list[int]:
    """Numbers of the blocks in which two images differ."""
    parts = [slice(at, at + BLOCK_SIZE) for at in range(0, len(right), BLOCK_SIZE)]
    return [number for number, part in enumerate(parts) if left[part] != right[part]]


__all__ = ["DEFAULT_POLICY", "PowerFailure", "World"]
