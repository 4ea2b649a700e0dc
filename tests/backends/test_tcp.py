"""The TCP transport: the suite, the shared port, limits, and a wire that breaks at any byte."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from replkit.backends.tcp import TcpTransport
from replkit.backends.tcp.address import Address
from replkit.backends.tcp.connection import Connection
from replkit.backends.tcp.link import TcpLink
from replkit.backends.tcp.listener import TcpListener, listen
from replkit.contracts.message import (
    MAX_BODY_BYTES,
    MAX_PAYLOAD_BYTES,
    PREAMBLE,
    PREFIX_BYTES,
    Message,
    encode_frame_head,
)
from replkit.contracts.registry import default_registry
from replkit.contracts.transport import ByteStream, Link, Transport
from replkit.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    LinkClosedError,
    LinkTimeoutError,
    PeerError,
    ProtocolError,
)
from replkit.testing.transport_suite import SHORT_S, WAIT_S, Running, TransportSuite, World

HELLO = Message(1, b"a small body", b"and a payload")
FRAME = encode_frame_head(HELLO) + b"and a payload"


class TestTcp(TransportSuite):
    def make_transport(self) -> Transport:
        return TcpTransport()

    def make_url(self) -> str:
        return "tcp://127.0.0.1:0"

    def connect_raw(self, url: str) -> ByteStream:
        host, _, port = url.removeprefix("tcp://").rpartition(":")
        return socket.create_connection((host, int(port)), timeout=WAIT_S)

    def test_a_port_is_taken_once(self, world: World) -> None:
        listener = world.listen()
        with pytest.raises(AlreadyExistsError, match=listener.url):
            world.transport.listen(listener.url, lambda link: None)

    def test_connections_beyond_the_cap_are_closed_at_once_and_others_unharmed(self, world: World) -> None:
        world.url = "tcp://127.0.0.1:0?connections=2"
        listener = world.listen()
        pairs = [world.connect(listener) for _ in range(2)]
        third = world.transport.connect(listener.url, WAIT_S)
        with pytest.raises(LinkClosedError):
            third.receive(WAIT_S)
        pairs[1].here.send(HELLO, WAIT_S)
        assert pairs[1].there.receive(WAIT_S) == HELLO


class Wire(NamedTuple):
    """A link, and the bare socket at its other end."""

    link: TcpLink
    socket: socket.socket

    def feed(self, data: bytes) -> None:
        self.socket.sendall(data)


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = make_wire()
    yield wire
    wire.link.close()
    wire.socket.close()


def make_wire(stall_s: float = 15.0) -> Wire:
    with socket.create_server(("127.0.0.1", 0)) as server:
        bare = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    return Wire(TcpLink(Connection(accepted, "bare"), stall_s=stall_s), bare)


class TestWire:
    def test_a_frame_may_come_byte_by_byte(self, wire: Wire) -> None:
        receiving = Running(lambda: wire.link.receive(WAIT_S))
        for offset in range(len(FRAME)):
            wire.feed(FRAME[offset : offset + 1])
        assert receiving.result() == HELLO

    def test_a_frame_begun_goes_on_in_the_next_receive(self, wire: Wire) -> None:
        for offset in range(len(FRAME)):
            assert wire.link.receive(0) is None
            wire.feed(FRAME[offset : offset + 1])
        assert wire.link.receive(WAIT_S) == HELLO

    @pytest.mark.requirement("T7")
    def test_a_cut_at_any_byte_closes_the_link_and_delivers_nothing(self) -> None:
        for size in range(len(FRAME)):
            wire = make_wire()
            wire.feed(FRAME[:size])
            wire.socket.close()
            with pytest.raises(LinkClosedError):
                wire.link.receive(WAIT_S)
            wire.link.close()

    def test_any_flipped_bit_of_the_head_is_a_protocol_error_or_an_unfinished_frame(self) -> None:
        """Invariant 12: a body announced as longer waits for bytes that never come; nothing is ever delivered."""
        for bit in range((len(FRAME) - len(HELLO.payload)) * 8):
            broken = bytearray(FRAME)
            broken[bit // 8] ^= 1 << bit % 8
            body_bytes = int.from_bytes(broken[4:8], "little")
            is_unfinished = len(FRAME) - PREFIX_BYTES < body_bytes <= MAX_BODY_BYTES
            wire = make_wire()
            wire.feed(broken)
            wire.socket.close()
            with pytest.raises(LinkClosedError if is_unfinished else ProtocolError):
                wire.link.receive(WAIT_S)
            with pytest.raises(LinkClosedError):
                wire.link.receive(WAIT_S)

    def test_an_announced_payload_takes_no_memory_before_the_head_is_verified(self, wire: Wire) -> None:
        head = bytearray(encode_frame_head(Message(1, b"")))
        head[8:12] = MAX_PAYLOAD_BYTES.to_bytes(4, "little")
        wire.feed(head)
        with pytest.raises(ProtocolError, match="checksum"):
            wire.link.receive(WAIT_S)

    def test_a_frame_that_stalls_ends_the_link(self) -> None:
        wire = make_wire(stall_s=0.0)
        wire.feed(FRAME[: PREFIX_BYTES + 3])
        with pytest.raises(LinkTimeoutError, match="middle of a frame"):
            wire.link.receive(SHORT_S)
        wire.socket.close()

    def test_a_frame_that_is_arriving_shows(self, wire: Wire) -> None:
        assert not wire.link.is_receiving()
        for size in (1, PREFIX_BYTES + 3, len(FRAME) - 1):
            wire.feed(FRAME[:size])
            assert wire.link.receive(SHORT_S) is None
            assert wire.link.is_receiving()
            wire.feed(FRAME[size:])
            assert wire.link.receive(WAIT_S) == HELLO
            assert not wire.link.is_receiving()

    def test_a_slow_line_may_take_many_limits_while_it_makes_progress(self, wire: Wire, monkeypatch) -> None:
        """The kernel takes five bytes within each time limit."""
        at_once = Connection.send
        monkeypatch.setattr(
            Connection, "send", lambda self, parts, limit_s: at_once(self, [b"".join(map(bytes, parts))[:5]], limit_s)
        )
        wire.link.send(HELLO, 0.001)
        assert wire.socket.recv(len(FRAME), socket.MSG_WAITALL) == FRAME

    def test_a_line_that_makes_no_progress_any_more_ends_the_link(self, wire: Wire, monkeypatch) -> None:
        taken = [5, 5, 0]
        monkeypatch.setattr(Connection, "send", lambda self, parts, limit_s: taken.pop(0))
        with pytest.raises(LinkTimeoutError, match=f"{len(FRAME) - 10} bytes of a message are left"):
            wire.link.send(HELLO, 0.001)
        with pytest.raises(LinkClosedError):
            wire.link.receive(0)

    def test_silence_between_frames_is_no_stall(self) -> None:
        wire = make_wire(stall_s=0.0)
        wire.feed(FRAME)
        assert wire.link.receive(WAIT_S) == HELLO
        assert wire.link.receive(SHORT_S) is None
        wire.socket.close()
        wire.link.close()

    def test_a_reset_is_a_closed_link(self, wire: Wire) -> None:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        wire.socket.close()
        with pytest.raises(LinkClosedError):
            wire.link.receive(WAIT_S)

    def test_close_from_another_thread_frees_the_descriptor_only_after_the_call_is_out(self, wire: Wire) -> None:
        receiving = Running(lambda: wire.link.receive(WAIT_S))
        wire.link.close()
        with pytest.raises(LinkClosedError):
            receiving.result()
        assert wire.socket.recv(1) == b""


class TestSharedPort:
    @pytest.mark.requirement("T9")
    def test_another_protocol_is_handed_over_with_the_bytes_looked_at(self) -> None:
        others: queue.Queue[tuple[bytes, bytes]] = queue.Queue()

        def on_other(first: bytes, stream: ByteStream) -> None:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += stream.recv(5)
            others.put((first, request))
            stream.sendall(b"HTTP/1.0 200 OK\r\n\r\n")

        with socket.create_connection(_listen_with(on_other)) as client:
            client.sendall(b"GET /status HTTP/1.0\r\n\r\n")
            assert _read_all(client) == b"HTTP/1.0 200 OK\r\n\r\n"
        first, request = others.get(timeout=WAIT_S)
        assert request == b"GET /status HTTP/1.0\r\n\r\n"
        assert request.startswith(first)

    @pytest.mark.requirement("T9")
    def test_both_protocols_share_the_port(self) -> None:
        address = _listen_with(lambda first, stream: stream.sendall(b"other " + first))
        link = TcpTransport().connect(f"tcp://{address[0]}:{address[1]}", WAIT_S)
        with socket.create_connection(address) as client:
            client.sendall(b"x")
            assert _read_all(client) == b"other x"
        link.send(HELLO, WAIT_S)
        assert link.receive(WAIT_S) == HELLO
        link.close()

    def test_as_few_bytes_as_tell_the_protocol_are_enough(self) -> None:
        with socket.create_connection(_listen_with(lambda first, stream: stream.sendall(first))) as client:
            client.sendall(b"RCP/2")
            assert _read_all(client) == b"RCP/2"

    def test_without_a_handler_another_protocol_is_closed(self) -> None:
        with socket.create_connection(_listen_with(None)) as client:
            client.sendall(b"GET / HT")
            assert _read_all(client) == b""

    def test_the_other_end_of_a_stream_reads_as_empty(self) -> None:
        ends: queue.Queue[bytes] = queue.Queue()

        def on_other(first: bytes, stream: ByteStream) -> None:
            while data := stream.recv(100):
                ends.put(data)
            ends.put(b"end")
            stream.close()

        with socket.create_connection(_listen_with(on_other)) as client:
            client.sendall(b"hi")
        assert ends.get(timeout=WAIT_S) == b"hi"
        assert ends.get(timeout=WAIT_S) == b"end"

    def test_one_who_does_not_say_what_it_speaks_is_closed(self) -> None:
        for silence in (b"", PREAMBLE[:3]):
            with socket.create_connection(_listen_with(None, handshake_s=SHORT_S)) as client:
                client.sendall(silence)
                assert _read_all(client) == b""


_open: list[TcpListener] = []


@pytest.fixture(autouse=True)
def _close_listeners() -> Iterator[None]:
    yield
    while _open:
        _open.pop().close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("accept ", "link "))]


def _listen_with(on_other, handshake_s: float = 10.0) -> tuple[str, int]:
    """A listener whose links send every message back."""

    def echo(link: Link) -> None:
        while True:
            if message := link.receive(WAIT_S):
                link.send(message, WAIT_S)

    address = Address.parse("tcp://127.0.0.1:0")
    listener = TcpListener(listen(address), address, echo, on_other, handshake_s=handshake_s)
    _open.append(listener)
    return "127.0.0.1", Address.parse(listener.url).port


def _read_all(client: socket.socket) -> bytes:
    client.settimeout(WAIT_S)
    data = b""
    while more := client.recv(1000):
        data += more
    return data


class TestAddress:
    @pytest.mark.parametrize(
        "url",
        [
            "tcp://host", "http://host:1", "tcp://host:99999", "tcp://host:x", "tcp://u@host:1", "tcp://host:1/path",
            "tcp://host:1?nonsense=1", "tcp://host:1?plaintext=maybe", "tcp://host:1?plaintext", "tcp://h:1?connections=0",
            "tcp://h:1?connections=-1", "tcp://h:1#x", "", "tcp:host:1", "tcp://[::1:1",
        ],
    )  # fmt: skip
    def test_what_is_no_address_is_refused(self, url: str) -> None:
        with pytest.raises(InvalidArgumentError):
            TcpTransport().connect(url, 1)

    @pytest.mark.parametrize("url", ["tcp://0.0.0.0:0", "tcp://[::]:0", "tcp://192.0.2.1:0", "tcp://example.invalid:1"])
    def test_plain_text_stays_on_loopback(self, url: str) -> None:
        with pytest.raises(InvalidArgumentError, match="not loopback"):
            TcpTransport().listen(url, lambda link: None)
        with pytest.raises(InvalidArgumentError, match="not loopback"):
            TcpTransport().connect(url, 1)

    def test_plain_text_off_loopback_is_allowed_by_name(self) -> None:
        listener = TcpTransport().listen("tcp://0.0.0.0:0?plaintext=yes", lambda link: None)
        assert listener.url.endswith("?plaintext=yes")
        listener.close()

    def test_the_default_is_loopback(self) -> None:
        listener = TcpTransport().listen("tcp://:0", lambda link: None)
        assert listener.url.startswith("tcp://127.0.0.1:")
        listener.close()

    @pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "127.5.5.5"])
    def test_loopback_has_many_names(self, host: str) -> None:
        assert Address.parse(f"tcp://{host}:5").is_loopback
        assert str(Address.parse(f"tcp://{host}:5?connections=3")) == f"tcp://{host}:5?connections=3"

    def test_an_address_that_cannot_be_bound_is_refused(self) -> None:
        with pytest.raises(InvalidArgumentError, match="cannot listen"):
            TcpTransport().listen("tcp://192.0.2.1:0?plaintext=yes", lambda link: None)


def test_a_peer_that_is_no_rcp_is_found_at_its_first_frame() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = TcpTransport().connect(f"tcp://127.0.0.1:{server.getsockname()[1]}", WAIT_S)
        accepted, _ = server.accept()
        with accepted:
            assert accepted.recv(100) == PREAMBLE
            accepted.sendall(b"HTTP/1.0 400 Bad Request\r\n")
            with pytest.raises(PeerError, match="frame begins with"):
                link.receive(WAIT_S)


@pytest.mark.requirement("T5", "U2")
def test_the_registry_finds_it_by_scheme() -> None:
    assert isinstance(default_registry().open_transport("tcp://127.0.0.1:1"), TcpTransport)


@pytest.mark.requirement("T1")
def test_waking_a_link_ends_one_wait_and_loses_nothing(wire: Wire) -> None:
    """So a sender that waits for an answer looks at once for the set that was just cut."""
    wire.link.wake()
    assert wire.link.receive(WAIT_S) is None  # it came before the wait, and counts
    receiving = Running(lambda: wire.link.receive(WAIT_S))
    wire.link.wake()
    assert receiving.result() is None
    wire.feed(FRAME)
    assert wire.link.receive(WAIT_S) == HELLO
    wire.link.close()
    wire.link.wake()  # may come at any time
