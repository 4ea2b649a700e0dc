"""Sites for the stories of recovery: machines on plugs of their own that are what their root says, and a network."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from replkit.contracts.buffers import Buffer
from replkit.contracts.transport import Link
from replkit.errors import LinkClosedError, NotFoundError, PeerError, RefusedError, ReplkitError
from replkit.recovery.demotion import Return, demote, redirect, step_back
from replkit.recovery.fence import Fence
from replkit.recovery.handover import Draining, HandoverService
from replkit.recovery.peer import Peer, settle_fork
from replkit.recovery.resync import ResyncDriver, join
from replkit.recovery.service import PeerService
from replkit.replication.admission import is_over
from replkit.replication.branches import identity_of
from replkit.replication.cells import Resync
from replkit.replication.policy import Policy
from replkit.replication.primary import PrimaryReplica
from replkit.replication.receiver import Receiver, greet, refuse_at_primary
from replkit.replication.root import read_root
from replkit.replication.secondary import SecondaryReplica
from replkit.replication.sender import Sender
from replkit.testing.crashing import CrashDisk, Power, PowerFailure
from replkit.testing.runtime import ManualRuntime
from replkit.testing.sim.machines import SimSaveVolume
from replkit.testing.sim.model import read_all
from replkit.testing.sim.network import SimNetwork

BLOCK = 512
BLOCKS = 256
VOLUME = "vol"
POLICY = Policy(interval_s=1e9, chunk_bytes=4096, retry_s=0.1, slow_retry_s=0.2, keep_sets=1000)


def block(letter: str, count: int = 1) -> bytes:
    """So many blocks full of one letter."""
    return letter.encode() * BLOCK * count


class Recorder:
    """The event hooks of a site: remembers the roles it had and the errors it was told."""

    def __init__(self) -> None:
        self.roles: list[tuple[str, int]] = []
        self.errors: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda **_: None

    def replkit_role_changed(self, role: str, epoch: Any, **_: Any) -> None:
        self.roles.append((role, epoch.count))

    def replkit_error(self, message: str, **_: Any) -> None:
        self.errors.append(message)


class Site:
    """One site of the volume. ``start`` opens it in the role that its root has."""

    def __init__(self, name: str, world: Sites, *, seed: int, blocks: int, sets_bytes: int) -> None:
        self.name, self.url, self.world = name, f"sim:{name}", world
        self.power = Power(seed)
        self.disk = CrashDisk(self.power, blocks, block_size=BLOCK)
        self.save = SimSaveVolume(self.power, sets_bytes=sets_bytes)
        self.hooks = Recorder()
        self.replica: PrimaryReplica | SecondaryReplica | None = None
        self._waiting: list[Link] = []
        self.senders: dict[str, Sender] = {}
        self.receivers: list[Receiver] = []
        self.service = PeerService(self._lookup, own_url=self.url, own_name=name)
        self.services: list[Callable[[], object]] = []
        self.calls = self.crashes = 0

    # -- the machine --

    def start(self, role: str = "") -> None:
        """Open the replica in its role, or in ``role`` for the first time."""
        runtime, hooks = self.world.runtime, self.hooks
        role = role or read_root(self.save).role
        if role == "primary":
            self.replica = PrimaryReplica.open(self.disk, self.save, runtime, hooks, VOLUME, policy=POLICY)
        else:
            self.replica = SecondaryReplica.open(self.disk, self.save, runtime, hooks, VOLUME, site=self.name)
        self.services = self._recovery(self.replica)
        self.world.network.listen(self.url, self._waiting.append)

    def _recovery(self, replica: PrimaryReplica | SecondaryReplica) -> list[Callable[[], object]]:
        if isinstance(replica, PrimaryReplica):
            self.draining = Draining(replica)
            return [Fence(replica, self.save).step, self.draining.step]
        return [ResyncDriver(replica, self.world.peer).step, HandoverService(replica, self.world.peer).step]

    def _lookup(self, volume: str) -> PrimaryReplica | SecondaryReplica:
        """As the site does: a volume whose root has another role is opened anew."""
        if volume != VOLUME or self.replica is None:
            raise NotFoundError(f"{self.name} has no volume {volume}")
        if (self.replica.root.role == "primary") != self.is_primary:
            self.reopen()
        assert self.replica is not None
        return self.replica

    def answer(self, name: str, arguments: dict[str, Any], payload: Buffer = b"") -> tuple[dict[str, Any], Buffer]:
        """A call from another site, over a link that may break; here everything goes through the wire's encoding."""
        if self.url in self.world.network.down or self.url not in self.world.network.listening():
            raise LinkClosedError(f"nobody listens at {self.url}")
        self.calls += 1
        arguments = msgspec.msgpack.decode(msgspec.msgpack.encode(arguments))
        try:
            result, back = self.service.handle(name, arguments, bytes(payload))
        except PowerFailure as error:
            self.crash()
            raise LinkClosedError(f"{self.url} lost power") from error
        except RefusedError:
            raise
        except ReplkitError as error:
            code = re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__.removesuffix("Error")).lower()
            raise RefusedError(str(error), code=code) from error
        return msgspec.msgpack.decode(msgspec.msgpack.encode(result)), bytes(back)

    def stop(self, *, power: bool = False) -> None:
        """Close the replica; with ``power`` pull the plug instead."""
        self.senders, self.receivers = {}, []
        self._waiting.clear()
        self.world.network.break_links(self.url)
        if self.url in self.world.network.listening():
            self.world.network.forget(self.url)
        replica, self.replica = self.replica, None
        if power:
            self.power.restore()
        elif replica is not None:
            replica.close()

    def reopen(self) -> None:
        """Close and open again, as the role has changed; the power may fail at it."""
        try:
            self.stop()
            self.start()
        except PowerFailure:
            self.crash()

    def crash(self) -> None:
        """Pull the plug and start again."""
        self.crashes += 1
        self.stop(power=True)
        self.start()

    @property
    def primary(self) -> PrimaryReplica:
        assert isinstance(self.replica, PrimaryReplica), f"{self.name} is no primary"
        return self.replica

    @property
    def secondary(self) -> SecondaryReplica:
        assert isinstance(self.replica, SecondaryReplica), f"{self.name} is no secondary"
        return self.replica

    @property
    def is_primary(self) -> bool:
        return isinstance(self.replica, PrimaryReplica)

    @property
    def content(self) -> bytes:
        return read_all(self.disk)

    def write(self, start: int, data: bytes) -> None:
        self.primary.volume.write(start, data)

    # -- what runs --

    def steps(self) -> list[Callable[[], object]]:
        """Everything that can run next."""
        if self.replica is None:
            return []
        services: list[Callable[[], object]] = [step for _name, step in self.replica.services()]
        services += self.services
        if isinstance(self.replica, PrimaryReplica):
            members = [member.name for member in self.replica.root.members]
            services += [partial(self._send, name) for name in members]
        return [*services, self.receive]

    def _send(self, member: str) -> None:
        self.sender(member).step()

    def sender(self, member: str) -> Sender:
        if member not in self.senders:
            self.senders[member] = Sender(
                self.save, self.disk, self.world.network, member, self.world.runtime, self.hooks, name=VOLUME,
                site=self.name,
            )  # fmt: skip
        return self.senders[member]

    def receive(self) -> None:
        waiting, self._waiting[:] = list(self._waiting), []
        for link in waiting:
            try:
                greeting = greet(link, self.world.runtime)
                if isinstance(self.replica, SecondaryReplica):
                    self.receivers.append(self.replica.accept(greeting))
                else:  # both may learn: the one whose epoch is over stops
                    if is_over(greeting.hello, self.primary.root):
                        self.primary.fence(greeting.hello.epoch)
                    refuse_at_primary(greeting, self.primary.root, self.world.runtime)
            except PeerError as error:
                if not isinstance(error, LinkClosedError):
                    raise
        self.receivers = [receiver for receiver in self.receivers if receiver.step() is not None]


