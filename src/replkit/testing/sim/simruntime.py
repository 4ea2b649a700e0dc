"""The runtime of a simulation: one thread, a clock that waits move, locks that tell who would hang."""

from __future__ import annotations

from replkit.contracts.runtime import Condition, Event, Lock
from replkit.errors import StorageError
from replkit.testing.runtime import ManualRuntime


class WouldWaitError(StorageError):
    """The only thread there is would wait until somebody else does something."""


class StuckError(AssertionError):
    """A lock is taken twice by the only thread: in production this would hang."""


class SimRuntime(ManualRuntime):
    """One thread: a wait with a time-out moves the clock, one without is an error; the wall clock can jump."""

    def __init__(self, *, seed: int) -> None:
        super().__init__(seed=seed, waits_advance=True)
        self.jump_s = 0.0

    def now(self) -> float:
        """The wall clock, which may jump in either direction."""
        return self._now_s + self.jump_s

    def advance(self, seconds: float) -> None:
        """Move the clock on."""
        self._now_s += seconds

    def lock(self) -> Lock:
        """A lock that nobody can hold already."""
        return _SimLock()

    def condition(self) -> Condition:
        """A condition that only a time-out ends."""
        return _SimCondition(self)

    def event(self) -> Event:
        """A flag."""
        return _SimEvent(self)


class _SimLock:
    def __init__(self) -> None:
        self._is_held = False

    def __enter__(self) -> bool:
        if self._is_held:
            raise StuckError("a lock is taken twice by one thread")
        self._is_held = True
        return True

    def __exit__(self, *exception: object) -> None:
        self._is_held = False


class _SimCondition(_SimLock):
    def __init__(self, runtime: SimRuntime) -> None:
        super().__init__()
        self._runtime = runtime

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is None:
            raise WouldWaitError("a wait that nobody would end")
        self._runtime.advance(timeout)
        return False

    def notify_all(self) -> None:
        return


class _SimEvent:
    def __init__(self, runtime: SimRuntime) -> None:
        self._runtime, self._is_set = runtime, False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._is_set:
            if timeout is None:
                raise WouldWaitError("a wait that nobody would end")
            self._runtime.advance(timeout)
        return self._is_set
