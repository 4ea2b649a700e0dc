"""Links that send ahead keep the contract of a link, and do not wait for a peer that is slow with one message."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from replkit.backends.tcp import TcpTransport
from replkit.contracts.message import Message
from replkit.contracts.transport import Link, Transport
from replkit.errors import LinkClosedError, PeerError
from replkit.site.ahead import LARGE_BYTES, AheadLink, AheadTransport
from replkit.testing.transport_suite import WAIT_S, TransportSuite, World

CHUNK = Message(2, b"chunk", bytes(LARGE_BYTES))


class TestAhead(TransportSuite):
    def make_transport(self) -> Transport:
        return AheadTransport(TcpTransport())

    def make_url(self) -> str:
        return "tcp://127.0.0.1:0"

    @pytest.mark.requirement("D4")
    def test_small_messages_do_not_overtake_large_ones(self, world: World) -> None:
        pair = world.connect(world.listen())
        sent = [Message(1, b"%d" % number, bytes(LARGE_BYTES * (number % 2))) for number in range(20)]

        def send() -> None:
            for message in sent:
                pair.here.send(message, WAIT_S)

        sender = threading.Thread(target=send)
        sender.start()
        found = [pair.there.receive(WAIT_S) for _ in sent]
        sender.join(WAIT_S)
        assert [message.body for message in found if message is not None] == [message.body for message in sent]


class SlowLink(Link):
    """Takes one message when it is told to; or fails."""

    peer = "slow"

    def __init__(self) -> None:
        self.begun, self.let = threading.Semaphore(0), threading.Semaphore(0)
        self.error: Exception | None = None
        self.is_closed = False

    def send(self, message: Message, timeout_s: float) -> None:
        self.begun.release()
        assert self.let.acquire(timeout=WAIT_S)
        if self.error is not None:
            raise self.error

    def receive(self, timeout_s: float) -> Message | None:
        return None

    def close(self) -> None:
        self.is_closed = True
        self.let.release()


@pytest.fixture
def slow() -> Iterator[SlowLink]:
    link = SlowLink()
    yield link
    link.close()


@pytest.mark.requirement("C1")
def test_a_large_message_is_on_its_way_while_the_caller_goes_on(slow: SlowLink) -> None:
    link = AheadLink(slow)
    link.send(CHUNK, WAIT_S)  # returns, though the link beneath has not taken it
    assert slow.begun.acquire(timeout=WAIT_S)
    second = threading.Thread(target=link.send, args=(CHUNK, WAIT_S))
    second.start()
    assert not slow.begun.acquire(blocking=False)  # one at a time: memory is bounded
    assert second.is_alive()
    slow.let.release()
    second.join(WAIT_S)
    assert not second.is_alive()
    assert slow.begun.acquire(timeout=WAIT_S)
    slow.let.release()
    link.close()


@pytest.mark.parametrize("error", [LinkClosedError("broke"), ValueError("a bug of a plugin")])
def test_what_fails_on_the_way_is_told_to_the_next_send(slow: SlowLink, error: Exception) -> None:
    link = AheadLink(slow)
    slow.error = error
    link.send(CHUNK, WAIT_S)
    slow.let.release()
    with pytest.raises(PeerError):
        link.send(Message(1, b"next", b""), WAIT_S)
    with pytest.raises(PeerError):
        link.send(CHUNK, WAIT_S)
