"""Bad transports, one flaw each, and the suites over them: ``test_flawed_plugins.py`` knows what must fail.

The local transport, of which they are made, passes the same suites.
"""

from __future__ import annotations

import itertools

from replkit.backends.local import LocalTransport
from replkit.contracts.message import Message
from replkit.contracts.transport import Link, Transport
from replkit.testing import transport_suite
from replkit.testing.plugged import links
from replkit.testing.simulator_suite import TransportInSimulator
from replkit.testing.transport_suite import TransportSuite

transport_suite.WAIT_S = 2.0  # what never comes is waited for here
links.WAIT_S = 2.0
_numbers = itertools.count()


class WrappedLink(Link):
    """A link of the local transport, with a flaw on top."""

    def __init__(self, inner):
        self.inner, self.peer = inner, inner.peer

    def send(self, message, timeout_s):
        self.inner.send(message, timeout_s)

    def receive(self, timeout_s):
        return self.inner.receive(timeout_s)

    def close(self):
        self.inner.close()


class WrappedTransport(Transport):
    def __init__(self, wrap):
        self._inner, self._wrap = LocalTransport(), wrap

    def connect(self, url, timeout_s):
        return self._wrap(self._inner.connect(url, timeout_s))

    def listen(self, url, on_link, on_other=None):
        return self._inner.listen(url, lambda link: on_link(self._wrap(link)))


class _Transports:
    wrap = WrappedLink

    def make_transport(self):
        return WrappedTransport(self.wrap)

    def make_url(self):
        return f"local:flawed-{next(_numbers)}"


class TestWrapped(_Transports, TransportSuite):
    """The right one."""


class TestWrappedInSimulator(_Transports, TransportInSimulator):
    """The right one."""


class Reorders(WrappedLink):
    """Of each ten messages the last two change places, if both are there."""

    def __init__(self, inner):
        super().__init__(inner)
        self._count, self._held = 0, []

    def receive(self, timeout_s):
        if self._held:
            return self._held.pop()
        message = self.inner.receive(timeout_s)
        self._count += message is not None
        if message is not None and self._count % 10 == 9:
            following = self.inner.receive(0.05)
            if following is not None:
                self._count += 1
                self._held.append(message)
                return following
        return message


class TestReorders(_Transports, TransportSuite):
    wrap = Reorders


class TestReordersInSimulator(_Transports, TransportInSimulator):
    wrap = Reorders


class Drops(WrappedLink):
    """Every seventh message does not arrive."""

    def __init__(self, inner):
        super().__init__(inner)
        self._count = 0

    def send(self, message, timeout_s):
        self._count += 1
        if self._count % 7:
            self.inner.send(message, timeout_s)


class TestDrops(_Transports, TransportSuite):
    wrap = Drops


class TestDropsInSimulator(_Transports, TransportInSimulator):
    wrap = Drops


class Changes(WrappedLink):
    """The last byte of a payload gets lost where it is zero, as by a text protocol."""

    def receive(self, timeout_s):
        message = self.inner.receive(timeout_s)
        if message is None or not message.payload:
            return message
        payload = bytes(memoryview(message.payload))
        return Message(message.kind, message.body, payload.rstrip(b"d\0") if len(payload) < 50_000 else payload)


class TestChanges(_Transports, TransportSuite):
    wrap = Changes


class TestChangesInSimulator(_Transports, TransportInSimulator):
    wrap = Changes


class ReusesItsBuffer(WrappedLink):
    """What was received is overwritten by the next message."""

    def __init__(self, inner):
        super().__init__(inner)
        self._buffer = bytearray()

    def receive(self, timeout_s):
        message = self.inner.receive(timeout_s)
        if message is None:
            return None
        data = memoryview(message.payload).cast("B")
        if data.nbytes > len(self._buffer):
            self._buffer = bytearray(max(data.nbytes, 64 << 10))
        self._buffer[: data.nbytes] = data
        return Message(message.kind, message.body, memoryview(self._buffer)[: data.nbytes])


class TestReusesItsBuffer(_Transports, TransportSuite):
    wrap = ReusesItsBuffer


class CloseWakesNobody(WrappedLink):
    def close(self):
        """Leaves it to the other end."""


class TestCloseWakesNobody(_Transports, TransportSuite):
    wrap = CloseWakesNobody
