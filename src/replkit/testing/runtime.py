"""Runtimes for tests: one with the machine's threads and clock, one whose clock stands still until it is moved."""

from __future__ import annotations

import random
import threading

from replkit.contracts.runtime import Condition, Event
from replkit.site.runtime import SiteRuntime


class ThreadRuntime(SiteRuntime):
    """Real threads, real clock, real randomness: the runtime of production, for tests of locks and races."""


class ManualRuntime(ThreadRuntime):
    """A clock that only the test moves, and random bytes from a seed; locks are real.

    A ``wait`` with a timeout returns when ``advance`` has moved the clock past it, or when it was notified. With
    ``waits_advance`` (for tests of one thread) such a wait moves the clock itself and ends unnotified.
    """

    def __init__(self, start_s: float = 1_700_000_000.0, *, seed: int = 0, waits_advance: bool = False) -> None:
        self._now_s = start_s
        self._random = random.Random(seed)
        self._waits_advance = waits_advance
        self._tick = threading.Condition()

    def now(self) -> float:
        """The time that the test set."""
        return self._now_s

    def monotonic(self) -> float:
        """The same clock."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Move the clock on and wake every wait whose time is up."""
        with self._tick:
            self._now_s += seconds
            self._tick.notify_all()

    def random_bytes(self, count: int) -> bytes:
        """Bytes that depend on the seed only."""
        return self._random.randbytes(count)

    def condition(self) -> Condition:
        """A condition whose timeouts follow the manual clock."""
        return _ManualCondition(self)

    def event(self) -> Event:
        """An event whose timeouts follow the manual clock."""
        return _ManualEvent(self)

    def wait_on(self, waiter: threading.Event, timeout: float | None) -> bool:
        """Wait until ``waiter`` is set or the manual clock has moved on by ``timeout``."""
        if waiter.is_set():
            return True
        if timeout is not None and self._waits_advance:
            self.advance(max(0.0, timeout))
            return waiter.is_set()
        with self._tick:
            deadline_s = None if timeout is None else self._now_s + timeout
            self._tick.wait_for(lambda: waiter.is_set() or (deadline_s is not None and self._now_s >= deadline_s))
        return waiter.is_set()

    def wake(self, waiter: threading.Event) -> None:
        """Set ``waiter`` and let those that wait look."""
        with self._tick:
            waiter.set()
            self._tick.notify_all()


class _ManualCondition:
    def __init__(self, runtime: ManualRuntime) -> None:
        self._runtime = runtime
        self._lock = threading.Lock()
        self._waiters: list[threading.Event] = []

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        waiter = threading.Event()
        self._waiters.append(waiter)
        self._lock.release()
        try:
            return self._runtime.wait_on(waiter, timeout)
        finally:
            self._lock.acquire()
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def notify_all(self) -> None:
        for waiter in self._waiters:
            self._runtime.wake(waiter)
        self._waiters.clear()


class _ManualEvent:
    def __init__(self, runtime: ManualRuntime) -> None:
        self._runtime = runtime
        self._flag = threading.Event()

    def is_set(self) -> bool:
        return self._flag.is_set()

    def set(self) -> None:
        self._runtime.wake(self._flag)

    def clear(self) -> None:
        self._flag.clear()

    def wait(self, timeout: float | None = None) -> bool:
        return self._runtime.wait_on(self._flag, timeout)
