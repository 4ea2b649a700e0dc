"""The machines of a simulation: a primary and its secondaries, each with a plug of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from replkit.contracts.buffers import Buffer
from replkit.contracts.savevolume import Partition
from replkit.contracts.transport import Link
from replkit.errors import LinkClosedError, PeerError, SaveVolumeFullError
from replkit.replication.policy import Policy
from replkit.replication.primary import PrimaryReplica
from replkit.replication.receiver import Receiver, greet
from replkit.replication.secondary import SecondaryReplica
from replkit.replication.sender import Sender
from replkit.testing.crashing import CrashDisk, CrashSaveVolume, Power, PowerFailure
from replkit.testing.runtime import ManualRuntime
from replkit.testing.sim.network import SimNetwork

BLOCK_SIZE = 512
VOLUME = "vol"
Step = Callable[[], object]


class SimSaveVolume(CrashSaveVolume):
    """A save volume with a limit for sets too."""

    def __init__(self, power: Power, *, sets_bytes: int = 1 << 30) -> None:
        super().__init__(power)
        self.sets_bytes = sets_bytes

    def capacity_bytes(self, partition: Partition) -> int:
        """Sets have a limit of their own."""
        return self.sets_bytes if partition is Partition.SETS else super().capacity_bytes(partition)

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Refuse what does not fit."""
        size_bytes = sum(memoryview(part).nbytes for part in parts)
        if key.startswith("sets/") and self.used_bytes(Partition.SETS) + size_bytes > self.sets_bytes:
            raise SaveVolumeFullError(f"no room for {size_bytes} bytes of {key}")
        super().put(key, parts)


class Machine:
    """A disk, a save volume and a plug. ``start`` after ``crash`` finds what was durable."""

    def __init__(self, runtime: ManualRuntime, hooks: Any, *, seed: int, block_count: int, sets_bytes: int) -> None:
        self.runtime, self.hooks = runtime, hooks
        self.power = Power(seed)
        self.disk = CrashDisk(self.power, block_count, block_size=BLOCK_SIZE)
        self.save = SimSaveVolume(self.power, sets_bytes=sets_bytes)
        self.is_up = False
        self.crashes = 0

    def fail(self) -> None:
        """The power failed: lose what was not durable."""
        self.is_up = False
        self.crashes += 1
        self.stop()
        self.power.restore()

    def stop(self) -> None:
        """Drop all that was in memory."""

    def guarded(self, step: Step) -> object:
        """Run a step of this machine; a power failure in it ends the machine, and only it."""
        try:
            return step()
        except PowerFailure:
            self.fail()
            return None


class SimPrimary(Machine):
    """The primary and its senders, all on one plug."""

    def __init__(
        self, runtime: ManualRuntime, hooks: Any, network: SimNetwork, *, policy: Policy, **machine: int
    ) -> None:
        super().__init__(runtime, hooks, **machine)
        self._network, self._policy = network, policy
        self.senders: dict[str, Sender] = {}

    def start(self) -> None:
        """Open the volume stack."""
        self.replica = PrimaryReplica.open(self.disk, self.save, self.runtime, self.hooks, VOLUME, policy=self._policy)
        self.is_up = True

    def stop(self) -> None:
        """The senders go with the machine; their links break."""
        self.senders = {}
        self._network.break_links()

    def sender(self, member: str) -> Sender:
        """The sender to a member, begun again from the save volume where there is none."""
        if member not in self.senders:
            self.senders[member] = Sender(
                self.save, self.disk, self._network, member, self.runtime, self.hooks, name=VOLUME, site="primary"
            )
        return self.senders[member]

    def steps(self) -> list[Step]:
        """Everything that can run next."""
        services = [step for _name, step in self.replica.services()]
        members = [member.name for member in self.replica.root.members]
        return [*services, *(lambda name=name: self.sender(name).step() for name in members)]


class SimSecondary(Machine):
    """A secondary that listens at ``sim:NAME``."""

    def __init__(self, name: str, runtime: ManualRuntime, hooks: Any, network: SimNetwork, **machine: int) -> None:
        super().__init__(runtime, hooks, **machine)
        self.name, self.url = name, f"sim:{name}"
        self._network = network
        self._waiting: list[Link] = []
        self.receivers: list[Receiver] = []

    def start(self) -> None:
        """Open the replica and listen."""
        self.replica = SecondaryReplica.open(self.disk, self.save, self.runtime, self.hooks, VOLUME, site=self.name)
        self._network.listen(self.url, self._waiting.append)
        self.is_up = True

    def stop(self) -> None:
        """Links break, nobody listens."""
        self._waiting.clear()
        self.receivers = []
        self._network.break_links(self.url)
        if self.url in self._network.listening():
            self._network.forget(self.url)

    def steps(self) -> list[Step]:
        """Everything that can run next."""
        services = [step for _name, step in self.replica.services()]
        return [*services, self.receive]

    def receive(self) -> None:
        """Greet new links, and step the receivers."""
        waiting, self._waiting[:] = list(self._waiting), []
        for link in waiting:
            try:
                self.receivers.append(self.replica.accept(greet(link, self.runtime)))
            except PeerError as error:
                if not isinstance(error, LinkClosedError):
                    raise
        self.receivers = [receiver for receiver in self.receivers if receiver.step() is not None]
