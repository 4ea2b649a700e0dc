"""The listening side: who comes in, for how long an unknown may think, and which protocol it speaks (FIG. 19)."""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import suppress

from replkit.backends.tcp.address import Address
from replkit.backends.tcp.connection import Connection
from replkit.backends.tcp.link import OtherStream, TcpLink
from replkit.contracts.message import PREAMBLE
from replkit.contracts.transport import Listener, OnLink, OnOther
from replkit.errors import LinkClosedError, PeerError

HANDSHAKE_S = 10.0
_BACKLOG = 128
_JOIN_S = 5.0
_RETRY_S = 0.1

_log = logging.getLogger(__name__)


class TcpListener(Listener):
    """Accepts connections on a thread, each of which gets a thread of its own.

    Args:
        listening: bound and listening socket; closed by ``close``.
        address: where it was asked to listen; the port is taken from the socket.
        on_link: called with each link.
        on_other: called with each connection that does not begin with the preamble; ``None`` closes them.
        handshake_s: time in which a connection must have shown its protocol.
    """

    def __init__(
        self,
        listening: socket.socket,
        address: Address,
        on_link: OnLink,
        on_other: OnOther | None,
        *,
        handshake_s: float = HANDSHAKE_S,
    ) -> None:
        self.url = str(address.with_port(listening.getsockname()[1]))
        self._listening = listening
        self._max_connections = address.connections
        self._on_link = on_link
        self._on_other = on_other
        self._handshake_s = handshake_s
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._connections: dict[Connection, threading.Thread] = {}
        self._thread = threading.Thread(target=self._accept_all, name=f"accept {self.url}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more connections, close all and wait for their threads."""
        self._stopped.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes accept
        deadline = time.monotonic() + _JOIN_S
        _join(self._thread, deadline)
        self._listening.close()
        with self._lock:
            connections = dict(self._connections)
        for connection in connections:
            connection.close()
        for thread in connections.values():
            _join(thread, deadline)

    def _accept_all(self) -> None:
        while not self._stopped.is_set():
            try:
                accepted, peer = self._listening.accept()
            except OSError as error:
                if not self._stopped.is_set():
                    _log.warning("cannot accept at %s: %s", self.url, error)
                    self._stopped.wait(_RETRY_S)  # out of descriptors: others must end first
                continue
            self._start(accepted, f"{peer[0]}:{peer[1]}")

    def _start(self, accepted: socket.socket, peer: str) -> None:
        with self._lock:
            if self._stopped.is_set() or len(self._connections) >= self._max_connections:
                _log.warning("refused %s at %s: %d connections are open", peer, self.url, len(self._connections))
                accepted.close()
                return
            try:
                connection = Connection(accepted, peer)
            except OSError:  # reset before it was looked at
                accepted.close()
                return
            thread = threading.Thread(target=self._serve, args=(connection,), name=f"link {peer}", daemon=True)
            self._connections[connection] = thread
            thread.start()

    def _serve(self, connection: Connection) -> None:
        try:
            first = self._read_first(connection)
            if first == PREAMBLE:
                self._on_link(TcpLink(connection))
            elif first and self._on_other is not None:
                self._on_other(first, OtherStream(connection, first))
        except LinkClosedError:
            pass  # the ordinary end of a link
        except PeerError as error:
            _log.warning("link with %s ended: %s", connection.peer, error)
        except Exception:
            _log.exception("link with %s ended by an error", connection.peer)
        finally:
            connection.close()
            with self._lock:
                self._connections.pop(connection, None)

    def _read_first(self, connection: Connection) -> bytes:
        """The first bytes, as few as tell the protocol; none of them when they did not come in time."""
        first = b""
        deadline = time.monotonic() + self._handshake_s
        while len(first) < len(PREAMBLE) and PREAMBLE.startswith(first):
            left_s = deadline - time.monotonic()
            data = connection.receive(len(PREAMBLE) - len(first), left_s, whole=False) if left_s > 0 else None
            if data is None:
                _log.info("%s did not say in time what it speaks", connection.peer)
                return b""
            first += data
        return first


def listen(address: Address) -> socket.socket:
    """A listening socket; the port may be 0."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server((address.host, address.port), family=family, backlog=_BACKLOG)


def _join(thread: threading.Thread, deadline: float) -> None:
    if thread is not threading.current_thread():
        thread.join(max(0.0, deadline - time.monotonic()))
