"""The local transport: the suite, and what is its own."""

from __future__ import annotations

import itertools

import pytest

from replkit.backends import local
from replkit.contracts.message import MAX_BODY_BYTES, MAX_PAYLOAD_BYTES, Message
from replkit.contracts.registry import default_registry
from replkit.contracts.transport import Transport
from replkit.errors import AlreadyExistsError, InvalidArgumentError
from replkit.testing.transport_suite import WAIT_S, Pair, Running, TransportSuite, World

_numbers = itertools.count()


class TestLocal(TransportSuite):
    def make_transport(self) -> Transport:
        return local.LocalTransport()

    def make_url(self) -> str:
        return f"local:test-{next(_numbers)}"

    def test_a_name_is_taken_once(self, world: World) -> None:
        world.listen()
        with pytest.raises(AlreadyExistsError):
            world.transport.listen(world.url, lambda link: None)

    @pytest.mark.requirement("T2")
    def test_the_payload_is_passed_by_reference(self, pair: Pair) -> None:
        payload = b"x" * 5_000_000
        pair.here.send(Message(5, b"", payload), WAIT_S)
        received = pair.there.receive(WAIT_S)
        assert received is not None
        assert received.payload is payload

    def test_a_wake_ends_a_wait_or_that_of_the_next_call_and_loses_nothing(self, pair: Pair) -> None:
        waiting = Running(lambda: pair.there.receive(10 * WAIT_S))
        pair.there.wake()
        assert waiting.result() is None
        pair.there.wake()
        assert pair.there.receive(10 * WAIT_S) is None
        pair.there.wake()
        pair.here.send(Message(5), WAIT_S)
        assert pair.there.receive(WAIT_S) == Message(5)

    @pytest.mark.parametrize(
        "message", [Message(1, bytes(MAX_BODY_BYTES + 1)), Message(1, b"", bytes(MAX_PAYLOAD_BYTES + 1))]
    )
    def test_what_no_frame_can_hold_is_refused(self, pair: Pair, message: Message) -> None:
        with pytest.raises(InvalidArgumentError):
            pair.here.send(message, WAIT_S)


@pytest.mark.parametrize("url", ["local:", "local", "tcp://x", "", "localhost:1"])
def test_a_url_of_another_form_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgumentError):
        local.LocalTransport().connect(url, 1)


@pytest.mark.requirement("T5", "U2")
def test_the_registry_finds_it_by_scheme() -> None:
    assert isinstance(default_registry().open_transport("local:a"), local.LocalTransport)
