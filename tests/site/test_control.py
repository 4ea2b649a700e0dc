"""The control socket: for its owner only, and no client, however wrong or rude, harms it or the others."""

from __future__ import annotations

import base64
import json
import os
import socket
import stat
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replkit.errors import (
    AlreadyExistsError,
    ConfigError,
    ControlError,
    InvalidArgumentError,
    NotFoundError,
    RefusedError,
    ReplkitError,
)
from replkit.site.channel import ChannelClient, serve_channel
from replkit.site.control import (
    MAX_LINE_BYTES,
    ControlClient,
    Request,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from replkit.site.controlserver import ControlServer


class World:
    """A server whose commands are these few."""

    def __init__(self, path):
        self.path = path
        self.calls = []
        self.answer = None
        self.server = ControlServer(path, self.handle)

    def handle(self, command, arguments):
        self.calls.append((command, arguments))
        match command:
            case "echo":
                return arguments
            case "missing":
                raise NotFoundError("no such thing", hint="look elsewhere")
            case "faulty":
                raise ConfigError("bad", faults=[("a.b", "is wrong")])
            case "secret":
                raise ValueError("the password is swordfish")
            case "ask":
                return self.answer(arguments)
        return object()  # no JSON


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path / "run" / "control.sock")
    world.server.start()
    yield world
    world.server.stop()


def raw(world, data):
    """What the server answers to bytes that may be anything."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(world.path))
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while part := sock.recv(65536):
            answer += part
    return [json.loads(line) for line in answer.splitlines()]


def test_a_command_gets_its_result_and_the_socket_is_private(world):
    assert stat.S_IMODE(world.path.stat().st_mode) == 0o600
    with ControlClient(world.path) as client:
        assert client.request("echo", volume="disk") == {"volume": "disk"}


def test_an_error_arrives_with_its_type_message_and_hint(world):
    with ControlClient(world.path) as client:
        with pytest.raises(NotFoundError) as caught:
            client.request("missing")
        assert (caught.value.message, caught.value.hint) == ("no such thing", "look elsewhere")
        with pytest.raises(ConfigError) as faulty:
            client.request("faulty")
        assert faulty.value.faults == [("a.b", "is wrong")]


def test_the_text_of_an_error_that_is_not_ours_stays_in_the_log(world):
    with ControlClient(world.path) as client, pytest.raises(ControlError) as caught:
        client.request("secret")
    assert "swordfish" not in str(caught.value)
    with ControlClient(world.path) as client, pytest.raises(ControlError):
        client.request("a result that is no JSON")


def test_a_repeated_request_id_is_carried_out_once(world):
    with ControlClient(world.path) as client:
        for _ in range(3):
            assert client.request("echo", request_id="r1", n=1) == {"n": 1}
    assert world.calls == [("echo", {"n": 1})]


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b"{",
        b"[]",
        b"null",
        b'{"id": 3, "command": "echo"}',
        b'{"id": "x", "command": ["echo"]}',
        b'{"id": "x", "command": "echo", "arguments": 3}',
        b'{"id": "x", "command": "echo", "version": 99}',
        b'{"id": "' + b"x" * 100 + b'", "command": "echo"}',
        b"[" * 100_000,
    ],
)
def test_malformed_input_is_answered_and_the_connection_goes_on(world, line):
    good = encode_request(Request(id="good", command="echo"))
    bad, answer = raw(world, line + b"\n" + good)
    assert bad["error"]["type"] == "InvalidArgumentError"
    assert answer == {"id": "good", "ok": True, "result": {}}


def test_a_line_without_an_end_is_cut_off_and_others_are_served_on(world):
    (answer,) = raw(world, b"x" * (MAX_LINE_BYTES + 1))
    assert answer["ok"] is False
    with ControlClient(world.path) as client:
        assert client.request("echo") == {}


@pytest.mark.requirement("R4")
def test_a_call_of_16_mib_goes_through_daemon_and_channel_both_ways(world):
    """As a list of changed blocks does between sites (invariant 12: bounded, and nobody's end)."""
    payload = base64.b64encode(os.urandom(16 << 20)).decode()
    here, there = socket.socketpair()
    threading.Thread(target=serve_channel, args=(there, lambda _command, arguments: arguments), daemon=True).start()
    channel = ChannelClient(here, "w")
    world.answer = lambda arguments: channel.request("echo", arguments, 60)
    with ControlClient(world.path) as client:
        assert client.request("ask", payload=payload) == {"payload": payload}
        with pytest.raises(InvalidArgumentError, match="more than"):
            client.request("ask", payload="x" * MAX_LINE_BYTES)
        world.answer = lambda _arguments: "x" * MAX_LINE_BYTES
        with pytest.raises(ControlError, match="too many for a line"):
            client.request("ask")
        with pytest.raises(InvalidArgumentError, match="more than"):
            channel.request("echo", {"x": "x" * MAX_LINE_BYTES}, 60)
        world.answer = lambda _arguments: channel.request("echo", {}, 60)
        assert client.request("ask") == {}
    channel.close()
    there.close()


def test_a_client_that_goes_in_mid_line_harms_nobody(world):
    assert raw(world, b'{"id": "x", "comm') == []
    with ControlClient(world.path) as client:
        assert client.request("echo") == {}


def test_many_clients_at_once_each_get_their_own_answer(world):
    answers = {}

    def ask(n):
        with ControlClient(world.path) as client:
            answers[n] = client.request("echo", n=n)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: {"n": n} for n in range(20)}


