"""Relays that stand between two programs and see every byte: one counts, one reads NBD and keeps what was promised."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from replkit.site.nbd import protocol as p

_STEP_BYTES = 1 << 18


class Relay:
    """Accepts on a socket and passes everything on to where ``connect`` leads, until one of the ends is gone."""

    def __init__(self, listener: socket.socket, connect: Callable[[], socket.socket]) -> None:
        self._listener, self._connect = listener, connect
        self._sockets: set[socket.socket] = set()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # closed
            try:
                far = self._connect()
            except OSError:
                near.close()
                continue
            self._sockets |= {near, far}
            self.carry(near, far)

    def carry(self, near: socket.socket, far: socket.socket) -> None:
        """Start passing on both ways."""
        self.start(near, far, self.to_far)
        self.start(near, far, self.to_near)

    def start(
        self, near: socket.socket, far: socket.socket, way: Callable[[socket.socket, socket.socket], None]
    ) -> None:
        """Run one way on a thread; its end is the end of both."""

        def run() -> None:
            try:
                way(near, far)
            except OSError:
                pass
            finally:
                self.before_parting()
                for each in (near, far):
                    self._sockets.discard(each)
                    _shut(each)

        threading.Thread(target=run, daemon=True).start()

    def to_far(self, near: socket.socket, far: socket.socket) -> None:
        """Pass on what the client says."""
        while data := near.recv(_STEP_BYTES):
            self.saw(len(data))
            far.sendall(data)

    def to_near(self, near: socket.socket, far: socket.socket) -> None:
        """Pass on what the server says."""
        while data := far.recv(_STEP_BYTES):
            near.sendall(data)

    def saw(self, count: int) -> None:
        """So many bytes went from the client to the server."""

    def before_parting(self) -> None:
        """One of the ends is gone; the other does not know yet."""

    def close(self) -> None:
        """Let nobody through any more."""
        self._listener.close()
        for each in list(self._sockets):
            _shut(each)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it was not connected any more
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


class CountingRelay(Relay):
    """Counts the bytes that reach the site that listens at ``port``."""

    def __init__(self, port: int) -> None:
        self.bytes = 0
        listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        super().__init__(listener, lambda: socket.create_connection(("127.0.0.1", port), 5))

    def saw(self, count: int) -> None:
        """Count them; one connection at a time carries data."""
        self.bytes += count


class Write(NamedTuple):
    """A write of one block: at some moment from ``begun`` to ``acked`` it took place."""

    digest: int
    begun: int
    cookie: tuple[int, int]


class Witness(Relay):
    """Passes NBD on, and keeps of each block what was written, when that began and ended, and what a flush covered.

    Moments are the numbers of events, counted over all connections.
    """

    def __init__(self, path: Path, server: Path, block_size: int) -> None:
        self._server, self._block_size = server, block_size
        self._lock = threading.Lock()
        self._moment = 0
        self._connections = 0
        self.writes: dict[int, list[Write]] = {}
        self.acked: dict[tuple[int, int], int] = {}
        self.covered = 0
        """Writes that were acknowledged before this moment have been flushed."""
        self.count = self.flushes = 0
        self.parting = threading.Event()
        """Until it is set, a client is not told that its server is gone: what is in flight stays in flight."""
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        super().__init__(listener, self._reach)

    def _reach(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self._server))
        return sock

    def carry(self, near: socket.socket, far: socket.socket) -> None:
        """Both ways of a connection know what is under way on it."""
        self._connections += 1
        number = self._connections
        asked: dict[int, tuple[int, int, int]] = {}
        self.start(near, far, lambda near, far: self._requests(number, asked, near, far))
        self.start(near, far, lambda near, far: self._replies(number, asked, near, far))

    def before_parting(self) -> None:
        """Leave the client waiting for its answers."""
        self.parting.wait()

    def close(self) -> None:
        """Part the ends that are left."""
        self.parting.set()
        super().close()

    def _requests(
        self, number: int, asked: dict[int, tuple[int, int, int]], near: socket.socket, far: socket.socket
    ) -> None:
        source = _Passing(near, far)
        source.take(p.CLIENT_FLAGS.size)
        option = 0
        while option not in {p.OPT_GO, p.OPT_EXPORT_NAME}:
            _magic, option, length = p.OPTION.unpack(source.take(p.OPTION.size))
            source.take(length)
        while True:
            head = source.read(p.REQUEST.size)
            magic, _flags, command, cookie, offset, length = p.REQUEST.unpack(head)
            assert magic == p.REQUEST_MAGIC, f"{magic:x} begins no request"
            data = source.read(length) if command == p.CMD_WRITE else b""
            if command in {p.CMD_WRITE_ZEROES, p.CMD_TRIM}:
                data = bytes(length)
            with self._lock:
                self._moment += 1
                asked[cookie] = command, self._moment, length
                self._note(offset, data, (number, cookie))
            far.sendall(head + data if command == p.CMD_WRITE else head)

    def _note(self, offset: int, data: bytes, cookie: tuple[int, int]) -> None:
        for at in range(0, len(data), self._block_size):
            digest = xxh3_64_intdigest(data[at : at + self._block_size])
            self.count += 1
            self.writes.setdefault((offset + at) // self._block_size, []).append(Write(digest, self._moment, cookie))

    def _replies(
        self, number: int, asked: dict[int, tuple[int, int, int]], near: socket.socket, far: socket.socket
    ) -> None:
        source = _Passing(far, near)
        source.take(p.GREETING.size)
        option = reply = 0
        while (option, reply) != (p.OPT_GO, p.REP_ACK):
            _magic, option, reply, length = p.OPTION_REPLY.unpack(source.take(p.OPTION_REPLY.size))
            source.take(length)
        while True:
            head = source.read(4)
            if int.from_bytes(head) == p.STRUCTURED_REPLY_MAGIC:
                head += source.read(p.STRUCTURED_REPLY.size - 4)
                _magic, flags, kind, cookie, length = p.STRUCTURED_REPLY.unpack(head)
                is_done, is_good = flags & p.REPLY_FLAG_DONE, not kind & 1 << 15
            else:
                head += source.read(p.SIMPLE_REPLY.size - 4)
                _magic, error, cookie = p.SIMPLE_REPLY.unpack(head)
                is_done, is_good = True, not error
                length = asked[cookie][2] if is_good and asked[cookie][0] == p.CMD_READ else 0
            body = source.read(length)
            if is_done:
                self._answered(number, asked, cookie, is_good=is_good)
            near.sendall(head + body)

    def _answered(self, number: int, asked: dict[int, tuple[int, int, int]], cookie: int, *, is_good: bool) -> None:
        with self._lock:
            self._moment += 1
            command, begun, _length = asked.pop(cookie)
            if not is_good:
                return
            if command == p.CMD_FLUSH:
                self.flushes += 1
                self.covered = max(self.covered, begun)
            elif command != p.CMD_READ:
                self.acked[number, cookie] = self._moment


class _Passing:
    """Reads whole pieces from one socket; ``take`` passes them on at once."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self._source, self._target = source, target
        self._file = source.makefile("rb", buffering=_STEP_BYTES)

    def read(self, count: int) -> bytes:
        """Exactly so many bytes, not passed on."""
        data = self._file.read(count)
        if len(data) < count:
            raise ConnectionResetError("the other end is gone")
        return data

    def take(self, count: int) -> bytes:
        """Exactly so many bytes, passed on."""
        data = self.read(count)
        self._target.sendall(data)
        return data
