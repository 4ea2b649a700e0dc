"""Transport ``local:name``: two queues inside one process, for replicas that live together (T4) and for tests.

Messages pass by reference. A full queue pushes back like a slow network does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from replkit.contracts.hooks import hookimpl
from replkit.contracts.message import MAX_BODY_BYTES, MAX_PAYLOAD_BYTES, PREFIX_BYTES, Message
from replkit.contracts.registry import Registry
from replkit.contracts.transport import Link, Listener, OnLink, OnOther, Transport
from replkit.errors import AlreadyExistsError, InvalidArgumentError, LinkClosedError, LinkTimeoutError, PeerError

SCHEME = "local"
QUEUE_BYTES = 8 << 20
"""What may wait in one direction; a message larger than that waits alone."""
_JOIN_S = 5.0

_log = logging.getLogger(__name__)
_listeners: dict[str, LocalListener] = {}
_listeners_lock = threading.Lock()


class _Queue:
    """One direction of a link."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._messages: deque[Message] = deque()
        self._waiting_bytes = 0
        self._is_closed = self._is_woken = False

    def put(self, message: Message, timeout_s: float) -> bool:
        """Append when there is room; False when there was none in time."""
        size_bytes = PREFIX_BYTES + len(message.body) + memoryview(message.payload).nbytes
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._has_room(size_bytes), timeout_s)
            if self._is_closed:
                raise LinkClosedError("the local link is closed")
            if not self._has_room(size_bytes):
                return False
            self._messages.append(message)
            self._waiting_bytes += size_bytes
            self._changed.notify_all()
        return True

    def get(self, timeout_s: float) -> Message | None:
        """The oldest message; what was sent before an orderly close is still delivered, as over TCP."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._messages or self._is_woken, timeout_s)
            self._is_woken = False
            if not self._messages:
                if self._is_closed:
                    raise LinkClosedError("the local link is closed")
                return None
            message = self._messages.popleft()
            self._waiting_bytes -= PREFIX_BYTES + len(message.body) + memoryview(message.payload).nbytes
            self._changed.notify_all()
        return message

    def wake(self) -> None:
        """End the wait of a ``get``, or that of the next one."""
        with self._changed:
            self._is_woken = True
            self._changed.notify_all()

    def close(self, *, drop: bool) -> None:
        with self._changed:
            self._is_closed = True
            if drop:
                self._messages.clear()
            self._changed.notify_all()

    def _has_room(self, size_bytes: int) -> bool:
        return not self._messages or self._waiting_bytes + size_bytes <= QUEUE_BYTES


class LocalLink(Link):
    """One end of a pair of queues."""

    def __init__(self, peer: str, outgoing: _Queue, incoming: _Queue) -> None:
        self.peer = peer
        self._outgoing = outgoing
        self._incoming = incoming

    def send(self, message: Message, timeout_s: float) -> None:
        """Pass the message on by reference, with the bounds that a frame has."""
        if len(message.body) > MAX_BODY_BYTES or memoryview(message.payload).nbytes > MAX_PAYLOAD_BYTES:
            raise InvalidArgumentError(f"message of kind {message.kind} to {self.peer} is larger than a frame can be")
        if not self._outgoing.put(message, timeout_s):
            self.close()
            raise LinkTimeoutError(f"{self.peer} took no message for {timeout_s} s")

    def receive(self, timeout_s: float) -> Message | None:
        """The next message."""
        return self._incoming.get(timeout_s)

    def wake(self) -> None:
        """End the wait of ``receive``."""
        self._incoming.wake()

    def close(self) -> None:
        """Close both queues; the peer may still take what was sent to it."""
        self._outgoing.close(drop=False)
        self._incoming.close(drop=True)


class LocalListener(Listener):
    """A name that ``connect`` finds."""

    def __init__(self, url: str, on_link: OnLink) -> None:
        self.url = url
        self._on_link = on_link
        self._lock = threading.Lock()
        self._links: dict[LocalLink, threading.Thread] = {}
        self._is_closed = False

    def take(self) -> LocalLink:
        """Make a pair of ends, hand one to ``on_link`` on a thread of its own and return the other."""
        there, here = _Queue(), _Queue()
        ours, theirs = LocalLink(self.url, there, here), LocalLink(self.url, here, there)
        thread = threading.Thread(target=self._serve, args=(ours,), name=f"link {self.url}", daemon=True)
        with self._lock:
            if self._is_closed:
                raise LinkClosedError(f"nothing listens at {self.url}")
            self._links[ours] = thread
            thread.start()
        return theirs

    def close(self) -> None:
        """Free the name, close the links and wait for their tasks."""
        with _listeners_lock:
            if _listeners.get(self.url) is self:
                del _listeners[self.url]
        with self._lock:
            self._is_closed = True
            links = dict(self._links)
        for link in links:
            link.close()
        deadline = time.monotonic() + _JOIN_S
        for thread in links.values():
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _serve(self, link: LocalLink) -> None:
        try:
            self._on_link(link)
        except LinkClosedError:
            pass  # the ordinary end of a link
        except PeerError as error:
            _log.warning("link %s ended: %s", self.url, error)
        except Exception:
            _log.exception("link %s ended by an error", self.url)
        finally:
            link.close()
            with self._lock:
                self._links.pop(link, None)


class LocalTransport(Transport):
    """Reaches listeners of this process by name."""

    def connect(self, url: str, timeout_s: float) -> Link:
        """Connect to the listener of the same URL; never waits."""
        del timeout_s
        with _listeners_lock:
            listener = _listeners.get(_checked(url))
        if listener is None:
            raise LinkClosedError(f"nothing listens at {url}", hint="start the other replica first")
        return listener.take()

    def listen(self, url: str, on_link: OnLink, on_other: OnOther | None = None) -> Listener:
        """Take the name; no other protocol ever comes in here, so ``on_other`` is never called."""
        del on_other
        listener = LocalListener(_checked(url), on_link)
        with _listeners_lock:
            if url in _listeners:
                raise AlreadyExistsError(f"something listens at {url} already")
            _listeners[url] = listener
        return listener


def _checked(url: str) -> str:
    scheme, _, name = url.partition(":")
    if scheme != SCHEME or not name:
        raise InvalidArgumentError(f"{url!r} is no URL of the form local:name")
    return url


def _factory(url: str) -> Transport:
    _checked(url)
    return LocalTransport()


@hookimpl
def replkit_register_transports(registry: Registry) -> None:
    """Register the scheme ``local``."""
    registry.add_transport_scheme(SCHEME, _factory)