def test_a_client_waits_for_its_turn_when_many_come_at_the_same_moment(tmp_path):
    path = tmp_path / "c.sock"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(path))
        listener.listen(0)
        first.connect(str(path))
        with pytest.raises(ControlError, match="no daemon answers"):
            ControlClient(path, timeout_s=0.05)
        clients = []
        waiting = threading.Thread(target=lambda: clients.append(ControlClient(path)))
        waiting.start()
        for _ in range(2):
            listener.accept()[0].close()
        waiting.join(30)
        clients[0].close()


def test_a_second_daemon_is_refused_and_a_stale_socket_is_taken_over(world, tmp_path):
    with pytest.raises(AlreadyExistsError, match="another daemon"):
        ControlServer(world.path, world.handle).start()
    stale = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(stale))
    other = ControlServer(stale, world.handle)
    other.start()
    with ControlClient(stale) as client:
        assert client.request("echo") == {}
    other.stop()
    assert not stale.exists()


def test_a_file_in_the_place_of_the_socket_is_not_removed(tmp_path, world):
    place = tmp_path / "file"
    place.write_text("mine")
    with pytest.raises(AlreadyExistsError):
        ControlServer(place, world.handle).start()
    assert place.read_text() == "mine"


def test_no_daemon_is_a_typed_error_with_a_hint(tmp_path):
    with pytest.raises(ControlError) as caught:
        ControlClient(tmp_path / "none.sock")
    assert "replkit serve" in caught.value.hint


@given(st.binary(max_size=200))
def test_whatever_arrives_only_the_typed_error_comes_out(data):
    for decode in (decode_request, decode_reply):
        try:
            decode(data)
        except (InvalidArgumentError, ControlError):
            continue


@given(st.sampled_from([NotFoundError, InvalidArgumentError, ControlError]), st.text(), st.text())
def test_errors_come_through_unchanged(kind, message, hint):
    request_id, result, error = decode_reply(encode_reply("7", error=kind(message, hint=hint)))
    assert (request_id, result) == ("7", None)
    assert isinstance(error, ReplkitError)
    assert (type(error), error.message, error.hint) == (kind, message, hint)


def test_the_code_of_a_refusal_comes_through():
    """A side that returns decides by it: with a list that is trimmed at its new primary it compares hashes."""
    _id, _result, error = decode_reply(encode_reply("7", error=RefusedError("no", code="list-trimmed", hint="h")))
    assert (type(error), error.code, error.hint) == (RefusedError, "list-trimmed", "h")
    _id, _result, error = decode_reply(encode_reply("7", error=RefusedError("no")))
    assert error.code == "refused"


@pytest.mark.parametrize("name", ["ReplkitError", "SystemExit", "annotations", "NoSuchError"])
def test_a_reply_cannot_make_us_raise_what_is_no_error_of_ours(name):
    line = json.dumps({"id": "1", "ok": False, "error": {"type": name, "message": "m"}}).encode()
    assert type(decode_reply(line)[2]) is ControlError
