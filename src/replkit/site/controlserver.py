"""The daemon's control socket: for its owner only, bounded, and none of its clients can stop it."""

from __future__ import annotations

import logging
import os
import socket
import stat
import threading
from collections import OrderedDict
from concurrent.futures import Future
from pathlib import Path

from replkit.errors import AlreadyExistsError, InvalidArgumentError, ReplkitError
from replkit.site.control import Handler, Request, decode_request, encode_reply, read_lines

_log = logging.getLogger(__name__)
MAX_CONNECTIONS = 64
REMEMBERED_REPLIES = 256
REMEMBERED_BYTES = 64 << 10
"""Longer replies are not remembered: they are answers to questions, which may be asked twice."""
IDLE_TIMEOUT_S = 600.0


class OnceOnly:
    """Carries a request out once: whoever repeats its id gets the first reply."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._lock = threading.Lock()
        self._replies: OrderedDict[str, Future[bytes]] = OrderedDict()

    def reply_to(self, request: Request) -> bytes:
        """The reply line."""
        with self._lock:
            known = self._replies.get(request.id)
            if known is None:
                mine = self._replies[request.id] = Future[bytes]()
                self._forget()
        if known is not None:
            return known.result()
        reply = self._carry_out(request)
        mine.set_result(reply)
        if len(reply) > REMEMBERED_BYTES:
            with self._lock:
                self._replies.pop(request.id, None)
        return reply

    def _forget(self) -> None:
        for name in [name for name, future in self._replies.items() if future.done()]:
            if len(self._replies) <= REMEMBERED_REPLIES:
                return
            del self._replies[name]

    def _carry_out(self, request: Request) -> bytes:
        try:
            return encode_reply(request.id, self._handler(request.command, request.arguments))
        except ReplkitError as error:
            return encode_reply(request.id, error=error)
        except Exception as error:
            _log.exception("control command %r failed", request.command)
            return encode_reply(request.id, error=error)


class ControlServer:
    """Listens at a Unix socket of mode 0600 and answers each connection on a thread of its own."""

    def __init__(self, path: Path, handler: Handler) -> None:
        self._path = path
        self._once = OnceOnly(handler)
        self._lock = threading.Lock()
        self._clients: set[socket.socket] = set()
        self._listener: socket.socket | None = None

    def start(self) -> None:
        """Begin to listen; ``AlreadyExistsError`` when another daemon does."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _clear_stale(self._path)
        listener = socket.socket(socket.AF_UNIX)
        mask = os.umask(0o177)  # the socket must never exist with wider rights
        try:
            listener.bind(str(self._path))
        except OSError as error:
            listener.close()
            raise InvalidArgumentError(f"cannot take commands at {self._path}: {error}") from error
        finally:
            os.umask(mask)
        listener.listen(MAX_CONNECTIONS)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), name="control-accept", daemon=True).start()

    def stop(self) -> None:
        """Take no more commands."""
        with self._lock:
            listener, self._listener = self._listener, None
            clients = list(self._clients)
        if listener is not None:
            self._path.unlink(missing_ok=True)
            _close(listener)
        for client in clients:
            _close(client)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                admitted = self._listener is not None and len(self._clients) < MAX_CONNECTIONS
                if admitted:
                    self._clients.add(client)
            if admitted:
                threading.Thread(target=self._serve, args=(client,), name="control-client", daemon=True).start()
            else:
                client.close()

    def _serve(self, client: socket.socket) -> None:
        try:
            client.settimeout(IDLE_TIMEOUT_S)
            for line in read_lines(client):
                client.sendall(self._answer(line))
        except InvalidArgumentError as error:  # a line without an end: what follows cannot be told from it
            _say(client, encode_reply("", error=error))
        except OSError as error:
            _log.info("a control client went away: %s", error)
        finally:
            with self._lock:
                self._clients.discard(client)
            client.close()

    def _answer(self, line: bytes) -> bytes:
        try:
            request = decode_request(line)
        except InvalidArgumentError as error:
            return encode_reply("", error=error)
        return self._once.reply_to(request)


def _say(client: socket.socket, line: bytes) -> None:
    try:
        client.sendall(line)
    except OSError as error:
        _log.info("a control client went away: %s", error)


def _close(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        _log.debug("socket was disconnected already")
    sock.close()


def _clear_stale(path: Path) -> None:
    """Remove the socket that a killed daemon left; refuse where one still answers."""
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise AlreadyExistsError(f"{path} exists and is no socket", hint="move it away or name another control socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise AlreadyExistsError(f"another daemon takes commands at {path}", hint="stop it first, or name another socket")
