"""The line between the supervisor and a worker: the control protocol on a socket pair, many at once."""

from __future__ import annotations

import socket
import threading
import uuid
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from replkit.errors import ControlError, InvalidArgumentError
from replkit.site.control import (
    Arguments,
    Handler,
    Request,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
    read_lines,
)


class ChannelClient:
    """The supervisor's end: asks, and gives each answer to the one who waits for it."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        self._socket = sock
        self._name = name
        self._lock = threading.Lock()
        self._waiting: dict[str, Future[Any]] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._read, name=f"channel-{name}", daemon=True)
        self._thread.start()

    def request(self, command: str, arguments: Arguments, timeout_s: float | None) -> Any:
        """The result; the worker's error as it was raised there, ``ControlError`` when it went away or is late."""
        request = Request(id=uuid.uuid4().hex, command=command, arguments=arguments)
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise ControlError(f"worker {self._name} is not running")
            self._waiting[request.id] = future
        try:
            self._socket.sendall(encode_request(request))
            return future.result(timeout_s)
        except FutureTimeoutError as error:
            raise ControlError(f"worker {self._name} did not answer {command!r} in {timeout_s:g} s") from error
        except OSError as error:
            raise ControlError(f"worker {self._name} went away: {error}") from error
        finally:
            with self._lock:
                self._waiting.pop(request.id, None)

    def close(self) -> None:
        """End the line: the worker then stops."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            self._closed = True
        self._thread.join(5)
        self._socket.close()

    def _read(self) -> None:
        try:
            for line in read_lines(self._socket):
                request_id, result, error = decode_reply(line)
                with self._lock:
                    future = self._waiting.get(request_id)
                if future is not None and error is not None:
                    future.set_exception(error)
                elif future is not None:
                    future.set_result(result)
        except (ControlError, InvalidArgumentError):
            self._closed = True
        with self._lock:
            self._closed = True
            left, self._waiting = list(self._waiting.values()), {}
        for future in left:
            future.set_exception(ControlError(f"worker {self._name} went away"))


def serve_channel(sock: socket.socket, handler: Handler) -> None:
    """The worker's end: answer every request on a thread of its own, until the supervisor is gone."""
    sending = threading.Lock()

    def answer(request: Request) -> None:
        try:
            reply = encode_reply(request.id, handler(request.command, request.arguments))
        except Exception as error:
            reply = encode_reply(request.id, error=error)
        try:
            with sending:
                sock.sendall(reply)
        except OSError:
            return  # the supervisor is gone, and the loop below ends too

    for line in read_lines(sock):
        threading.Thread(target=answer, args=(decode_request(line),), name="request", daemon=True).start()
