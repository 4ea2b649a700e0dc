"""Sites under faults: the world of the recovery stories with disks, links, clocks and processes that fail."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, Protocol

import msgspec

from replkit.contracts.buffers import Buffer
from replkit.errors import FencedError, LinkClosedError, LinkTimeoutError, ReplkitError
from replkit.recovery.fence import Fence
from replkit.recovery.handover import Draining, HandoverService
from replkit.recovery.peer import Peer
from replkit.recovery.resync import ResyncDriver
from replkit.replication.cells import Root
from replkit.replication.policy import Policy
from replkit.replication.primary import PrimaryReplica
from replkit.replication.secondary import SecondaryReplica
from replkit.replication.sender import Sender
from replkit.testing.crashing import PowerFailure
from replkit.testing.sim.devices import FaultDisk, FaultSave
from replkit.testing.sim.links import ADDED_LATER, FaultNetwork, Port
from replkit.testing.sim.plug import Plug
from replkit.testing.sim.simruntime import SimRuntime, StuckError, WouldWaitError
from replkit.testing.sim.sites import VOLUME, Recorder, Site, Sites

POLICY = Policy(interval_s=2.0, chunk_bytes=4096, retry_s=0.1, slow_retry_s=0.3, keep_sets=0)


class Watch(Protocol):
    """What a checker is told."""

    def freeze(self, site: FaultSite) -> None:
        """A cut comes now."""

    def was_cut(self, site: FaultSite, position: Any) -> None:
        """A set was committed."""

    def publishing(self, site: FaultSite, value: bytes) -> None:
        """A root is about to be swapped in."""

    def crashed(self, site: FaultSite) -> None:
        """The power is back; nothing was opened yet."""

    def started(self, site: FaultSite) -> None:
        """A replica was opened."""

    def closing(self, site: FaultSite) -> None:
        """The power fails, or the process ends, now."""

    def blame(self, site: str, text: str) -> NoReturn:
        """A backend of that site has broken its contract."""


class Devices:
    """What sites are made of. A subclass puts something else in the place of one of them."""

    without: frozenset[str] = frozenset()
    """Events that cannot happen to these devices."""

    def options(self, drawn: Options) -> Options:
        """The shape of the world, as these devices can have it."""
        return drawn

    def disk(self, site: str, plug: Plug, options: Options, watch: Watch) -> FaultDisk:  # noqa: ARG002 - for others
        """The disk of a site."""
        return FaultDisk(plug, options.blocks, block_size=options.block_size)

    def save(self, site: str, plug: Plug, options: Options, watch: Watch) -> FaultSave:  # noqa: ARG002 - for others
        """The save volume of a site."""
        return FaultSave(plug, sets_bytes=options.sets_bytes, areas_bytes=options.areas_bytes, paid=options.paid)

    def network(self, watch: Watch) -> FaultNetwork:  # noqa: ARG002 - for others
        """What is between the sites."""
        return FaultNetwork()


class SiteHooks(Recorder):
    """The event hooks of a site, for the checker."""

    def __init__(self, site: FaultSite) -> None:
        super().__init__()
        self._site = site
        self.error_count = 0

    def replkit_freeze(self, **_: Any) -> None:
        """Before a cut; that of a process which lost its save volume takes no image, as it will be no boundary."""
        if not self._site.is_zombie_running:
            self._site.faults.watch.freeze(self._site)

    def replkit_delta_set_cut(self, position: Any, **_: Any) -> None:
        """After the commit."""
        self._site.faults.watch.was_cut(self._site, position)

    def replkit_error(self, message: str, **_: Any) -> None:
        """Counted; the newest are kept."""
        self.error_count += 1
        self.errors.append(message)
        del self.errors[:-50]


class FaultSite(Site):
    """A site with faulty devices, whose services run one by one."""

    def __init__(self, name: str, world: Topology, *, seed: int, options: Options) -> None:
        self.faults = world
        super().__init__(name, world, seed=seed, blocks=options.blocks, sets_bytes=options.sets_bytes)
        self.plug = Plug(seed)
        self.power = self.plug
        self.disk = world.devices.disk(name, self.plug, options, world.watch)  # type: ignore[assignment]
        self.save = world.devices.save(name, self.plug, options, world.watch)  # type: ignore[assignment]
        self.store.on_root = lambda value: self.faults.watch.publishing(self, value)
        self.hooks = self._told = SiteHooks(self)
        self.is_paused = False
        self.zombies: list[PrimaryReplica] = []
        self.is_zombie_running = False
        self.ghosts: list[Sender] = []
        self._roots: tuple[int, Root] | None = None
        self._steps: dict[str, Callable[[], object]] = {}
        self._starts = 0

    @property
    def stack(self) -> FaultDisk:
        """The disk, by its true type."""
        disk: Any = self.disk
        assert isinstance(disk, FaultDisk)
        return disk

    @property
    def store(self) -> FaultSave:
        """The save volume, by its true type."""
        save: Any = self.save
        assert isinstance(save, FaultSave)
        return save

    @property
    def told(self) -> int:
        """How many errors the hooks were told."""
        return self._told.error_count

    @property
    def generation(self) -> int:
        """Which opening this is."""
        return self._starts

    def forget_root(self) -> None:
        """The stores hold something else now."""
        self._roots = None

    def durable_root(self) -> Root:
        """The root as the save volume has it, decoded once a version."""
        cell = self.store.load("root")
        if self._roots is None or self._roots[0] != cell.version:
            self._roots = (cell.version, msgspec.json.decode(cell.value, type=Root))
        return self._roots[1]

    def start(self, role: str = "") -> None:
        """Open, with the policy of the simulation; power may fail on the way, then it is tried again."""
        for _ in range(50):
            try:
                self._start(role)
            except PowerFailure:
                self.halt()
            except ReplkitError as error:
                if not self._is_failed():
                    raise
                self.hooks.errors.append(str(error))
                self.halt()
            else:
                self.faults.watch.started(self)
                return
        raise StuckError(f"{self.name} could not be started")

    def _start(self, role: str) -> None:
        self._starts += 1
        if role and not self.store.load("root").version:
            runtime = self.faults.runtime
            if role == "primary":
                self.replica = PrimaryReplica.open(self.disk, self.save, runtime, self.hooks, VOLUME, policy=POLICY)
        elif self.durable_root().role == "primary" and not self.store.load("policy").version:
            self.replica = PrimaryReplica.open(
                self.disk, self.save, self.faults.runtime, self.hooks, VOLUME, policy=POLICY
            )
        if self.replica is None:
            super().start(role)
        else:
            self.services = self._recovery(self.replica)
            self.world.network.listen(self.url, self._waiting.append)
        assert self.replica is not None
        self._steps = dict(self.replica.services())
        names = ("fence", "draining") if self.is_primary else ("resync", "handover")
        self._steps.update(zip(names, self.services, strict=True))
        self._steps["receive"] = self.receive

    def _recovery(self, replica: PrimaryReplica | SecondaryReplica) -> list[Callable[[], object]]:
        peer = partial(self.faults.peer_from, self.name)
        if isinstance(replica, PrimaryReplica):
            self.draining = Draining(replica)
            return [Fence(replica, self.save).step, self.draining.step]
        return [ResyncDriver(replica, peer).step, HandoverService(replica, peer).step]

    def halt(self) -> None:
        """The power fails, or the process dies, and what was not durable is gone."""
        self.faults.watch.closing(self)
        self.crashes += 1
        self.zombies, self.ghosts = [], []
        self.stop(power=True)
        self.faults.watch.crashed(self)

    def crash(self) -> None:
        """Halt, and start again."""
        self.halt()
        self.start()

    def stop(self, *, power: bool = False) -> None:
        """Close in order, or pull the plug; a close that fails is a crash."""
        try:
            super().stop(power=power)
            if not power:
                self.store.close()
        except ReplkitError as error:
            self.hooks.errors.append(str(error))
            self.halt()

    def _is_failed(self) -> bool:
        return self.stack.failed or self.store.failed or self.plug.broke != ""

    @property
    def needs_restart(self) -> bool:
        """Whether a store is poisoned or the root is lost, so that the process ends."""
        if self.stack.failed or self.store.failed:
            return True
        try:
            return self.replica is None or self.replica.root is None
        except FencedError:
            return True

    def step_names(self) -> list[str]:
        """Names of all that can run now; some twice, as they have more to do."""
        names = list(self._steps)
        if self.is_primary:
            names += [f"send:{member.name}" for member in self.primary.root.members] * 2
            names.append("cutter")
        else:
            names += ["receive", "receive", "player"]
        return names

    def run_step(self, name: str) -> None:
        """One step of one service."""
        if name.startswith("send:"):
            self.sender(name[5:]).step()
        elif name in self._steps:
            self._steps[name]()

    def sender(self, member: str) -> Sender:
        """The sender to a member."""
        if member not in self.senders:
            port: Any = Port(self.faults.net, self.name)
            self.senders[member] = Sender(
                self.save, self.disk, port, member, self.faults.runtime, self.hooks, name=VOLUME, site=self.name
            )
        return self.senders[member]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of a world."""

    names: str = "ab"
    blocks: int = 48
    block_size: int = 512
    sets_bytes: int = 1 << 30
    areas_bytes: int = 1 << 30
    paid: bool = False


