"""The network of a simulation whose messages a plugin's transport carries.

Every link of the simulation is a real link of the transport, every message goes through it, and comes out when the
other site takes its next step: whole, in order, and before the end of the link. Faults (cuts, delays, partitions) are
planned by the simulator, as always.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from replkit.contracts.message import Message
from replkit.contracts.transport import Link, Listener, OnLink, OnOther, Transport
from replkit.errors import LinkClosedError
from replkit.testing.plugged.blame import Blame, ask
from replkit.testing.sim.links import FaultLink, FaultNetwork
from replkit.testing.sim.network import SimLink

WAIT_S: Final = 20.0
"""Bound for what must happen: a message that does not come in so long is lost."""
WINDOW_BYTES: Final = 64 << 10
"""A transport holds so much of what nobody has received yet; beyond that the other end receives ahead."""


class Carrier:
    """One end of a link of the transport, and what keeps its task alive."""

    def __init__(self, link: Link, done: threading.Event | None = None) -> None:
        self.link, self._done = link, done

    def close(self) -> None:
        """End the link."""
        self.link.close()
        if self._done is not None:
            self._done.set()


class CarriedNetwork(FaultNetwork):
    """A network over a transport; ``make_url`` gives a URL where nothing listens yet."""

    def __init__(self, transport: Transport, make_url: Callable[[], str], blame: Blame) -> None:
        super().__init__()
        self._transport, self._make_url, self.blame = transport, make_url, blame
        self._arrived: queue.Queue[Carrier] = queue.Queue()
        self._urls: dict[str, str] = {}
        self._open: dict[str, Listener] = {}
        self._carriers: list[Carrier] = []

    def listen(self, url: str, on_link: OnLink, on_other: OnOther | None = None) -> Listener:
        """Listen at the transport's own URL, at the same one after a restart."""
        place = self._urls.get(url) or self._make_url()
        listener = ask(self.blame, f"listen at {place}", lambda: self._transport.listen(place, self._take_link))
        self._urls[url], self._open[url] = listener.url, listener
        return super().listen(url, on_link, on_other)

    def _take_link(self, link: Link) -> None:
        done = threading.Event()
        self._arrived.put(Carrier(link, done))
        done.wait()

    def forget(self, url: str) -> None:
        """Close the listener, and with it its links."""
        super().forget(url)
        ask(self.blame, "close of a listener", self._open.pop(url).close)

    def _new_ends(self, url: str, source: str, target: str) -> tuple[FaultLink, FaultLink]:
        place = self._open[url].url
        here = Carrier(ask(self.blame, f"connect to {place}", lambda: self._transport.connect(place, WAIT_S)))
        try:
            there = self._arrived.get(timeout=WAIT_S)
        except queue.Empty:
            self.blame(f"connect to {place} returned, and on_link was not called within {WAIT_S:g} s")
        self._carriers += [here, there]
        near = CarriedLink(self, here, url, source, target)
        return near, CarriedLink(self, there, f"client of {url}", target, source)

    def close(self) -> None:
        """Give back every link and listener."""
        for carrier in self._carriers:
            carrier.close()
        for listener in self._open.values():
            listener.close()


class CarriedLink(FaultLink):
    """One end. The queue of the simulator holds what must come; the transport brings it."""

    def __init__(self, network: CarriedNetwork, carrier: Carrier, peer: str, here: str, there: str) -> None:
        super().__init__(network, peer, here, there)
        self._carried, self._carrier = network, carrier
        self._ahead: deque[Message] = deque()
        self._under_way_bytes = 0
        self._has_ended = False

    def _carry(self, other: SimLink, message: Message) -> None:
        assert isinstance(other, CarriedLink)
        size_bytes = len(message.body) + memoryview(message.payload).nbytes
        while other._under_way_bytes and other._under_way_bytes + size_bytes > WINDOW_BYTES:
            other._ahead.append(other._receive(other._incoming[len(other._ahead)]))
        what = f"send of a message of kind {message.kind} with {size_bytes} bytes"
        ask(self._carried.blame, what, lambda: self._carrier.link.send(message, WAIT_S))
        other._under_way_bytes += size_bytes
        super()._carry(other, message)

    def _take(self) -> Message:
        wanted = super()._take()
        return self._ahead.popleft() if self._ahead else self._receive(wanted)

    def _receive(self, wanted: Message) -> Message:
        """The next message of the transport, which must be this one."""
        blame, what = self._carried.blame, f"the message of kind {wanted.kind} with a body of {len(wanted.body)} bytes"
        found = ask(blame, f"receive of {what}", lambda: self._carrier.link.receive(WAIT_S))
        if found is None:
            blame(f"{what} was sent, and did not come within {WAIT_S:g} s: it is lost")
        payload = bytes(memoryview(found.payload))
        if (found.kind, bytes(found.body), payload) != (wanted.kind, wanted.body, wanted.payload):
            later = any((found.kind, bytes(found.body)) == (each.kind, each.body) for each in self._incoming)
            came = f"one of kind {found.kind} with a body of {len(found.body)} bytes and {len(payload)} of payload"
            blame(f"instead of {what} came {came}: messages are " + ("out of order or lost" if later else "changed"))
        self._under_way_bytes -= len(wanted.body) + memoryview(wanted.payload).nbytes
        return Message(found.kind, bytes(found.body), payload)

    def receive(self, timeout_s: float) -> Message | None:
        """As the model says; when the other end has closed, the transport must say so too."""
        try:
            return super().receive(timeout_s)
        except LinkClosedError:
            if not self.is_closed and not self._has_ended:
                self._has_ended = True
                self._expect_end()
            raise

    def _expect_end(self) -> None:
        blame = self._carried.blame
        try:
            found = ask(blame, "receive", lambda: self._carrier.link.receive(WAIT_S), LinkClosedError)
        except LinkClosedError:
            return
        blame(f"the other end closed the link, and receive gave {found!r} instead of LinkClosedError")

    def close(self) -> None:
        """End the link; what had come here is not looked at any more."""
        super().close()
        self._forget()

    def cut(self) -> None:
        """Break it at both ends; what was under way is lost."""
        ends = [end for end in (self, self._other) if isinstance(end, CarriedLink)]
        super().cut()
        for end in ends:
            end._forget()

    def _forget(self) -> None:
        self._incoming.clear()
        self._ahead.clear()
        self._under_way_bytes = 0
        self._carrier.close()


__all__ = ["CarriedNetwork"]
