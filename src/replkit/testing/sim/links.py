"""The network of a simulation under faults: cut, muted in one direction, slow, garbled."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from replkit.contracts.buffers import Buffer
from replkit.contracts.message import Message
from replkit.contracts.transport import Link
from replkit.errors import LinkClosedError, LinkTimeoutError
from replkit.rcp import messages as m
from replkit.testing.sim.network import SimLink, SimNetwork

ADDED_LATER: Final[dict[str, Any]] = {"added_later": {"offers": ["x"], "count": 7}}
"""What the next version says in a hello, a refusal or a call, and this one does not know."""


class FaultNetwork(SimNetwork):
    """Links between sites that know who is at their ends."""

    def __init__(self) -> None:
        super().__init__()
        self.muted: set[tuple[str, str]] = set()
        """(from, to): what is sent arrives only when this ends."""
        self.slow: dict[tuple[str, str], int] = {}
        """(from, to): only at every n-th look a message is there."""
        self.garble_after: int | None = None
        """The n-th payload from now arrives with a bit turned."""
        self.garbled_at = ""
        """The site at which that was."""
        self.broke = False
        self.offers: dict[str, tuple[int, ...]] = {}
        """Sites that run the next version, and the versions of RCP that their hellos offer."""

    def connect_from(self, source: str, url: str) -> Link:
        """A link from a site to whoever listens at ``url``."""
        target = url.removeprefix("sim:")
        if {(source, target), (target, source)} & self.muted:
            raise LinkTimeoutError(f"no answer from {url}")
        on_link = self._listeners.get(url)
        if on_link is None:
            raise LinkClosedError(f"nobody listens at {url}")
        near, far = self._new_ends(url, source, target)
        near.join(far)
        self._links = [link for link in self._links if not link.is_closed]
        self._links += [near, far]
        on_link(far)
        return near

    def _new_ends(self, url: str, source: str, target: str) -> tuple[FaultLink, FaultLink]:
        """The end of who connects, and the end of who listens."""
        return FaultLink(self, url, source, target), FaultLink(self, f"client of {url}", target, source)

    def close(self) -> None:
        """At the end of a run: nothing to give back here."""

    def breaks_now(self) -> bool:
        """As always, and remembered."""
        broke = super().breaks_now()
        self.broke = self.broke or broke
        return broke

    def garble(self, payload: Buffer, here: str) -> Buffer:
        """A payload as it arrives at a site."""
        if self.garble_after is None or not payload:
            return payload
        self.garble_after -= 1
        if self.garble_after > 0:
            return payload
        self.garble_after, self.garbled_at = None, here
        turned = bytearray(payload)
        turned[len(turned) * 2 // 3] ^= 0x10
        return bytes(turned)

    def heal(self) -> None:
        """Everything arrives."""
        self.muted.clear()
        self.slow.clear()
        self.garble_after = None
        self.break_after(None)


class FaultLink(SimLink):
    """One end, at site ``here``."""

    def __init__(self, network: FaultNetwork, peer: str, here: str, there: str) -> None:
        super().__init__(network, peer)
        self.faults, self.here, self.there = network, here, there
        self._looks = 0

    def send(self, message: Message, timeout_s: float) -> None:
        """As the version that the site runs says it."""
        offers = self.faults.offers.get(self.here)
        super().send(message if offers is None else as_offered(message, offers), timeout_s)

    def receive(self, timeout_s: float) -> Message | None:
        """The next message, unless it is still on its way."""
        faults, way = self.faults, (self.there, self.here)
        if faults.muted and way in faults.muted and not self.is_closed:
            return None
        slow = faults.slow.get(way)
        if slow is not None:
            self._looks += 1
            if self._looks % slow:
                return None
        message = super().receive(timeout_s)
        if message is not None and message.payload and faults.garble_after is not None:
            return Message(message.kind, message.body, faults.garble(message.payload, self.here))
        return message


class Port:
    """The network as one site sees it."""

    def __init__(self, network: FaultNetwork, source: str) -> None:
        self._network, self._source = network, source

    def connect(self, url: str, timeout_s: float) -> Link:  # noqa: ARG002 - never waits
        return self._network.connect_from(self._source, url)


def as_offered(message: Message, offers: tuple[int, ...]) -> Message:
    """A message as the next version would send it: more may only be said in a hello and in a refusal."""
    if message.kind not in {m.Hello.KIND, m.Refuse.KIND}:
        return message
    body: dict[str, Any] = msgspec.msgpack.decode(message.body)
    if message.kind == m.Hello.KIND:
        body["versions"] = list(offers)
    body |= ADDED_LATER
    return Message(message.kind, msgspec.msgpack.encode(body), message.payload)