class MakeSite(Protocol):
    """What makes a site of a world."""

    def __call__(self, name: str, world: Topology, *, seed: int, options: Options) -> FaultSite:
        """The site, not started."""


class Topology(Sites):
    """Sites under faults, with a checker that watches; ``make_site`` gives sites that are opened in another way."""

    def __init__(
        self,
        seed: int,
        options: Options,
        watch: Watch,
        devices: Devices | None = None,
        make_site: MakeSite = FaultSite,
    ) -> None:
        self.watch, self.devices = watch, devices or Devices()
        self.runtime: SimRuntime = SimRuntime(seed=seed)
        self.net = self.devices.network(watch)
        self.network = self.net
        self.fault_sites = {
            name: make_site(name, self, seed=seed * 8 + place, options=options)
            for place, name in enumerate(options.names)
        }
        self.sites = dict(self.fault_sites)
        self.lost_replies = 0
        self.calls = 0
        """Calls between sites that were answered."""
        self._calls_left: int | None = None
        for name, site in self.fault_sites.items():
            site.start("primary" if name == options.names[0] else "secondary")

    def lose_reply_after(self, calls: int | None) -> None:
        """The reply to the n-th call from now is lost; what it asked for is done."""
        self._calls_left = calls

    def peer(self, url: str, volume: str = VOLUME) -> Peer:
        """A client of an operator, who is at the site itself."""
        return self.peer_from(url.removeprefix("sim:"), url, volume)

    def peer_from(self, source: str, url: str, volume: str = VOLUME) -> Peer:
        """A client at one site of another."""

        def call(name: str, arguments: dict[str, Any], payload: Buffer) -> tuple[dict[str, Any], Buffer]:
            target = url.removeprefix("sim:")
            site = self.fault_sites.get(target)
            if site is None or site.is_paused or (source, target) in self.net.muted:
                raise LinkTimeoutError(f"no answer from {url}")
            if self.net.breaks_now():
                raise LinkClosedError(f"the link to {url} broke")
            if source in self.net.offers:
                arguments = {**arguments, **ADDED_LATER}
            result, back = site.answer(name, arguments, self.net.garble(payload, target))
            self.calls += 1
            if self._calls_left is not None:
                self._calls_left -= 1
                if self._calls_left <= 0:
                    self._calls_left = None
                    self.lost_replies += 1
                    raise LinkClosedError(f"the link to {url} broke before the reply")
            if (target, source) in self.net.muted:
                self.lost_replies += 1
                raise LinkTimeoutError(f"no answer from {url}")
            if self.net.breaks_now():
                raise LinkClosedError(f"the link to {url} broke before the reply")
            if target in self.net.offers:
                result = {**result, **ADDED_LATER}
            return result, self.net.garble(back, source)

        return Peer(call, volume)


__all__ = ["Devices", "FaultSite", "Options", "StuckError", "Topology", "Watch", "WouldWaitError"]
