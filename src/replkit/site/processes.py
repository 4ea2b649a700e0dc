"""One worker as the supervisor sees it: started, asked, and started again when it dies."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from replkit.errors import ControlError, ReplkitError
from replkit.site.allocator import worker_environment
from replkit.site.channel import ChannelClient
from replkit.site.control import Arguments

_log = logging.getLogger(__name__)
START_TIMEOUT_S = 120.0
FIRST_BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 10.0
HEALTHY_S = 10.0
"""A worker that ran this long is started again at once."""


class WorkerProcess:
    """Keeps one worker running from ``start`` to ``stop``; a crash of it touches no other."""

    def __init__(self, name: str, kind: str, spec: dict[str, Any]) -> None:
        self.name = name
        self.kind = kind
        self._spec = spec
        self._lock = threading.Lock()
        self._settled = threading.Event()
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._channel: ChannelClient | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._last_error = ""
        self._thread = threading.Thread(target=self._keep, name=f"keep-{name}", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def respec(self, spec: dict[str, Any]) -> None:
        """What the worker is told when it starts the next time."""
        self._spec = spec

    def wait_settled(self, timeout_s: float) -> bool:
        """Wait until the first start has succeeded or failed."""
        return self._settled.wait(timeout_s)

    def request(self, command: str, arguments: Arguments, timeout_s: float | None = 30.0) -> Any:
        """Ask the worker; one that is just starting again is given a moment."""
        if not self._ready.wait(5.0 if timeout_s is None else min(5.0, timeout_s)):
            why = f": {self._last_error}" if self._last_error else ""
            raise ControlError(f"worker {self.name} is not ready{why}", hint="the daemon starts it again by itself")
        channel = self._channel
        if channel is None:
            raise ControlError(f"worker {self.name} went away")
        return channel.request(command, arguments, timeout_s)

    def status(self) -> dict[str, Any]:
        """State of the process, for ``status``."""
        process = self._process
        return {
            "name": self.name,
            "kind": self.kind,
            "pid": process.pid if process is not None and process.poll() is None else None,
            "ready": self._ready.is_set(),
            "restarts": max(0, self._starts - 1),
            "last_error": self._last_error,
        }

    def stop(self, timeout_s: float = 25.0) -> None:
        """End the worker cleanly; by force when it takes too long."""
        self._stopping.set()
        with self._lock:
            process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                _log.error("worker %s does not end and is killed", self.name)
                process.kill()
        if self._thread.is_alive():
            self._thread.join(5)

    def _keep(self) -> None:
        backoff_s = 0.0
        while not self._stopping.wait(backoff_s):
            began_s = time.monotonic()
            self._run_once()
            if time.monotonic() - began_s > HEALTHY_S:
                backoff_s = 0.0
            backoff_s = min(LONGEST_BACKOFF_S, max(FIRST_BACKOFF_S, backoff_s * 2))
            if not self._stopping.is_set():
                _log.error(
                    "worker %s ended (%s); it is started again in %.1f s", self.name, self._last_error, backoff_s
                )

    def _run_once(self) -> None:
        """One life of the worker."""
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            if self._stopping.is_set():
                ours.close()
                return
            command = [sys.executable, "-P", "-m", "replkit.site.worker", self.kind, self.name]
            self._process = process = subprocess.Popen(
                command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=worker_environment(self._spec)
            )
        self._starts += 1
        channel = ChannelClient(ours, self.name)
        try:
            channel.request("start", self._spec, START_TIMEOUT_S)
        except ReplkitError as error:
            self._last_error = str(error)
            channel.close()  # ends the worker
        else:
            self._channel, self._last_error = channel, ""
            self._ready.set()
        self._settled.set()
        code = process.wait()
        self._ready.clear()
        self._channel = None
        channel.close()
        if not self._last_error:
            self._last_error = f"exit code {code}" if code >= 0 else f"signal {-code}"
