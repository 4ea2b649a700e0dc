"""A link whose large messages go out on a thread of their own, so that the sender reads the next chunk meanwhile (C1).

Reading and hashing a chunk of 4 MiB takes about as long as handing it to the kernel, and neither needs the interpreter
lock. One message at most is under way, so the memory that it takes is bounded.
"""

from __future__ import annotations

import threading

from replkit.contracts.message import Message
from replkit.contracts.transport import Link, Listener, OnLink, OnOther, Transport
from replkit.errors import LinkClosedError, ReplkitError

LARGE_BYTES = 256 << 10


class AheadLink(Link):
    """``send`` of a large message returns when the one before it went out; its payload must not be changed after.

    What comes after a large message waits for it, so the order is kept. A break meanwhile is the error of the next
    ``send``; ``receive`` meets it too, as the link beneath is closed then. ``close`` gives up what did not go out.
    """

    def __init__(self, link: Link) -> None:
        self.peer = link.peer
        self._link = link
        self._changed = threading.Condition()
        self._job: tuple[Message, float] | None = None
        self._thread: threading.Thread | None = None
        self._error: ReplkitError | None = None
        self._is_closed = False

    def send(self, message: Message, timeout_s: float) -> None:
        """Hand the message over; the limit is for time without progress, as beneath."""
        with self._changed:
            while self._job is not None and self._error is None:  # it ends: the link beneath keeps its own limit
                self._changed.wait()
            if self._error is not None:
                error, self._error, self._is_closed = self._error, None, True
                raise error
            if self._is_closed:
                raise LinkClosedError(f"the link with {self.peer} is closed")
            if memoryview(message.payload).nbytes >= LARGE_BYTES:
                self._job = (message, timeout_s)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="send-ahead", daemon=True)
                    self._thread.start()
                self._changed.notify_all()
                return
        self._link.send(message, timeout_s)

    def receive(self, timeout_s: float) -> Message | None:
        """The next message."""
        return self._link.receive(timeout_s)

    def is_receiving(self) -> bool:
        """Pass on."""
        return self._link.is_receiving()

    def wake(self) -> None:
        """Pass on."""
        self._link.wake()

    def close(self) -> None:
        """End the link beneath, which wakes the thread out of its call, and the thread."""
        self._link.close()
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            error: ReplkitError | None = None
            try:
                self._link.send(*job)
            except ReplkitError as failure:
                error = failure
            except Exception as failure:  # noqa: BLE001, RUF100 - a plugin may raise anything; its sender must hear of it
                self._link.close()
                error = LinkClosedError(f"the link with {self.peer} failed: {failure}")
            del job  # its buffer is free for the chunk after the next
            with self._changed:
                self._job = None
                self._error = error or self._error
                self._changed.notify_all()

    def _next(self) -> tuple[Message, float] | None:
        with self._changed:
            while self._job is None:
                if self._is_closed or self._error is not None:  # either way nothing more goes out
                    return None
                self._changed.wait()
            return self._job


class AheadTransport(Transport):
    """A transport whose connections send ahead."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def connect(self, url: str, timeout_s: float) -> Link:
        """Open a link that sends ahead."""
        return AheadLink(self._transport.connect(url, timeout_s))

    def listen(self, url: str, on_link: OnLink, on_other: OnOther | None = None) -> Listener:
        """As beneath."""
        return self._transport.listen(url, on_link, on_other)
