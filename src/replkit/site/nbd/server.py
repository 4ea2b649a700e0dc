"""The listener: one thread accepts, one thread serves each connection, and limits keep clients from harming others."""

from __future__ import annotations

import logging
import os
import socket
import stat
import threading
import time
from pathlib import Path

from replkit.errors import (
    AlreadyExistsError,
    FencedError,
    InvalidArgumentError,
    NotFoundError,
    ProtocolError,
    ReadOnlyError,
    ReplkitError,
    WrongRoleError,
)
from replkit.site.nbd import codec
from replkit.site.nbd.access import ByteAccess
from replkit.site.nbd.exports import Export, ExportTable
from replkit.site.nbd.negotiation import Handshake, Phase
from replkit.site.nbd.requests import ErrorSink, RequestHandler
from replkit.site.nbd.transmission import Transmission

_log = logging.getLogger(__name__)
_SOCKET_BUFFER_BYTES = 1 << 20
REFUSALS = (FencedError, ReadOnlyError, WrongRoleError)
"""The volume takes no writes now, and says why; nothing failed."""
TELL_AGAIN_S = 60.0
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def _log_error(what: str, error: Exception) -> None:
    """A refusal that every write meets is no news: one line a minute. What a backend raises has its traceback."""
    if isinstance(error, REFUSALS):
        if _refusals.is_news(str(error)):
            _log.warning("%s: %s; told again in a minute", what, error)
        return
    _log.error("%s: %s", what, error, exc_info=error)


