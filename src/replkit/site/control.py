"""The control protocol: JSON lines over a Unix socket; requests carry an id, replies carry it back.

A request is ``{"id": "…", "command": "…", "arguments": {…}}``; a reply is ``{"id": "…", "ok": true, "result": …}`` or
``{"id": "…", "ok": false, "error": {"type", "message", "hint", "faults"}}``. A line has at most 24 MiB. A request whose
id was seen before gets the reply of the first one: commands are carried out once.
"""

from __future__ import annotations

import json
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from replkit import errors
from replkit.errors import ControlError, InvalidArgumentError, ReplkitError

MAX_LINE_BYTES = 24 << 20
"""A call between sites may carry 16 MiB (``recovery.arguments``), here as text."""
RECEIVE_BYTES = 1 << 18
RETRY_CONNECT_S = 0.01
MAX_ID_LENGTH = 64
PROTOCOL_VERSION = 1
Arguments = dict[str, Any]
Handler = Callable[[str, Arguments], Any]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One command with its arguments."""

    id: str
    command: str
    arguments: Arguments = field(default_factory=dict)


def encode_request(request: Request) -> bytes:
    """The line of a request; ``InvalidArgumentError`` where it is too long for one."""
    body = {"version": PROTOCOL_VERSION, "id": request.id, "command": request.command, "arguments": request.arguments}
    line = json.dumps(body, separators=(",", ":")).encode() + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise InvalidArgumentError(f"{request.command} has {len(line)} bytes, more than the {MAX_LINE_BYTES} of a line")
    return line


def decode_request(line: bytes) -> Request:
    """A request from a line that is not believed before it is checked; ``InvalidArgumentError`` says what is wrong."""
    try:
        body = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"a control request is one line of JSON: {error}") from error
    if not isinstance(body, dict):
        raise InvalidArgumentError("a control request is a JSON object")
    if body.get("version", PROTOCOL_VERSION) != PROTOCOL_VERSION:
        raise InvalidArgumentError(f"control protocol {body['version']!r}; this daemon knows {PROTOCOL_VERSION}")
    name, command, arguments = body.get("id"), body.get("command"), body.get("arguments", {})
    if not isinstance(name, str) or not 0 < len(name) <= MAX_ID_LENGTH:
        raise InvalidArgumentError(f"a control request has an id of 1 to {MAX_ID_LENGTH} characters")
    if not isinstance(command, str) or not isinstance(arguments, dict):
        raise InvalidArgumentError("a control request has a command and an object of arguments")
    return Request(id=name, command=command, arguments=arguments)


def encode_reply(request_id: str, result: Any = None, error: BaseException | None = None) -> bytes:
    """The line of a reply; an error that is not ours is told by its type only, its text stays in the log.

    A result that is too long for a line is answered by an error, and ends no connection.
    """
    if error is None:
        body = {"id": request_id, "ok": True, "result": result}
    else:
        ours = isinstance(error, ReplkitError)
        body = {
            "id": request_id,
            "ok": False,
            "error": {
                "type": type(error).__name__ if ours else "ControlError",
                "message": getattr(error, "message", "")
                if ours
                else f"internal error ({type(error).__name__}), see the log",
                "hint": getattr(error, "hint", ""),
                "code": getattr(error, "code", ""),
                "faults": getattr(error, "faults", []),
            },
        }
    line = json.dumps(body, separators=(",", ":")).encode() + b"\n"
    if len(line) > MAX_LINE_BYTES and error is None:
        return encode_reply(request_id, error=ControlError(f"the answer has {len(line)} bytes, too many for a line"))
    return line


def decode_reply(line: bytes) -> tuple[str, Any, ReplkitError | None]:
    """Id, result and error of a reply; the error has the type that it had at the other side."""
    try:
        body = json.loads(line)
        request_id, ok = body["id"], body["ok"]
        failure = None if ok else _error_of(body["error"])
    except (ValueError, KeyError, TypeError, RecursionError) as fault:
        raise ControlError(f"the daemon answered with what is no reply: {line[:80]!r}") from fault
    return request_id, body.get("result"), failure


def _error_of(body: dict[str, Any]) -> ReplkitError:
    kind = getattr(errors, str(body["type"]), None)
    if not (isinstance(kind, type) and issubclass(kind, ReplkitError)):
        kind = ControlError
    try:
        error: ReplkitError = kind(str(body["message"]), hint=str(body.get("hint", "")))
    except TypeError:  # the name of a base class
        error = ControlError(str(body["message"]), hint=str(body.get("hint", "")))
    if isinstance(error, errors.RefusedError):  # whoever called decides by it what to do next
        error.code = str(body.get("code") or error.code)
    if isinstance(error, errors.ConfigError):
        error.faults = [(str(path), str(what)) for path, what in body.get("faults", [])]
    return error


def read_lines(sock: socket.socket) -> Iterator[bytes]:
    """Yield the lines that arrive until the peer closes; ``InvalidArgumentError`` for a line without an end."""
    pending = bytearray()
    while True:
        try:
            data = sock.recv(RECEIVE_BYTES)
        except OSError:
            return
        if not data:
            return
        seen = len(pending)
        pending += data
        while (end := pending.find(b"\n", seen)) >= 0:
            line, seen = bytes(pending[:end]), 0
            del pending[: end + 1]
            if line.strip():
                yield line
        if len(pending) > MAX_LINE_BYTES:
            raise InvalidArgumentError(f"a control line has at most {MAX_LINE_BYTES} bytes")


def _connect(sock: socket.socket, path: Path, deadline_s: float) -> None:
    """A Unix socket whose queue is full says so at once, whatever the timeout is: many came at the same time."""
    while True:
        try:
            return sock.connect(str(path))
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(RETRY_CONNECT_S)


class ControlClient:
    """Asks a daemon; one request at a time."""

    def __init__(self, path: Path, *, timeout_s: float = 30.0) -> None:
        self._path = self.path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        try:
            _connect(self._socket, path, time.monotonic() + timeout_s)
        except OSError as error:
            self._socket.close()
            raise ControlError(
                f"no daemon answers at {path}: {error.strerror or error}",
                hint="start one with: replkit serve --config site.toml; or name its socket with --control",
            ) from error
        self._lines = read_lines(self._socket)
        self._lock = threading.Lock()

    def request(
        self, command: str, *, request_id: str | None = None, answer_timeout_s: float | None = 30.0, **arguments: Any
    ) -> Any:
        """The result of a command; raises the error with which the daemon answered."""
        request = Request(id=request_id or uuid.uuid4().hex, command=command, arguments=arguments)
        with self._lock:
            self._socket.settimeout(answer_timeout_s)
            try:
                self._socket.sendall(encode_request(request))
            except OSError as error:
                raise ControlError(f"the daemon at {self._path} went away: {error}") from error
            for line in self._lines:
                answered, result, failure = decode_reply(line)
                if answered != request.id:
                    continue
                if failure is not None:
                    raise failure
                return result
        raise ControlError(f"the daemon at {self._path} did not answer {command!r}", hint="its log tells more")

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
