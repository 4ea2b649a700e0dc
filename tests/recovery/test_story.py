"""The whole story of FIG. 21 on real threads, stores and links: failover, resync, failback, while users write."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from replkit.contracts.buffers import Buffer
from replkit.contracts.message import Message
from replkit.contracts.registry import Registry
from replkit.contracts.transport import Link
from replkit.errors import FencedError, PeerError, ReplkitError, WrongRoleError
from replkit.rcp.calls import CallClient, CallServer
from replkit.recovery.demotion import Return, demote
from replkit.recovery.facts import AnyReplica
from replkit.recovery.fence import Fence
from replkit.recovery.handover import Draining, HandoverService, begin_handover
from replkit.recovery.peer import Peer, settle_fork
from replkit.recovery.resync import ResyncDriver
from replkit.recovery.salvage import list_salvages, open_salvage
from replkit.recovery.service import PeerService
from replkit.replication.policy import Policy
from replkit.replication.primary import PrimaryReplica
from replkit.replication.receiver import first_message, refuse_at_primary
from replkit.replication.root import read_root
from replkit.replication.secondary import SecondaryReplica
from replkit.replication.sender import Sender
from replkit.testing.runtime import ThreadRuntime
from replkit.testing.sim.model import read_all

SIZE = 4 << 20
BLOCK = 4096
POLICY = Policy(interval_s=0.05, chunk_bytes=64 << 10, retry_s=0.01, slow_retry_s=0.05)


class LiveSite:
    """One site on threads; ``reopen`` follows its root, as the daemon of a site does."""

    def __init__(self, name: str, registry: Registry, role: str) -> None:
        self.name, self.url, self._registry = name, f"local:story-{name}", registry
        self.runtime = ThreadRuntime()
        self.transport = registry.open_transport(self.url)
        self.errors: list[BaseException] = []
        self._clients: dict[str, CallClient] = {}
        self._open(role)

    def _open(self, role: str) -> None:
        where = f"memory:story-{self.name}"
        self.volume = self._registry.open_volume(where, size_bytes=SIZE, block_size=BLOCK, create=True)
        self.save = self._registry.open_save_volume(where, create=True)
        self.stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._links: list[Link] = []
        self.replica: AnyReplica
        if role == "primary":
            self.replica = PrimaryReplica.open(
                self.volume, self.save, self.runtime, self._registry.hooks, "vol", policy=POLICY
            )
            self.draining = Draining(self.replica)
            steps = [Fence(self.replica, self.save).step, self.draining.step, self._send]
            self._senders: dict[str, Sender] = {}
        else:
            self.replica = SecondaryReplica.open(
                self.volume, self.save, self.runtime, self._registry.hooks, "vol", site=self.name
            )
            if not self.save.load("policy").version:
                self.save.swap("policy", b'{"play_interval_s": 0.01}', 0)
            steps = [ResyncDriver(self.replica, self.peer).step, HandoverService(self.replica, self.peer).step]
        for _name, step in self.replica.services():
            self._drive(step)
        for step in steps:
            self._drive(step)
        self._service = PeerService(self._lookup)
        self._listener = self.transport.listen(self.url, self._on_link)

    def _lookup(self, volume: str) -> AnyReplica:
        if volume != "vol" or (read_root(self.save).role == "primary") != self.is_primary:
            raise WrongRoleError(f"{self.name} is being opened")
        return self.replica

    @property
    def is_primary(self) -> bool:
        return isinstance(self.replica, PrimaryReplica)

    @property
    def primary(self) -> PrimaryReplica:
        assert isinstance(self.replica, PrimaryReplica)
        return self.replica

    @property
    def secondary(self) -> SecondaryReplica:
        assert isinstance(self.replica, SecondaryReplica)
        return self.replica

    def _drive(self, step: Callable[[], float | None]) -> None:
        def loop() -> None:
            pause_s: float | None = 0.0
            while pause_s is not None and not self.stop.wait(min(pause_s, 0.01)):
                try:
                    pause_s = step()
                except FencedError:
                    return
                except ReplkitError as error:
                    if not self.stop.is_set():
                        self.errors.append(error)
                    pause_s = 0.01

        thread = threading.Thread(target=loop)
        thread.start()
        self._threads.append(thread)

    def _send(self) -> float:
        for member in self.primary.root.members:
            if member.name not in self._senders:
                self._senders[member.name] = Sender(
                    self.save, self.volume, self.transport, member.name, self.runtime, self._registry.hooks,
                    name="vol", site=self.name,
                )  # fmt: skip
            self._senders[member.name].step()
        return 0.005

    def _on_link(self, link: Link) -> None:
        self._links.append(link)
        try:
            step = self._serve(link)
            while not self.stop.is_set() and step() is not None:
                pass
        except PeerError:
            return

    def _serve(self, link: Link) -> Callable[[], float | None]:
        """What a new link is for: calls, or a sender."""
        first = first_message(link, self.runtime)
        if isinstance(first, Message):
            return partial(CallServer(link, first, self._service.handle, self.runtime).step, 0.02)
        if self.is_primary:
            self.primary.fence(first.hello.epoch)
            refuse_at_primary(first, self.primary.root, self.runtime)
            return lambda: None
        return partial(self.secondary.accept(first).step, 0.02)

    def peer(self, url: str, volume: str = "vol") -> Peer:
        return Peer(partial(self._call, url), volume)

    def _call(self, url: str, name: str, arguments: dict[str, Any], payload: Buffer) -> tuple[dict[str, Any], Buffer]:
        if url not in self._clients:
            self._clients[url] = CallClient(self.transport.connect(url, 1.0), self.runtime)
        try:
            return self._clients[url].call(name, arguments, payload)
        except PeerError as error:
            if type(error).__name__ != "RefusedError":
                self._clients.pop(url).close()
            raise

    def reopen(self) -> None:
        role = read_root(self.save).role
        self.close()
        self._open(role)

    def close(self) -> None:
        self._listener.close()
        self.stop.set()
        for link in self._links:
            link.close()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        for sender in getattr(self, "_senders", {}).values():
            sender.close()
        self.replica.close()
        self.save.close()


class Writer:
    """A user of a volume, who writes until it is stopped or the volume refuses."""

    def __init__(self, site: LiveSite, seed: int) -> None:
        self._volume, self._random = site.primary.volume, random.Random(seed)
        self._stop = threading.Event()
        self.refused: ReplkitError | None = None
        self.writes = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.002):
            count = self._random.randrange(1, 5)
            try:
                self._volume.write(self._random.randrange(1000), self._random.randbytes(count * BLOCK))
            except ReplkitError as error:
                self.refused = error
                return
            self.writes += 1

    def end(self) -> None:
        self._stop.set()
        self._thread.join(20)


def settle(sites: list[LiveSite], done: Callable[[], bool], seconds: float = 90) -> None:
    """Wait, and open what has another role now, as the supervisor of a site does."""
    tick = threading.Event()
    for _ in range(int(seconds / 0.02)):
        for site in sites:
            if (read_root(site.save).role == "primary") != site.is_primary:
                site.reopen()
        if done():
            return
        tick.wait(0.02)
    pytest.fail(f"did not come true; {[(site.name, site.errors[-2:], read_root(site.save)) for site in sites]}")


def follows(primary: LiveSite, member: LiveSite) -> bool:
    if not primary.is_primary or member.is_primary:
        return False
    primary.primary.cut()
    mine, its = primary.primary.root, member.secondary.root
    return (
        any(each.name == member.name and each.state == "following" for each in mine.members)
        and its.is_at_boundary
        and its.last == mine.last == member.secondary.player.position
    )


@pytest.mark.requirement("R1", "R2", "R4", "R7", "R9")
def test_failover_resync_and_failback_while_users_write(registry: Registry) -> None:
    a, b = LiveSite("a", registry, "primary"), LiveSite("b", registry, "secondary")
    try:
        a.primary.volume.write(0, random.Random(0).randbytes(2 << 20))
        a.primary.add_member("b", b.url, "vol")
        settle([a, b], lambda: follows(a, b))
        a.primary.pause()  # B gets no more; A writes on, and part of it is not cut
        for number in range(6):
            a.primary.volume.write(100 + number * 50, random.Random(number).randbytes(3 * BLOCK))
        a.primary.cut()
        a.primary.volume.write(900, random.Random(9).randbytes(BLOCK))

        b.secondary.promote()
        settle([b], lambda: b.is_primary)
        writer = Writer(b, 1)
        lost = read_all(a.primary.volume)
        info = a.peer(b.url).info()
        fork = settle_fork(a.primary.root, a.primary.identity_of, a.peer(b.url), info)
        resync = demote(a.primary, Return(info=info, fork=fork, url=b.url, volume="vol", member="a", own_url=a.url))
        with pytest.raises(FencedError):
            a.primary.volume.write(0, bytes(BLOCK))
        settle([a, b], lambda: not a.is_primary and a.secondary.root.is_at_boundary)
        assert writer.writes
        writer.end()
        assert writer.refused is None
        settle([a, b], lambda: follows(b, a))
        assert read_all(a.volume) == read_all(b.volume)
        (salvage,) = list_salvages(a.secondary.parts, a.secondary.volume)
        assert salvage.id == resync.id
        assert read_all(open_salvage(a.secondary.volume, salvage.id)) == lost
        assert salvage.blocks == 6 * 3 + 1

        writer = Writer(b, 2)
        begin_handover(b.primary, "a", "failback", own_url=b.url, own_name="b")
        settle([a, b], lambda: a.is_primary and not b.is_primary)
        writer.end()
        assert isinstance(writer.refused, WrongRoleError)
        settle([a, b], lambda: follows(a, b))
        assert read_all(a.volume) == read_all(b.volume)
        assert a.primary.root.epoch.count == 3
    finally:
        for site in (a, b):
            site.close()
