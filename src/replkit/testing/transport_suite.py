"""The conformance suite of a transport: subclass it, say how a transport and a free URL are made, and run pytest.

::

    class TestMyTransport(TransportSuite):
        def make_transport(self) -> Transport: ...
        def make_url(self) -> str: ...      # where nothing listens yet
"""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import pytest

from replkit.contracts.message import MAX_PAYLOAD_BYTES, Message
from replkit.contracts.transport import ByteStream, Link, Listener, Transport
from replkit.errors import LinkClosedError, LinkTimeoutError, PeerError
from replkit.testing.comparing import assert_bytes
from replkit.testing.worlds import run_all

WAIT_S = 20.0
"""Bound for what must happen; a test that waits so long has failed."""
SHORT_S = 0.05
"""Bound for what must not happen."""


class Pair(NamedTuple):
    """Both ends of a link, and the listener that it came by."""

    here: Link
    there: Link
    listener: Listener


class World:
    """Opens pairs of links, and closes all at the end of a test."""

    def __init__(self, transport: Transport, url: str) -> None:
        self.transport = transport
        self.url = url
        self.arrived: queue.Queue[Link] = queue.Queue()
        self.listeners: list[Listener] = []
        self.links: list[Link] = []
        self._finished = threading.Event()

    def listen(self) -> Listener:
        """Listen, and keep every link that arrives open until the end of the test."""
        listener = self.transport.listen(self.url, self._on_link)
        self.listeners.append(listener)
        return listener

    def connect(self, listener: Listener) -> Pair:
        """Both ends of a new link."""
        here = self.transport.connect(listener.url, WAIT_S)
        self.links.append(here)
        return Pair(here, self.arrived.get(timeout=WAIT_S), listener)

    def connect_again(self, listener: Listener) -> Pair:
        """A link after others that never said anything that makes sense; what those gave is looked at too."""
        here = self.transport.connect(listener.url, WAIT_S)
        self.links.append(here)
        here.send(Message(8, b"mine"), WAIT_S)
        while True:
            there = self.arrived.get(timeout=WAIT_S)
            try:
                message = there.receive(WAIT_S)
            except PeerError:
                continue  # one of those
            assert message == Message(8, b"mine"), "bytes that are no message became one"
            return Pair(here, there, listener)

    def close(self) -> None:
        """End everything."""
        self._finished.set()
        for link in self.links:
            link.close()
        for listener in self.listeners:
            listener.close()

    def _on_link(self, link: Link) -> None:
        self.arrived.put(link)
        self._finished.wait()


