"""The contract of a transport: ordered messages between two sites, over a link that may break at any byte."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from replkit.contracts.message import Message


class Link(ABC):
    """One connection. ``send`` and ``receive`` are called by one task each, at the same time; ``close`` by any."""

    peer: str
    """Name of the other end, for messages to people."""

    @abstractmethod
    def send(self, message: Message, timeout_s: float) -> None:
        """Hand the message over, in order. ``LinkTimeoutError`` or ``LinkClosedError`` end the link."""

    @abstractmethod
    def receive(self, timeout_s: float) -> Message | None:
        """The next message, or ``None`` after ``timeout_s`` without one; the message's payload is the caller's.

        ``LinkClosedError`` when the link is closed or broke, ``ProtocolError`` for bytes that are no message.
        """

    def is_receiving(self) -> bool:
        """Whether a part of the next message has arrived: then the peer is alive, however slow the line is.

        A link of which this can be true must end by itself when the rest does not come.
        """
        return False

    def wake(self) -> None:  # noqa: B027 - a hint
        """Let a ``receive`` that waits, or the next one, return ``None`` early. From any task; a hint only."""

    @abstractmethod
    def close(self) -> None:
        """End the link; wakes both directions here, and the peer meets ``LinkClosedError``. May be repeated."""


class ByteStream(Protocol):
    """A connection that turned out to speak another protocol, handed over whole (FIG. 19)."""

    def recv(self, size: int, /) -> bytes:
        """At most ``size`` next bytes, those already looked at included; empty at the end."""
        ...

    def sendall(self, data: bytes, /) -> None:
        """Send all of ``data``."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


OnLink = Callable[[Link], None]
"""Called with each new link on a task of its own; the link is closed when it returns."""
OnOther = Callable[[bytes, ByteStream], None]
"""Called with the first bytes and the stream of a connection that is not RCP; closed when it returns."""


class Listener(ABC):
    """A place that takes connections, until it is closed."""

    url: str
    """Where it listens; a port that was asked for as 0 is the real one here."""

    @abstractmethod
    def close(self) -> None:
        """Take no more connections, and close those that it handed out."""


class Transport(ABC):
    """A way to reach other sites, chosen by URL scheme."""

    @abstractmethod
    def connect(self, url: str, timeout_s: float) -> Link:
        """Open a link; ``LinkClosedError`` or ``LinkTimeoutError`` when that fails."""

    @abstractmethod
    def listen(self, url: str, on_link: OnLink, on_other: OnOther | None = None) -> Listener:
        """Take connections at ``url``. Without ``on_other`` a connection that is not RCP is closed."""
