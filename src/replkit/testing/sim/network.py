"""A network in memory for one thread: links that never block and break at the message that the test chooses."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from replkit.contracts.message import Message
from replkit.contracts.transport import Link, Listener, OnLink, OnOther, Transport
from replkit.errors import LinkClosedError, NotFoundError


class SimLink(Link):
    """One end. ``receive`` never waits: what is not there now comes in a later step."""

    def __init__(self, network: SimNetwork, peer: str) -> None:
        self.peer = peer
        self._network = network
        self._incoming: deque[Message] = deque()
        self._other: SimLink | None = None
        self.is_closed = False

    def join(self, other: SimLink) -> None:
        """Make the two ends one link."""
        self._other, other._other = other, self

    def send(self, message: Message, timeout_s: float) -> None:  # noqa: ARG002 - never waits
        """Put the message into the other end's queue, unless the link breaks at it."""
        other = self._other
        if self.is_closed or other is None or other.is_closed:
            raise LinkClosedError(f"link to {self.peer} is closed")
        if self._network.breaks_now():
            self.cut()
            raise LinkClosedError(f"link to {self.peer} broke")
        copy = bytes(memoryview(message.payload)) if message.payload else b""
        carried = Message(message.kind, message.body, copy)
        self._carry(other, carried)
        self._network.watch(self, carried)

    def receive(self, timeout_s: float) -> Message | None:  # noqa: ARG002 - never waits
        """The next message that is there."""
        if self._incoming:
            return self._take()
        if self.is_closed or self._other is None or self._other.is_closed:
            raise LinkClosedError(f"link to {self.peer} is closed")
        return None

    def _carry(self, other: SimLink, message: Message) -> None:
        """Bring a message to the other end."""
        other._incoming.append(message)

    def _take(self) -> Message:
        """The oldest message that has come."""
        return self._incoming.popleft()

    def close(self) -> None:
        """End the link; the other end still receives what was sent."""
        self.is_closed = True

    def cut(self) -> None:
        """Break the link: both ends closed, everything under way lost."""
        for end in (self, self._other):
            if end is not None:
                end.is_closed = True
                end._incoming.clear()


class SimListener(Listener):
    """A place that takes links until it is closed."""

    def __init__(self, network: SimNetwork, url: str) -> None:
        self.url = url
        self._network = network

    def close(self) -> None:
        """Take no more links."""
        self._network.forget(self.url)


class SimNetwork(Transport):
    """All links of a simulation. ``break_after`` breaks the link that carries the n-th message from now."""

    def __init__(self) -> None:
        self._listeners: dict[str, OnLink] = {}
        self._links: list[SimLink] = []
        self._left: int | None = None
        self.down: set[str] = set()
        """URLs that cannot be reached now."""
        self.messages = 0
        self.watch: Callable[[SimLink, Message], None] = lambda _link, _message: None
        """Is told of every message that a link carries, with the end that sent it."""

    def connect(self, url: str, timeout_s: float) -> Link:  # noqa: ARG002 - never waits
        """A link to whoever listens at ``url``."""
        on_link = self._listeners.get(url)
        if on_link is None or url in self.down:
            raise LinkClosedError(f"nobody listens at {url}")
        near, far = SimLink(self, url), SimLink(self, f"client of {url}")
        near.join(far)
        self._links = [link for link in self._links if not link.is_closed]
        self._links += [near, far]
        on_link(far)
        return near

    def listen(self, url: str, on_link: OnLink, on_other: OnOther | None = None) -> Listener:  # noqa: ARG002
        """Take links at ``url``."""
        self._listeners[url] = on_link
        return SimListener(self, url)

    def listening(self) -> set[str]:
        """URLs at which somebody listens."""
        return set(self._listeners)

    def forget(self, url: str) -> None:
        """Nobody listens at ``url`` any more."""
        if self._listeners.pop(url, None) is None:
            raise NotFoundError(f"nobody listens at {url}")

    def break_after(self, messages: int | None) -> None:
        """Break the link that carries the ``messages``-th message from now, 1 being the next."""
        self._left = messages

    def break_links(self, url: str | None = None) -> None:
        """Break all links, or those to one URL."""
        for link in self._links:
            if url is None or url in link.peer:
                link.cut()

    def breaks_now(self) -> bool:
        """Count a message; whether its link breaks."""
        self.messages += 1
        if self._left is None:
            return False
        self._left -= 1
        if self._left > 0:
            return False
        self._left = None
        return True
