"""One secondary volume of a replica worker, which a sender of another site feeds over a link."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec

from replkit.contracts.savevolume import SaveVolume
from replkit.deltaset.keys import SET_TAG
from replkit.errors import FencedError, InvalidArgumentError, LinkClosedError, ReplkitError, WrongRoleError
from replkit.recovery.comparison import Work
from replkit.recovery.handover import HandoverService
from replkit.recovery.refetch import refetch
from replkit.recovery.resync import ResyncDriver
from replkit.replication.policy import change_policy, load_policy
from replkit.replication.primary import Service
from replkit.replication.receiver import Greeting, Receiver
from replkit.replication.secondary import SecondaryReplica
from replkit.replication.view import View
from replkit.site.calls import PeerLinks
from replkit.site.holding import Held
from replkit.site.opening import open_stores
from replkit.site.past import Past
from replkit.site.policies import policy_changes
from replkit.site.verifying import MemberVerifying
from replkit.snapshot.records import SnapshotRecord

WAIT_FOR_MESSAGE_S = 0.2
WAIT_FOR_REST_S = 30.0


class HeldReplica(Held[SecondaryReplica]):
    """A secondary with a save volume of its own."""

    def __init__(self, *arguments: Any, links: PeerLinks) -> None:
        super().__init__(*arguments)
        self._links = links
        self._receivers: dict[threading.Thread, Receiver] = {}
        self._verifying: MemberVerifying | None = None
        self._past: Past | None = None

    @property
    def source_site(self) -> str:
        """The site whose sender was here last; empty before the first."""
        receivers = list(self._receivers.values())
        return str(receivers[-1].status()["site"]) if receivers else ""

    def view(self, *, pinned: bool) -> View:
        """A view that follows playback, or one that stays at the newest boundary."""
        return self.replica.pin() if pinned else self.replica.view()

    def policy(self, changes: dict[str, Any] | None = None) -> dict[str, Any]:
        """The policy of this end, after ``changes`` (D2: at either end)."""
        if changes:
            policy = change_policy(self.save, **policy_changes(changes))
            self.wake()
        else:
            policy = load_policy(self.save)
        return msgspec.structs.asdict(policy)

    def create_snapshot(self, name: str) -> SnapshotRecord:
        """A snapshot of the boundary at which the volume stands; waits for the end of a pass that is under way."""
        deadline_s = self._runtime.monotonic() + WAIT_FOR_REST_S
        while self._runtime.monotonic() < deadline_s:
            record = self.replica.player.create_snapshot(name)
            if record is not None:
                return record
            self._ending.wait(0.002)
        raise WrongRoleError(f"{self.name}: playback did not come to rest in {WAIT_FOR_REST_S:g} s", hint="try again")

    @property
    def verifying(self) -> MemberVerifying:
        """What answers the questions of a verification."""
        if self._verifying is None:
            raise WrongRoleError(f"{self.name} is not open: {self.problem}", hint="it is tried again by itself")
        return self._verifying

    @property
    def past(self) -> Past:
        """Its boundaries that are still kept."""
        if self._past is None:
            raise WrongRoleError(f"{self.name} is not open: {self.problem}", hint="it is tried again by itself")
        return self._past

    def hold_boundary(self, at: Any, *, is_held: bool) -> dict[str, Any]:
        """Keep a boundary of the past, or let it go (X2)."""
        change = self.past.hold if is_held else self.past.release
        return {"volume": self.name, "number": change(at), "held": is_held}

    def refetch(self, url: str, tags: Any) -> dict[str, Any]:
        """Fetch damaged records of sets again from the site at ``url`` (D3)."""
        if not isinstance(tags, list) or not all(isinstance(tag, str) and SET_TAG.fullmatch(tag) for tag in tags):
            raise InvalidArgumentError(f"{self.name}: the sets to fetch again are named by a list of tags")
        peer = self._links.peer(url, self.spec["bucket_of"] or (self.spec.get("pull") or {}).get("volume") or self.name)
        fetched = refetch(self.save, lambda: self.replica.root, peer, tags)
        self.wake()
        return {"volume": self.name, **fetched._asdict()}

    def acknowledge(self) -> None:
        """Something was played: the receivers say so now."""
        for receiver in list(self._receivers.values()):
            receiver.wake()

    def serve_link(self, greeting: Greeting) -> None:
        """Receive on this link until it ends."""
        receiver = self.replica.accept(greeting)
        thread = threading.current_thread()
        self._receivers[thread] = receiver
        try:
            while not self._ending.is_set():
                pause_s = receiver.step(WAIT_FOR_MESSAGE_S)
                if pause_s is None:
                    return
                if pause_s > 0:
                    self._ending.wait(pause_s)
        except FencedError as error:
            self._fail(error)
        except ReplkitError as error:
            self._say("receiver", error)
        finally:
            receiver.close()
            self._receivers.pop(thread, None)

    def _end_links(self) -> None:
        for thread in list(self._receivers):
            thread.join(10)

    def _close(self, replica: SecondaryReplica) -> None:
        replica.close()

    def _open(self) -> tuple[SecondaryReplica, SaveVolume, Iterable[Service]]:
        volume, save = open_stores(self._registry, self.spec)
        self._stack.callback(save.close)
        self._stack.callback(volume.close)
        replica = SecondaryReplica.open(volume, save, self._runtime, self._registry.hooks, self.name, site=self._site)
        if self.spec["policy"] and not save.load("policy").version:
            change_policy(save, **self.spec["policy"])
        asking = ThreadPoolExecutor(1, f"{self.name}-asking")  # its thread begins with the first comparison
        self._stack.callback(asking.shutdown, wait=False)
        resync = ResyncDriver(replica, self._links.peer, partial(_begin, asking))
        handover = HandoverService(replica, self._links.peer)
        verifying = self._verifying = MemberVerifying(replica, self._runtime)
        past = self._past = Past(replica, save, self._runtime, self._ending)
        return replica, save, [
            *replica.services(), ("resync", resync.step), ("handover", handover.step), ("verifying", verifying.step),
            ("retention", past.step),
        ]  # fmt: skip


def _begin(asking: ThreadPoolExecutor, work: Work[bytes]) -> Work[bytes]:
    """A ``Later`` of the comparison: calls go to the other site while this one hashes."""
    try:
        return asking.submit(work).result
    except RuntimeError as error:  # the volume is being closed
        raise LinkClosedError("no call is begun any more: the volume is being closed") from error
