"""Calls the ``step()`` of a service on a thread of its own, as often as the service asks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from replkit.errors import FencedError, ReplkitError

_log = logging.getLogger(__name__)
FIRST_BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 15.0
IDLE_S = 1.0
"""How long a service that asks for no time is left alone."""


class Driver:
    """Runs one service until it is stopped.

    ``step`` does a bounded amount of work and returns the seconds until it wants to be called again (``None``: when
    woken, or after a while). An error of ours is told to ``on_error`` and tried again, later each time; what cannot be
    got over in this process (a fencing, a bug) goes to ``on_fatal``, and the supervisor starts a new process.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], float | None],
        *,
        on_error: Callable[[str, ReplkitError], None],
        on_fatal: Callable[[BaseException], None],
        on_wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._name = name
        self._step = step
        self._on_error = on_error
        self._on_fatal = on_fatal
        self._on_wake = on_wake
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Call the service soon; ``on_wake`` ends a wait inside its step."""
        self._wake.set()
        self._on_wake()

    def stop(self, timeout_s: float = 20.0) -> bool:
        """Return when the step in progress has ended; False when it did not end in time."""
        self._stopping = True
        self._wake.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        backoff_s = 0.0
        while not self._stopping:
            try:
                delay_s = self._step()
                backoff_s = 0.0
            except FencedError as error:
                self._on_fatal(error)
                return
            except ReplkitError as error:
                backoff_s = min(LONGEST_BACKOFF_S, max(FIRST_BACKOFF_S, backoff_s * 2))
                delay_s = backoff_s
                if not self._stopping:
                    self._on_error(self._name, error)
            except Exception as error:
                _log.exception("%s failed", self._name)
                self._on_fatal(error)
                return
            if delay_s is None or delay_s > 0:
                self._wake.wait(IDLE_S if delay_s is None else delay_s)
                self._wake.clear()
