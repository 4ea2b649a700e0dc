"""A worker process: ``python -m replkit.site.worker KIND``, started by the supervisor with a socket as standard input.

The first request on the socket is ``start`` with what the worker has to serve, so that nothing secret is on a command
line. A worker ends cleanly on SIGTERM and when the socket ends, that is, when the supervisor is gone, however it went.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import sys
import threading
from typing import Any, Protocol

from replkit.errors import InvalidArgumentError, ReplkitError
from replkit.site.channel import serve_channel
from replkit.site.control import Arguments
from replkit.site.logs import set_up_logging
from replkit.site.signals import end_on_signals

_log = logging.getLogger(__name__)
KINDS = {
    "primary": "replkit.site.primary:PrimaryWorker",
    "sender": "replkit.site.senders:SenderWorker",
    "replica": "replkit.site.replica:ReplicaWorker",
    "scrub": "replkit.site.scrubbing:ScrubWorker",
    "verify": "replkit.site.verifyjob:VerifyWorker",
}
SLOW_STOP_S = 20.0
"""After this time a worker that does not get to its end is ended: whatever it did is redone (invariant 6)."""


class WorkerBody(Protocol):
    """What a worker does."""

    def start(self, spec: dict[str, Any]) -> object:
        """Open and serve what ``spec`` says; returns when requests can be answered."""
        ...

    def handle(self, command: str, arguments: Arguments) -> object:
        """Carry out a command; called by several threads at once."""
        ...

    def stop(self) -> None:
        """Come to a clean end."""
        ...


class WorkerHost:
    """The process around a body."""

    def __init__(self, kind: str, sock: socket.socket) -> None:
        module, _, name = KINDS[kind].partition(":")
        self.ending = threading.Event()
        self.exit_code = 0
        self._body: WorkerBody = getattr(importlib.import_module(module), name)(self.fail)
        self._started = threading.Lock()
        self._is_started = False
        self._socket = sock

    def fail(self, error: BaseException) -> None:
        """End the process with an error; the supervisor starts another."""
        _log.error("worker ends: %s", error)
        self.exit_code = 1
        self.ending.set()

    def handle(self, command: str, arguments: Arguments) -> object:
        """Answer one request of the supervisor."""
        if command == "start":
            return self._start(arguments)
        if not self._is_started:
            raise InvalidArgumentError("the worker is not started yet")
        return self._body.handle(command, arguments)

    def _start(self, spec: dict[str, Any]) -> object:
        with self._started:
            try:
                result = self._body.start(spec)
            except ReplkitError:
                self.exit_code = 1
                # The supervisor reads the reason before the socket ends, then closes it, which ends us.
                raise
            self._is_started = True
        return result

    def run(self) -> int:
        """Serve until told to stop."""
        threading.Thread(target=self._serve, name="channel", daemon=True).start()
        self.ending.wait()
        timer = threading.Timer(SLOW_STOP_S, os._exit, args=(1,))
        timer.daemon = True
        timer.start()
        with self._started:
            try:
                self._body.stop()
            except ReplkitError as error:
                _log.error("worker could not close cleanly: %s", error)
                self.exit_code = 1
        return self.exit_code

    def _serve(self) -> None:
        try:
            serve_channel(self._socket, self.handle)
        except ReplkitError as error:
            _log.error("the supervisor sent what is no request: %s", error)
        self.ending.set()


def main() -> None:
    """Run the worker of the kind that the command line names."""
    kind = sys.argv[1]
    set_up_logging(sys.argv[2] if len(sys.argv) > 2 else kind)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the supervisor ends us in order
    host = WorkerHost(kind, socket.socket(fileno=os.dup(0)))
    end_on_signals(host.ending, signal.SIGTERM)
    code = host.run()
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)  # everything is closed; a thread that waits for a peer must not hold the process


if __name__ == "__main__":
    main()