class Running:
    """A call on a thread of its own, and how it ended."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._result: object = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self) -> object:
        """What the call returned, or raises what it raised."""
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the call did not return"
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._call()
        except Exception as error:  # handed to the test
            self._error = error


class TransportSuite(ABC):
    """What every transport must do."""

    largest_payload_bytes = MAX_PAYLOAD_BYTES

    @abstractmethod
    def make_transport(self) -> Transport:
        """The transport under test."""

    @abstractmethod
    def make_url(self) -> str:
        """A URL where nothing listens yet."""

    def connect_raw(self, url: str) -> ByteStream | None:  # noqa: ARG002 - for those who can
        """A connection to a listener that is made without the transport, where there is such a thing."""
        return None

    @pytest.fixture
    def world(self) -> Iterator[World]:
        """A transport that is cleaned up after the test."""
        world = World(self.make_transport(), self.make_url())
        yield world
        world.close()

    @pytest.fixture
    def pair(self, world: World) -> Pair:
        """Both ends of a link."""
        return world.connect(world.listen())

    @pytest.mark.requirement("T7")
    def test_a_message_arrives_as_it_was_sent(self, pair: Pair) -> None:
        pair.here.send(Message(7, b"body", b"payload"), WAIT_S)
        _expect(pair.there, Message(7, b"body", b"payload"))

    def test_both_directions_carry_messages(self, pair: Pair) -> None:
        pair.here.send(Message(1, b"there"), WAIT_S)
        pair.there.send(Message(2, b"back"), WAIT_S)
        _expect(pair.there, Message(1, b"there"))
        _expect(pair.here, Message(2, b"back"))

    def test_an_empty_message_arrives(self, pair: Pair) -> None:
        pair.here.send(Message(3), WAIT_S)
        _expect(pair.there, Message(3))

    def test_messages_keep_their_order(self, pair: Pair) -> None:
        sending = Running(lambda: [pair.here.send(Message(1, b"%d" % i, bytes(i)), WAIT_S) for i in range(500)])
        for number in range(500):
            body = _take(pair.there).body
            assert body == b"%d" % number, f"message {number} was to come, {bytes(body)!r} came: out of order, or lost"
        sending.result()

    def test_the_largest_payload_arrives_whole(self, pair: Pair) -> None:
        payload = bytes(range(256)) * (self.largest_payload_bytes // 256)
        sending = Running(lambda: pair.here.send(Message(5, b"big", payload), WAIT_S))
        _expect(pair.there, Message(5, b"big", payload))
        sending.result()

    def test_any_buffer_is_a_payload(self, pair: Pair) -> None:
        words = memoryview(bytearray(b"abcdefgh")).cast("I")
        pair.here.send(Message(5, b"", words), WAIT_S)
        _expect(pair.there, Message(5, b"", b"abcdefgh"))

    def test_a_received_payload_stays_as_it_is(self, pair: Pair) -> None:
        pair.here.send(Message(5, b"", b"a" * 100_000), WAIT_S)
        first = _take(pair.there)
        pair.here.send(Message(5, b"", b"b" * 100_000), WAIT_S)
        _take(pair.there)
        assert_bytes(first.payload, b"a" * 100_000, "a payload changed when the next message came")

    def test_both_ends_send_much_at_the_same_time(self, pair: Pair) -> None:
        """Each end takes while it sends, so neither waits for the other for ever."""

        def talk(link: Link, letter: bytes) -> None:
            sending = Running(lambda: [link.send(Message(1, b"%d" % i, letter * 200_000), WAIT_S) for i in range(40)])
            for number in range(40):
                message = _take(link)
                assert message.body == b"%d" % number, f"message {number} was to come, {bytes(message.body)!r} came"
                assert bytes(memoryview(message.payload)[:1]) != letter, "an end received what it sent itself"
            sending.result()

        run_all(lambda: talk(pair.here, b"x"), lambda: talk(pair.there, b"y"))

    def test_many_links_at_once_are_apart(self, world: World) -> None:
        """Each thread has a link of its own, and hears only what is said there."""
        listener = world.listen()
        pairs = [world.connect(listener) for _ in range(8)]

        def talk(number: int) -> None:
            for turn in range(30):
                pairs[number].here.send(Message(1, b"%d %d" % (number, turn), bytes(5000)), WAIT_S)
                body = _take(pairs[number].there).body
                assert body == b"%d %d" % (number, turn), f"link {number} brought {bytes(body)!r}"

        run_all(*(partial(talk, number) for number in range(8)))

    def test_several_tasks_may_close_a_link(self, pair: Pair) -> None:
        """Whoever waits wakes once, and nobody is hurt."""
        waiting = [Running(lambda link=link: link.receive(WAIT_S)) for link in (pair.here, pair.there)]  # type: ignore[misc]
        run_all(*[pair.here.close] * 3, *[pair.there.close] * 3)
        for running in waiting:
            with pytest.raises(LinkClosedError):
                running.result()

    def test_bytes_that_are_no_message_end_only_their_link(self, world: World) -> None:
        """Invariant 12: whatever comes in from outside, nothing of it becomes a message, and others are served."""
        listener = world.listen()
        for garbage in (b"", b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 64, b"\xff" * 100):
            stream = self.connect_raw(listener.url)
            if stream is None:
                pytest.skip("the suite has no way to connect without the transport")
            with suppress(OSError):  # it may be closed before all is sent
                stream.sendall(garbage)
            stream.close()
        pair = world.connect_again(listener)
        pair.here.send(Message(9, b"served"), WAIT_S)
        _expect(pair.there, Message(9, b"served"))

    def test_receive_returns_none_when_nothing_comes(self, pair: Pair) -> None:
        assert pair.there.receive(SHORT_S) is None
        assert pair.there.receive(0) is None
        pair.here.send(Message(1), WAIT_S)
        assert _take(pair.there).kind == 1

    def test_a_message_sent_before_an_orderly_close_still_arrives(self, pair: Pair) -> None:
        pair.here.send(Message(19, b"bye"), WAIT_S)
        pair.here.close()
        assert _take(pair.there).body == b"bye"
        with pytest.raises(LinkClosedError):
            _take(pair.there)

    def test_close_wakes_a_receive_here_and_there(self, pair: Pair) -> None:
        here = Running(lambda: pair.here.receive(WAIT_S))
        there = Running(lambda: pair.there.receive(WAIT_S))
        pair.here.close()
        for running in (here, there):
            with pytest.raises(LinkClosedError):
                running.result()

    def test_close_wakes_a_send_that_is_pushed_back(self, pair: Pair) -> None:
        progress = threading.Event()
        sending = Running(lambda: _send_until_it_fails(pair.here, WAIT_S, progress))
        _wait_until_pushed_back(progress)
        pair.here.close()
        with pytest.raises(LinkClosedError):
            sending.result()

    def test_a_closed_link_refuses_both_directions(self, pair: Pair) -> None:
        pair.here.close()
        pair.here.close()
        with pytest.raises(LinkClosedError):
            pair.here.send(Message(1), WAIT_S)
        with pytest.raises(LinkClosedError):
            pair.here.receive(WAIT_S)

    def test_a_send_to_a_peer_that_closed_fails(self, pair: Pair) -> None:
        pair.there.close()
        with pytest.raises(LinkClosedError):
            _send_until_it_fails(pair.here, WAIT_S, threading.Event())

    @pytest.mark.requirement("S4")
    def test_a_peer_that_takes_nothing_pushes_back_and_ends_the_link(self, pair: Pair) -> None:
        with pytest.raises(LinkTimeoutError):
            _send_until_it_fails(pair.here, SHORT_S, threading.Event())
        with pytest.raises(LinkClosedError):
            pair.here.send(Message(1), WAIT_S)

    @pytest.mark.requirement("T1")
    def test_a_link_that_is_pushed_back_does_not_delay_another(self, world: World) -> None:
        listener = world.listen()
        stuck, free = world.connect(listener), world.connect(listener)
        progress = threading.Event()
        sending = Running(lambda: _send_until_it_fails(stuck.here, WAIT_S, progress))
        _wait_until_pushed_back(progress)
        for i in range(50):
            free.here.send(Message(1, b"%d" % i), WAIT_S)
            assert _take(free.there).body == b"%d" % i
        stuck.here.close()
        with pytest.raises(LinkClosedError):
            sending.result()

    def test_nothing_listening_is_a_closed_link(self, world: World) -> None:
        listener = world.listen()
        listener.close()
        with pytest.raises((LinkClosedError, LinkTimeoutError)):
            world.transport.connect(listener.url, WAIT_S)

    def test_closing_the_listener_closes_its_links(self, pair: Pair, world: World) -> None:
        receiving = Running(lambda: pair.here.receive(WAIT_S))
        world.close()
        with pytest.raises(LinkClosedError):
            receiving.result()

    def test_a_url_can_be_listened_at_again(self, world: World) -> None:
        first = world.listen()
        first.close()
        again = world.transport.listen(first.url, world.arrived.put)
        world.listeners.append(again)
        world.links.append(world.transport.connect(again.url, WAIT_S))
        assert world.arrived.get(timeout=WAIT_S).peer

    def test_a_link_ends_when_its_task_returns_or_fails(self, world: World) -> None:
        outcomes: list[Exception | None] = [None, LinkClosedError("gone"), TaskPeerError("wrong"), ValueError("bug")]

        def on_link(_: Link) -> None:
            if (outcome := outcomes.pop()) is not None:
                raise outcome

        listener = world.transport.listen(world.url, on_link)
        world.listeners.append(listener)
        for _ in range(4):
            link = world.transport.connect(listener.url, WAIT_S)
            world.links.append(link)
            with pytest.raises(LinkClosedError):
                link.receive(WAIT_S)
        assert not outcomes


class TaskPeerError(PeerError):
    """An error that a task may end with."""


def _take(link: Link) -> Message:
    message = link.receive(WAIT_S)
    assert message is not None, "no message came"
    return message


def _expect(link: Link, wanted: Message) -> None:
    """The next message of the link is this one."""
    found = _take(link)
    why = "a message was changed on its way"
    assert (found.kind, bytes(found.body)) == (wanted.kind, bytes(wanted.body)), why
    assert_bytes(found.payload, wanted.payload, why)


def _wait_until_pushed_back(progress: threading.Event) -> None:
    """Until nothing more is taken: how much a transport holds is its own affair."""
    while progress.wait(4 * SHORT_S):
        progress.clear()


def _send_until_it_fails(link: Link, timeout_s: float, progress: threading.Event) -> None:
    """Send until the way is full: nobody receives, or nobody is there any more."""
    payload = bytes(1 << 20)
    for _ in range(1000):
        link.send(Message(5, b"", payload), timeout_s)
        progress.set()
    raise AssertionError("a thousand megabytes went nowhere")


__all__ = ["SHORT_S", "WAIT_S", "Pair", "Running", "TransportSuite", "World"]