class _Refusals:
    """When which refusal was told last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told_s: dict[str, float] = {}

    def is_news(self, text: str) -> bool:
        """Whether it was not told within the last minute."""
        now_s = time.monotonic()
        with self._lock:
            self._told_s = {one: at_s for one, at_s in self._told_s.items() if now_s - at_s < TELL_AGAIN_S}
            if text in self._told_s:
                return False
            self._told_s[text] = now_s
            return True


_refusals = _Refusals()


class NbdServer:
    """Serves exports at one address, ``unix:/path`` or ``host:port``, from ``start`` until ``stop``.

    The server does not close the volumes. ``on_error(what, error)`` hears of every failed call on a volume; by default
    it is logged. NBD has no authentication here: a Unix socket is open to its owner only, and TCP beyond loopback needs
    ``allow_remote``.
    """

    def __init__(
        self,
        exports: dict[str, Export] | None = None,
        address: str = "127.0.0.1:10809",
        *,
        max_connections: int = 64,
        handshake_timeout_s: float = 10.0,
        allow_remote: bool = False,
        on_error: ErrorSink = _log_error,
    ) -> None:
        self.exports = ExportTable(exports)
        self._configured_address = address
        self._max_connections = max_connections
        self._handshake_timeout_s = handshake_timeout_s
        self._allow_remote = allow_remote
        self._on_error = on_error
        self._lock = threading.Lock()
        self._connections: dict[_Connection, threading.Thread] = {}
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._stopping = False

    @property
    def address(self) -> str:
        """Where it listens; a port 0 is replaced by the one that the system chose."""
        if self._listener is None or self._configured_address.startswith("unix:"):
            return self._configured_address
        host, port = self._listener.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def connection_count(self) -> int:
        """How many clients are connected."""
        with self._lock:
            return len(self._connections)

    def start(self) -> None:
        """Begin to listen; returns once clients can connect."""
        if self._listener is not None:
            raise AlreadyExistsError(f"the NBD server at {self.address} runs already")
        self._stopping = False
        self._listener = _listen(self._configured_address, allow_remote=self._allow_remote)
        self._acceptor = threading.Thread(target=self._accept, args=(self._listener,), name="nbd-accept", daemon=True)
        self._acceptor.start()

    def stop(self) -> None:
        """Listen no longer, disconnect all clients, return when every request that had begun has ended."""
        with self._lock:
            listener, self._listener, self._stopping = self._listener, None, True
            connections = dict(self._connections)
        if listener is None:
            return
        _shut(listener)
        if self._acceptor is not None:
            self._acceptor.join()
        listener.close()
        if self._configured_address.startswith("unix:"):
            Path(self._configured_address.removeprefix("unix:")).unlink(missing_ok=True)
        _disconnect(connections)

    def add_export(self, name: str, export: Export) -> None:
        """Serve one more volume from now on."""
        self.exports.add(name, export)

    def remove_export(self, name: str) -> None:
        """Serve a volume no longer: its clients are disconnected, and none of their requests runs on return."""
        export = self.exports.remove(name)
        with self._lock:
            users = {c: thread for c, thread in self._connections.items() if c.export is export}
        _disconnect(users)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError as error:
                if self._stopping:
                    return
                _log.warning("the NBD server at %s could not accept a client: %s", self._configured_address, error)
                if listener.fileno() < 0:
                    return
                time.sleep(0.1)  # out of descriptors: existing clients go on, new ones wait
                continue
            self._admit(client)

    def _admit(self, client: socket.socket) -> None:
        connection = _Connection(client, self.exports, self._handshake_timeout_s, self._on_error)
        thread = threading.Thread(target=self._serve, args=(connection,), name="nbd-client", daemon=True)
        with self._lock:
            admitted = not self._stopping and len(self._connections) < self._max_connections
            if admitted:
                self._connections[connection] = thread
        if not admitted:
            _log.warning("NBD: a client was turned away: %d are connected already", self._max_connections)
            client.close()
            return
        try:
            thread.start()
        except RuntimeError as error:  # no more threads: this client is turned away, the others go on
            _log.warning("NBD: a client was turned away: %s", error)
            with self._lock:
                del self._connections[connection]
            client.close()

    def _serve(self, connection: _Connection) -> None:
        try:
            connection.run()
        finally:
            with self._lock:
                self._connections.pop(connection, None)


class _Connection:
    """One client from its first byte to its last."""

    def __init__(self, sock: socket.socket, exports: ExportTable, timeout_s: float, on_error: ErrorSink) -> None:
        self.socket = sock
        self.export: Export | None = None
        self._exports = exports
        self._timeout_s = timeout_s
        self._on_error = on_error

    def run(self) -> None:
        """Serve the client; whatever it or the network does ends here and harms nobody else."""
        try:
            _tune(self.socket)
            handshake = self._negotiate()
            if handshake is not None and handshake.export is not None:
                with handshake.export.session():
                    self._transmit(handshake)
        except ProtocolError as error:
            _log.warning("an NBD client was disconnected: %s", error)
        except OSError as error:
            _log.info("an NBD connection ended: %s", error)
        except NotFoundError as error:  # the export went between its choice and its first request
            _log.info("an NBD client was disconnected: %s", error)
        except ReplkitError as error:  # its session could not begin, or end
            self._on_error("an NBD client was disconnected", error)
        finally:
            _shut(self.socket)
            self.socket.close()

    def _negotiate(self) -> Handshake | None:
        handshake = Handshake(self._exports)
        deadline_s = time.monotonic() + self._timeout_s  # of the whole handshake, however slowly bytes drip in
        self.socket.settimeout(self._timeout_s)
        self.socket.sendall(codec.greeting())
        while handshake.phase in {Phase.FLAGS, Phase.OPTIONS}:
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= 0:
                raise ProtocolError(f"NBD: the handshake took longer than {self._timeout_s:g} s")
            self.socket.settimeout(remaining_s)
            data = self.socket.recv(4096)
            if not data:
                return None
            self.export = handshake.export
            reply = handshake.receive(data)
            self.export = handshake.export  # set before the client hears of it, so that remove_export finds us
            self.socket.sendall(reply)
        return handshake if handshake.phase is Phase.READY else None

    def _transmit(self, handshake: Handshake) -> None:
        assert handshake.export is not None  # noqa: S101 - for the type checker: READY means chosen
        export, structured = handshake.export, handshake.structured
        # NotFoundError where the export was removed before we were listed under it.
        access = ByteAccess(export.volume, self._exports.writers(handshake.name, export))
        handler = RequestHandler(
            access,
            name=handshake.name,
            read_only=export.refuses_writes,
            structured=structured,
            allocation_context=handshake.allocation_context,
            on_error=self._on_error,
        )
        self.socket.settimeout(None)  # an idle client may stay; a timeout would cost a poll for every receive
        try:
            read_only = export.refuses_writes
            loop = Transmission(self.socket, access, handler, structured=structured, read_only=read_only)
            loop.run(handshake.leftover)
        finally:
            access.close()


def _listen(address: str, *, allow_remote: bool) -> socket.socket:
    if address.startswith("unix:"):
        return _listen_unix(Path(address.removeprefix("unix:")))
    host, separator, port = address.rpartition(":")
    host = host.strip("[]")
    if not separator or not port.isdecimal() or not host or int(port) > 65535:
        raise InvalidArgumentError(f"NBD address {address!r} is neither unix:/path nor host:port")
    if host not in _LOOPBACK and not allow_remote:
        raise InvalidArgumentError(
            f"NBD address {address!r} is not on loopback, and NBD is neither encrypted nor authenticated here",
            hint="tunnel it, or allow remote clients explicitly",
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, int(port)), family=family, backlog=64)
    except OSError as error:
        raise InvalidArgumentError(
            f"cannot listen at {address}: {error}", hint="name another address, or stop what listens there"
        ) from error


def _listen_unix(path: Path) -> socket.socket:
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:  # left behind by a server that was killed
                path.unlink()
            else:
                raise AlreadyExistsError(f"another server listens at {path}")
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        os.chmod(path, 0o600)  # noqa: PTH101 - before listen: nobody can connect in between
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise InvalidArgumentError(f"cannot listen at {path}: {error}") from error
    return listener


def _tune(sock: socket.socket) -> None:
    if sock.family == socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
    else:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _shut(sock: socket.socket) -> None:
    """Wake whoever waits on the socket."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # already disconnected


def _disconnect(connections: dict[_Connection, threading.Thread]) -> None:
    for connection in connections:
        _shut(connection.socket)
    for thread in connections.values():
        if thread is not threading.current_thread():
            thread.join()
