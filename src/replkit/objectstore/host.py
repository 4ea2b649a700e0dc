"""What a save volume in a bucket may know of the machine and the process that it runs in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from replkit.contracts.runtime import Condition


class Host(Protocol):
    """Given by the backend; a simulator gives one that runs everything inline."""

    place: str
    """Names this process among all of all machines, so that another opener can see whether it has ended."""

    def random_bytes(self, count: int) -> bytes:
        """Fresh random bytes, for tokens."""
        ...

    def condition(self) -> Condition:
        """A new condition."""
        ...

    def run(self, work: Callable[[], None]) -> None:
        """Run ``work``, which does not raise, on another thread soon, or at once on this one."""
        ...

    def repeat(self, work: Callable[[], None]) -> None:
        """Call ``work`` every few seconds until ``close``, as long as its object lives."""
        ...

    def close(self) -> None:
        """Give threads back; called once, when nothing runs any more."""
        ...

    def hold(self, tag: str) -> None:
        """The producer ``tag`` lives in this process from now on."""
        ...

    def release(self, tag: str) -> None:
        """And from now on no more."""
        ...

    def has_ended(self, place: str, tag: str) -> bool:
        """Whether the producer ``tag`` at ``place`` is certainly gone; False in doubt."""
        ...
