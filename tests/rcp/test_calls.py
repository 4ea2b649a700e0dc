"""Calls over real links: they are answered in turn, errors come back typed, and nonsense ends the link."""

from __future__ import annotations

import threading

import pytest

from replkit.contracts.message import Message, encode_frame_head
from replkit.contracts.registry import default_registry
from replkit.contracts.transport import Link
from replkit.errors import LinkClosedError, LinkTimeoutError, ProtocolError, RecordMissingError, RefusedError
from replkit.rcp import messages as m
from replkit.rcp.calls import IDLE_LIMIT_S, CallClient, CallServer
from replkit.replication.receiver import Greeting, first_message, greet
from replkit.testing.runtime import ManualRuntime, ThreadRuntime
from replkit.testing.sim.network import SimNetwork

GOLDEN_CALL = bytes.fromhex(
    "524601143d0000000000000000000000f6d8a47598a2fd3283a2696401a46e616d65aa626c6f636b2d6c697374a96172"
    "67756d656e747383a6766f6c756d65a46469736ba47061676500a369647392a16181a162c0"
)
"""The frame of the sample Call; it never changes."""


def handle(name: str, arguments: dict[str, object], payload: object) -> tuple[dict[str, object], bytes]:
    if name == "fail":
        raise RecordMissingError("list 7 was trimmed", hint="compare hashes")
    if name == "refuse":
        raise RefusedError("not now", code="busy")
    if name == "break":
        raise KeyError("surprise")
    return {"name": name, "arguments": arguments}, bytes(payload)[::-1]  # type: ignore[call-overload]


class Pair:
    """A client and a link of calls in memory; ``serve`` answers what has come."""

    def __init__(self) -> None:
        self.runtime = ManualRuntime(waits_advance=True)
        self.links: list[Link] = []
        network = SimNetwork()
        network.listen("sim:here", self.links.append)
        self.near = network.connect("sim:here", 1.0)
        self.client = CallClient(self.near, self.runtime)

    @property
    def far(self) -> Link:
        return self.links[0]

    def server(self, *bodies: m.Body) -> CallServer:
        first = None
        for body in bodies:
            self.near.send(m.encode(body), 1.0)
            first = first or self.far.receive(0.0)
        assert first is not None
        return CallServer(self.far, first, handle, self.runtime)


def test_the_call_has_golden_bytes(samples):
    assert encode_frame_head(m.encode(samples[m.Call])) == GOLDEN_CALL


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:0", "local:calls-of-this-test"])
def test_calls_are_answered_in_turn_over_each_transport(url):
    runtime, ended = ThreadRuntime(), threading.Event()

    def serve(link: Link) -> None:
        first = first_message(link, runtime)
        assert isinstance(first, Message)
        server = CallServer(link, first, handle, runtime)
        while server.step(5.0) is not None:
            pass
        ended.set()

    transport = default_registry().open_transport(url)
    listener = transport.listen(url, serve)
    client = CallClient(transport.connect(listener.url, 5.0), runtime)
    for number in range(3):
        result, payload = client.call("echo", {"n": number, "deep": [{"a": None}]}, b"abc")
        assert result == {"name": "echo", "arguments": {"n": number, "deep": [{"a": None}]}}
        assert bytes(payload) == b"cba"
    with pytest.raises(RefusedError, match="list 7 was trimmed") as caught:
        client.call("fail", {})
    assert (caught.value.code, caught.value.hint) == ("record-missing", "compare hashes")
    assert client.call("after", {})[0]["name"] == "after"
    client.close()
    assert ended.wait(5.0)
    with pytest.raises(LinkClosedError):
        client.call("late", {})
    listener.close()


def test_the_code_of_a_refusal_is_passed_on_and_a_surprise_is_internal():
    pair = Pair()
    server = pair.server(m.Call(id=0, name="refuse"), m.Call(id=1, name="break"))
    answers = []
    for _ in range(2):
        assert server.step() == 0.0
        answers.append(m.decode(pair.near.receive(0.0)))
    assert [answer.ok for answer in answers] == [False, False]
    assert [answer.result["code"] for answer in answers] == ["busy", "internal"]
    assert isinstance(server.last_error, KeyError)


def test_no_reply_in_time_ends_the_link():
    pair = Pair()
    receive = pair.near.receive

    def wait(timeout_s: float) -> Message | None:
        pair.runtime.advance(timeout_s)
        return receive(timeout_s)

    pair.near.receive = wait  # type: ignore[method-assign]
    with pytest.raises(LinkTimeoutError, match="no reply to slow within 7"):
        pair.client.call("slow", {}, timeout_s=7)
    with pytest.raises(LinkClosedError):
        pair.client.call("again", {})


@pytest.mark.parametrize("answer", [m.Reply(id=9, ok=True), m.Pong(token=0), m.Call(id=0, name="x")])
def test_another_message_than_the_reply_ends_the_link(answer):
    pair = Pair()
    pair.far.send(m.encode(answer), 1.0)
    with pytest.raises(ProtocolError, match="instead of the reply to ask"):
        pair.client.call("ask", {})
    with pytest.raises(LinkClosedError):
        pair.client.call("again", {})


def test_another_message_than_a_call_ends_the_link_of_the_server(samples):
    pair = Pair()
    server = pair.server(m.Call(id=0, name="echo"))
    assert server.step() == 0.0
    pair.near.send(m.encode(samples[m.Hello]), 1.0)
    assert server.step() is None
    assert isinstance(server.last_error, ProtocolError)


def test_a_link_of_calls_that_is_silent_for_too_long_is_closed():
    pair = Pair()
    server = pair.server(m.Call(id=0, name="echo"))
    assert server.step() == 0.0
    assert server.step() == 0.0
    pair.runtime.advance(IDLE_LIMIT_S)
    assert server.step() is None


def test_the_first_message_tells_a_link_of_calls_from_a_session(samples):
    pair = Pair()
    pair.near.send(m.encode(samples[m.Call]), 1.0)
    first = first_message(pair.far, pair.runtime)
    assert isinstance(first, Message)
    assert m.decode(first) == samples[m.Call]
    pair.near.send(m.encode(samples[m.Call]), 1.0)
    with pytest.raises(ProtocolError, match="no calls are answered"):
        greet(pair.far, pair.runtime)
    other = Pair()
    other.near.send(m.encode(samples[m.Hello]), 1.0)
    greeting = first_message(other.far, other.runtime)
    assert isinstance(greeting, Greeting)
    assert greeting.hello == samples[m.Hello]
