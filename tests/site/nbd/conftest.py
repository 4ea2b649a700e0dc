"""A volume in memory with faults on demand, a server over it, and a raw client that misbehaves at will."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replkit.blocks.extent import Extent
from replkit.contracts.buffers import Buffer
from replkit.contracts.volume import BlockVolume, Capability
from replkit.site.nbd import Export, NbdServer
from replkit.site.nbd import protocol as p

MIB = 1 << 20


class RamVolume(BlockVolume):
    """Blocks in a bytearray; ``fail`` maps a method name to the error that its next calls raise."""

    discards = Capability.NATIVE
    tells_in_use = Capability.NATIVE

    def __init__(self, size_bytes: int, block_size: int = 4096) -> None:
        self.size_bytes = size_bytes
        self.block_size = block_size
        self.data = bytearray(self.block_count * block_size)
        self.used: set[int] = set()
        self.calls: list[tuple[object, ...]] = []
        self.fail: dict[str, Exception] = {}
        self.bad_blocks: set[int] = set()
        self.before_write: Callable[[], None] = lambda: None

    def _meet(self, name: str) -> None:
        if name in self.fail:
            raise self.fail[name]

    def read_into(self, start: int, buffer: Buffer) -> None:
        self._meet("read_into")
        view = memoryview(buffer)
        at = start * self.block_size
        assert len(view) % self.block_size == 0
        assert at + len(view) <= len(self.data)
        view[:] = memoryview(self.data)[at : at + len(view)]

    def write(self, start: int, buffer: Buffer) -> None:
        self._meet("write")
        view = memoryview(buffer)
        at, count = start * self.block_size, len(view) // self.block_size
        assert len(view) % self.block_size == 0
        assert at + len(view) <= len(self.data)
        if self.bad_blocks & set(range(start, start + count)):
            raise OSError(5, "bad block")
        self.before_write()
        self.data[at : at + len(view)] = view
        self.data[self.size_bytes :] = bytes(len(self.data) - self.size_bytes)
        self.used.update(range(start, start + count))
        self.calls.append(("write", start, count))

    def write_extents(self, writes: object) -> None:
        self._meet("write_extents")
        self.calls.append(("write_extents", len(writes)))
        super().write_extents(writes)

    def flush(self) -> None:
        self._meet("flush")
        self.calls.append(("flush",))

    def discard(self, start: int, count: int) -> None:
        self._meet("discard")
        self.data[start * self.block_size : (start + count) * self.block_size] = bytes(count * self.block_size)
        self.used.difference_update(range(start, start + count))
        self.calls.append(("discard", start, count))

    def in_use(self) -> Iterator[Extent]:
        for block in sorted(self.used):
            yield Extent(block, 1)


class RawClient:
    """A socket, and helpers to build and take apart what goes over it."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.cookie = 100
        self.structured = False
        sock.settimeout(20)

    def take(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            got = self.socket.recv(count - len(data))
            if not got:
                raise EOFError(data)
            data += got
        return data

    def ended(self) -> bool:
        """Whether the server hung up; what it sent before is dropped."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return True

    def greet(self, flags: int = 3) -> None:
        assert self.take(18) == b"NBDMAGICIHAVEOPT\x00\x03"
        self.socket.sendall(struct.pack(">I", flags))

    def send_option(self, option: int, data: bytes = b"") -> None:
        self.socket.sendall(b"IHAVEOPT" + struct.pack(">II", option, len(data)) + data)

    def option(self, option: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """Send an option and return all its replies."""
        self.send_option(option, data)
        replies = []
        while True:
            magic, answered, kind, length = struct.unpack(">QIII", self.take(20))
            assert (magic, answered) == (p.OPTION_REPLY_MAGIC, option)
            replies.append((kind, self.take(length)))
            if kind == p.REP_ACK or kind & 0x80000000:
                return replies

    def go(self, name: str = "disk", *, structured: bool = False, context: bool = False) -> list[tuple[int, bytes]]:
        self.greet()
        if structured:
            assert self.option(p.OPT_STRUCTURED_REPLY) == [(p.REP_ACK, b"")]
            self.structured = True
        if context:
            query = b"base:allocation"
            data = counted(name) + struct.pack(">I", 1) + counted(query.decode())
            assert len(self.option(p.OPT_SET_META_CONTEXT, data)) == 2
        replies = self.option(p.OPT_GO, counted(name) + b"\0\0")
        assert replies[-1][0] == p.REP_ACK, replies
        return replies

    def request(self, kind: int, offset: int = 0, length: int = 0, payload: bytes = b"", flags: int = 0) -> int:
        self.cookie += 1
        self.socket.sendall(pack_request(kind, self.cookie, offset, length or len(payload), payload, flags))
        return self.cookie

    def reply(self, length: int = 0) -> tuple[int, int, bytes]:
        """``(cookie, error, data)`` of a simple reply."""
        magic, error, cookie = struct.unpack(">IIQ", self.take(16))
        assert magic == p.SIMPLE_REPLY_MAGIC
        return cookie, error, b"" if error else self.take(length)

    def chunk(self) -> tuple[int, int, int, bytes]:
        """``(flags, type, cookie, payload)`` of a structured reply."""
        magic, flags, kind, cookie, length = struct.unpack(">IHHQI", self.take(20))
        assert magic == p.STRUCTURED_REPLY_MAGIC
        return flags, kind, cookie, self.take(length)

    def call(self, kind: int, offset: int = 0, length: int = 0, payload: bytes = b"", flags: int = 0) -> int:
        """Send a request that gives no data and return its error."""
        cookie = self.request(kind, offset, length, payload, flags)
        if self.structured:
            head = self.socket.recv(4, socket.MSG_PEEK)
            if head == struct.pack(">I", p.STRUCTURED_REPLY_MAGIC):
                _, reply_kind, answered, body = self.chunk()
                assert (reply_kind, answered) == (p.REPLY_ERROR, cookie)
                return struct.unpack(">I", body[:4])[0]
        answered, error, _ = self.reply()
        assert answered == cookie
        return error

    def read(self, offset: int, length: int) -> bytes:
        cookie = self.request(p.CMD_READ, offset, length)
        if self.structured:
            flags, kind, answered, body = self.chunk()
            assert (flags, kind, answered) == (p.REPLY_FLAG_DONE, p.REPLY_OFFSET_DATA, cookie)
            assert struct.unpack(">Q", body[:8]) == (offset,)
            return body[8:]
        answered, error, data = self.reply(length)
        assert (answered, error) == (cookie, 0)
        return data


def counted(text: str) -> bytes:
    return struct.pack(">I", len(text.encode())) + text.encode()


def pack_request(kind: int, cookie: int, offset: int, length: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack(">IHHQQI", p.REQUEST_MAGIC, flags, kind, cookie, offset, length) + payload


class World:
    """A served volume ``disk`` and ways to reach it."""

    def __init__(self, tmp_path: Path, size_bytes: int, **limits: object) -> None:
        self.volume = RamVolume(size_bytes)
        self.path = tmp_path / "nbd.sock"
        self.errors: list[tuple[str, Exception]] = []
        self.server = NbdServer(
            {"disk": Export(volume=self.volume, description="a test disk")},
            f"unix:{self.path}",
            on_error=lambda what, error: self.errors.append((what, error)),
            **limits,
        )
        self.clients: list[RawClient] = []
        self.server.start()

    def uri(self, name: str = "disk") -> str:
        return f"nbd+unix:///{name}?socket={self.path}"

    def connect(self) -> RawClient:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.path))
        self.clients.append(RawClient(sock))
        return self.clients[-1]

    def client(self, name: str = "disk", **how: bool) -> RawClient:
        client = self.connect()
        client.go(name, **how)
        return client

    def close(self) -> None:
        for client in self.clients:
            client.socket.close()
        self.server.stop()
        assert not [t for t in threading.enumerate() if t.name.startswith("nbd-")]


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def make(size_bytes: int = 8 * MIB, **limits: object) -> World:
        worlds.append(World(tmp_path, size_bytes, **limits))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()
