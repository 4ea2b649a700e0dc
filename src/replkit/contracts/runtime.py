"""The runtime: clock, locks and randomness, passed in everywhere so that a simulator can stand in for them."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol


class Lock(Protocol):
    """Mutual exclusion, used as a context manager; not re-entrant."""

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> bool | None: ...


class Condition(Lock, Protocol):
    """A lock on which one can wait for a change that another task notifies."""

    def wait(self, timeout: float | None = None) -> bool:
        """Give the lock up, wait for a notification, take it again; False when the time ran out."""
        ...

    def notify_all(self) -> None:
        """Wake every waiter; the lock must be held."""
        ...


class Event(Protocol):
    """A flag that can be waited for."""

    def is_set(self) -> bool:
        """Whether the flag is up."""
        ...

    def set(self) -> None:
        """Raise the flag."""
        ...

    def clear(self) -> None:
        """Lower the flag."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is up; False when the time ran out."""
        ...


class Runtime(Protocol):
    """What code below ``site`` may know of the machine."""

    def now(self) -> float:
        """Wall clock, seconds since 1970 UTC; for people and for lag, never for safety (invariant 8)."""
        ...

    def monotonic(self) -> float:
        """A clock in seconds that never goes back."""
        ...

    def random_bytes(self, count: int) -> bytes:
        """Fresh random bytes, for identities and tokens."""
        ...

    def lock(self) -> Lock:
        """A new lock."""
        ...

    def condition(self) -> Condition:
        """A new condition with a lock of its own."""
        ...

    def event(self) -> Event:
        """A new event, not set."""
        ...
