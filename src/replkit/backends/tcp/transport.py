"""The transport itself: connect, listen, and its registration."""

from __future__ import annotations

import errno
import socket
import time

from replkit.backends.tcp.address import SCHEME, Address
from replkit.backends.tcp.connection import Connection
from replkit.backends.tcp.link import TcpLink
from replkit.backends.tcp.listener import TcpListener, listen
from replkit.contracts.hooks import hookimpl
from replkit.contracts.message import PREAMBLE
from replkit.contracts.registry import Registry
from replkit.contracts.transport import Link, Listener, OnLink, OnOther, Transport
from replkit.errors import AlreadyExistsError, InvalidArgumentError, LinkClosedError, LinkTimeoutError, PeerError


class TcpTransport(Transport):
    """RCP over TCP in plain text; loopback unless the URL says otherwise."""

    def connect(self, url: str, timeout_s: float) -> Link:
        """Connect and send the preamble, all in ``timeout_s``."""
        address = Address.parse(url)
        address.check_plaintext()
        deadline = time.monotonic() + timeout_s
        try:
            connected = socket.create_connection((address.host, address.port), timeout_s)
        except TimeoutError:
            raise LinkTimeoutError(f"no connection with {url} in {timeout_s:g} s") from None
        except OSError as error:
            raise LinkClosedError(f"cannot connect to {url}: {error.strerror or error}") from None
        try:
            connection = Connection(connected, f"{address.host}:{address.port}")
        except OSError as error:
            connected.close()
            raise LinkClosedError(f"cannot connect to {url}: {error.strerror or error}") from None
        try:
            sent = connection.send([PREAMBLE], deadline - time.monotonic())
            if sent != len(PREAMBLE):
                raise LinkTimeoutError(f"{url} did not take the preamble in {timeout_s:g} s")
        except PeerError:
            connection.close()
            raise
        return TcpLink(connection)

    def listen(self, url: str, on_link: OnLink, on_other: OnOther | None = None) -> Listener:
        """Bind and listen; ``AlreadyExistsError`` when the port is taken."""
        address = Address.parse(url)
        address.check_plaintext()
        try:
            listening = listen(address)
        except OSError as error:
            kind = AlreadyExistsError if error.errno == errno.EADDRINUSE else InvalidArgumentError
            raise kind(f"cannot listen at {url}: {error.strerror or error}") from None
        return TcpListener(listening, address, on_link, on_other)


def _factory(url: str) -> Transport:
    Address.parse(url)
    return TcpTransport()


@hookimpl
def replkit_register_transports(registry: Registry) -> None:
    """Register the scheme ``tcp``."""
    registry.add_transport_scheme(SCHEME, _factory)