class Sites:
    """Sites A, B, C…, all down at first but ``a``, which is the primary."""

    def __init__(self, names: str = "ab", *, seed: int = 0, blocks: int = BLOCKS, sets_bytes: int = 1 << 30) -> None:
        self.runtime = ManualRuntime(seed=seed, waits_advance=True)
        self.network = SimNetwork()
        self.sites = {
            name: Site(name, self, seed=seed + place, blocks=blocks, sets_bytes=sets_bytes)
            for place, name in enumerate(names)
        }
        for name, site in self.sites.items():
            site.start("primary" if name == names[0] else "secondary")

    def __getattr__(self, name: str) -> Site:
        sites: dict[str, Site] = self.__dict__.get("sites", {})
        if name not in sites:
            raise AttributeError(name)
        return sites[name]

    def round(self) -> None:
        """Every service of every site once."""
        for site in self.sites.values():
            self.run(site)
            if site.replica is not None and (site.replica.root.role == "primary") != site.is_primary:
                site.reopen()
        self.runtime.advance(0.05)

    def run(self, site: Site) -> None:
        for step in site.steps():
            try:
                step()
            except ReplkitError as error:
                site.hooks.errors.append(f"{type(error).__name__}: {error}")
            except PowerFailure:
                site.crash()
                return

    def settle(self, done: Callable[[], bool], rounds: int = 600) -> None:
        """Run everything until ``done``."""
        for _ in range(rounds):
            if done():
                return
            self.round()
        errors = {name: site.hooks.errors[-3:] for name, site in self.sites.items()}
        roots = {name: msgspec.to_builtins(read_root(site.save)) for name, site in self.sites.items()}
        raise AssertionError(f"did not settle in {rounds} rounds: {errors}\n{roots}")

    def follow(self, primary: Site, *members: Site) -> None:
        """Make sites members by new copies, and wait until they stand where the primary does."""
        for member in members:
            primary.primary.add_member(member.name, member.url, VOLUME)
        self.settle(lambda: all(self.is_equal(primary, member) for member in members))

    def peer(self, url: str, volume: str = VOLUME) -> Peer:
        """A client of the site at ``url``."""
        return Peer(self.sites[url.removeprefix("sim:")].answer, volume)

    def resync(self, site: Site, primary: Site, *, rewind: bool = False) -> Resync | None:
        """What ``resync`` at a site does: learn from the new primary, find the fork, leave the own history."""
        peer, replica = self.peer(primary.url), site.replica
        assert replica is not None
        info = peer.info()
        identity = partial(identity_of, site.save, replica.root, block_count=site.disk.block_count)
        fork = settle_fork(replica.root, identity, peer, info)
        back = Return(
            info=info, fork=fork, url=primary.url, volume=VOLUME, member=site.name, own_url=site.url, rewind=rewind
        )
        made = self._leave(replica, back)
        site.reopen()
        if made is None:
            join(site.secondary, peer, member=site.name, own_url=site.url, at=site.secondary.root.last)
        return made

    @staticmethod
    def _leave(replica: PrimaryReplica | SecondaryReplica, back: Return) -> Resync | None:
        if isinstance(replica, PrimaryReplica):
            return demote(replica, back)
        return step_back(replica, back) if replica.root.resync is None else redirect(replica, back)

    @staticmethod
    def is_equal(primary: Site, member: Site) -> bool:
        """The member has played the newest set of the primary, and the primary knows it."""
        mine, its = primary.primary.root, member.secondary.root
        known = {each.name: each for each in mine.members}[member.name]
        return (
            known.state == "following"
            and its.last == mine.last
            and its.is_at_boundary
            and member.secondary.player.position == mine.last
        )
