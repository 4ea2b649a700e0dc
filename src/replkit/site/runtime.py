"""The runtime of production: the machine's clock, threads, locks and randomness."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from replkit.contracts.runtime import Condition, Event, Lock


class SiteRuntime:
    """What ``contracts.Runtime`` asks for, from the standard library, and threads for those who run services."""

    def now(self) -> float:
        """Wall clock, seconds since 1970 UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()

    def random_bytes(self, count: int) -> bytes:
        """Fresh random bytes of the system."""
        return os.urandom(count)

    def lock(self) -> Lock:
        """A new mutex."""
        return threading.Lock()

    def condition(self) -> Condition:
        """A new condition with a mutex of its own."""
        return threading.Condition(threading.Lock())

    def event(self) -> Event:
        """A new event, not set."""
        return threading.Event()

    def sleep(self, duration_s: float) -> None:
        """Wait; only for code of ``site`` and above."""
        time.sleep(duration_s)

    def spawn(self, name: str, function: Callable[[], None]) -> threading.Thread:
        """Run ``function`` on a thread that does not keep the process alive."""
        thread = threading.Thread(target=function, name=name, daemon=True)
        thread.start()
        return thread
