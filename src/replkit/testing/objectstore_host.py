"""A host for save volumes in an object store that runs everything inline: for tests of one thread, and simulation."""

from __future__ import annotations

from collections.abc import Callable

from replkit.contracts.runtime import Condition, Runtime


class InlineHost:
    """One process, named by ``place``; ``processes`` are those alive, shared by the hosts of a test."""

    def __init__(self, runtime: Runtime, place: str = "here", processes: dict[str, set[str]] | None = None) -> None:
        self._runtime = runtime
        self.place = place
        self._processes = {} if processes is None else processes
        self._processes.setdefault(place, set())

    def random_bytes(self, count: int) -> bytes:
        """From the runtime."""
        return self._runtime.random_bytes(count)

    def condition(self) -> Condition:
        """From the runtime."""
        return self._runtime.condition()

    def run(self, work: Callable[[], None]) -> None:
        """At once."""
        work()

    def repeat(self, work: Callable[[], None]) -> None:
        """Never: the test calls what it wants."""

    def close(self) -> None:
        """Nothing to give back."""

    def hold(self, tag: str) -> None:
        """Remember the producer."""
        self._processes[self.place].add(tag)

    def release(self, tag: str) -> None:
        """Forget the producer."""
        self._processes.get(self.place, set()).discard(tag)

    def kill(self) -> None:
        """All its producers end without a word."""
        self._processes[self.place] = set()

    def has_ended(self, place: str, tag: str) -> bool:
        """Known for places of this test; in doubt about others."""
        return place in self._processes and tag not in self._processes[place]
