"""Servers that break the protocol end in a typed error, never in wrong data."""

from __future__ import annotations

import socket
import struct

import pytest

from replkit.errors import ProtocolError, RefusedError, UnsupportedError, VolumeFailedError

pytestmark = pytest.mark.requirement("U1")
SIZE = 1 << 20


def take(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        got = sock.recv(count - len(data))
        if not got:
            return data
        data += got
    return data


def option_reply(option: int, kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">QIII", 0x0003E889045565A9, option, kind, len(data)) + data


def shake_hands(sock: socket.socket, *, flags: int = 0b101, size: int = SIZE) -> None:
    sock.sendall(b"NBDMAGICIHAVEOPT\0\3")
    take(sock, 4)
    while True:
        _, option, length = struct.unpack(">QII", take(sock, 16))
        take(sock, length)
        if option == 7:
            sock.sendall(option_reply(7, 3, struct.pack(">HQH", 0, size, flags)) + option_reply(7, 1))
            return
        sock.sendall(option_reply(option, 1 if option == 8 else 0x80000001))


def cookie_of(sock: socket.socket) -> int:
    return struct.unpack(">IHHQQI", take(sock, 28))[3]


@pytest.mark.parametrize(
    "greeting",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"NBDMAGICIHAVEOPT\0\0",
        b"NBDMAGICIHAVEOPT\0\3" + b"x" * 20,
        b"NBDMAGICIHAVEOPT\0\3" + struct.pack(">QIII", 0x0003E889045565A9, 8, 1, 1 << 31),
        b"NBDMAGICIHAVEOPT\0\3" + option_reply(8, 3) * 70,
    ],
)
def test_a_wrong_handshake_is_refused(scripted, opened, greeting):
    def talk(sock: socket.socket) -> None:
        sock.sendall(greeting)
        while sock.recv(4096):
            pass

    with pytest.raises(ProtocolError):
        opened(scripted(talk))


def test_a_server_that_hangs_up_or_refuses_says_so(scripted, opened):
    with pytest.raises(VolumeFailedError, match="hung up"):
        opened(scripted(lambda sock: sock.sendall(b"NBDMAGIC")))

    def refuse(sock: socket.socket) -> None:
        sock.sendall(b"NBDMAGICIHAVEOPT\0\3" + option_reply(8, 0x80000001) + option_reply(7, 0x80000002, b"not you"))
        while sock.recv(4096):
            pass

    with pytest.raises(RefusedError, match="not you"):
        opened(scripted(refuse))


def test_a_server_without_flush_is_refused_for_writing(scripted, opened):
    with pytest.raises(UnsupportedError, match="flush"):
        opened(scripted(lambda sock: shake_hands(sock, flags=1)))


def structured(cookie: int, kind: int, payload: bytes, *, done: int = 1) -> bytes:
    return struct.pack(">IHHQI", 0x668E33EF, done, kind, cookie, len(payload)) + payload


@pytest.mark.parametrize(
    "reply",
    [
        lambda cookie: b"garbage, garbage",
        lambda cookie: struct.pack(">IIQ", 0x67446698, 0, cookie + 1),
        lambda cookie: structured(cookie, 1, struct.pack(">Q", 8192) + bytes(4096)),
        lambda cookie: structured(cookie, 1, struct.pack(">Q", 4096) + bytes(4097)),
        lambda cookie: structured(cookie, 2, struct.pack(">QI", 0, 4096)),
        lambda cookie: structured(cookie, 2, struct.pack(">QI", 4096, 1 << 30)),
        lambda cookie: structured(cookie, 1, struct.pack(">Q", 4096) + bytes(4000)),
        lambda cookie: structured(cookie, 0, b""),
        lambda cookie: structured(cookie, 9, b"what"),
        lambda cookie: structured(cookie, 1, struct.pack(">Q", 4096) + bytes(100))[:50],
    ],
)
def test_a_wrong_reply_to_a_read_fails_the_volume(scripted, opened, reply):
    def talk(sock: socket.socket) -> None:
        shake_hands(sock)
        sock.sendall(reply(cookie_of(sock)))

    volume = opened(scripted(talk))
    with pytest.raises(VolumeFailedError, match="broke"):
        volume.read_into(1, bytearray(4096))
    with pytest.raises(VolumeFailedError, match="broke"):
        volume.read_into(1, bytearray(4096))


def test_data_in_pieces_and_holes_is_put_together(scripted, opened):
    def talk(sock: socket.socket) -> None:
        shake_hands(sock)
        cookie = cookie_of(sock)
        sock.sendall(structured(cookie, 1, struct.pack(">Q", 6144) + b"b" * 2048, done=0))
        sock.sendall(structured(cookie, 2, struct.pack(">QI", 4096, 2048), done=0))
        sock.sendall(structured(cookie, 0, b""))
        take(sock, 28)

    volume = opened(scripted(talk))
    buffer = bytearray(b"?" * 4096)
    volume.read_into(1, buffer)
    assert buffer == bytes(2048) + b"b" * 2048


def test_an_error_chunk_fails_the_read_and_not_the_volume(scripted, opened):
    def talk(sock: socket.socket) -> None:
        shake_hands(sock)
        text = b"schlecht"
        sock.sendall(structured(cookie_of(sock), 0x8001, struct.pack(">IH", 5, len(text)) + text))
        sock.sendall(structured(cookie_of(sock), 1, struct.pack(">Q", 0) + b"k" * 4096))
        take(sock, 28)

    volume = opened(scripted(talk))
    with pytest.raises(VolumeFailedError, match="schlecht"):
        volume.read_into(0, bytearray(4096))
    buffer = bytearray(4096)
    volume.read_into(0, buffer)
    assert buffer == b"k" * 4096
