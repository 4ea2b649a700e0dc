"""The gate of a volume stack: writers pass it together, a cut, a snapshot or a discard passes it alone (FIG. 10)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from replkit.contracts.runtime import Runtime

_held: ContextVar[tuple[object, ...]] = ContextVar("gates that this task holds exclusively", default=())


class Gate:
    """Shared for writers, from their mark until their data write returned; exclusive for whoever must see none inside.

    Shared costs no lock while the gate is open. Whoever holds the gate exclusively may pass it in
    shared mode too (an unaligned write reads, changes and writes under ``exclusive``). Writers can be *suspended*
    for longer (congestion policy *block*): cuts and snapshots still pass.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._lock = runtime.lock()
        self._changed = runtime.condition()
        self._turn = runtime.lock()
        self._inside: deque[None] = deque()
        """One entry a writer inside: appended and popped by one C call each, so writers take no lock."""
        self._suspensions = 0
        self._shut = 0
        """Reasons why a writer may not enter: 1 for an exclusive holder, and 1 a suspension."""
        self._shared = _Shared(self)

    def shared(self) -> _Shared:
        """Context of a writer; may be entered by any number of tasks at a time."""
        return self._shared

    def enter(self) -> None:
        """Come in as a writer, when the gate is open."""
        while True:
            self._inside.append(None)  # first come in, then look: who shuts the gate looks in the other order
            if not self._shut or self in _held.get():
                return
            self.leave()
            with self._changed:
                while self._shut:
                    self._changed.wait()

    def leave(self) -> None:
        """Go out as a writer."""
        self._inside.pop()
        if self._shut and not self._inside:
            self._wake()

    @contextmanager
    def exclusive(self, *, as_writer: bool = False) -> Iterator[None]:
        """Hold the gate alone; ``as_writer`` waits until writes are not suspended. Who holds it may take it again."""
        if self.is_held_by_caller:
            yield
            return
        self._close(as_writer=as_writer)
        token = _held.set((*_held.get(), self))
        try:
            yield
        finally:
            _held.reset(token)
            with self._lock:
                self._shut -= 1
            self._turn.__exit__(None, None, None)
            self._wake()

    def _close(self, *, as_writer: bool) -> None:
        while True:
            self._turn.__enter__()
            with self._lock:
                if not (as_writer and self._suspensions):
                    self._shut += 1
                    break
            self._turn.__exit__(None, None, None)
            with self._changed:
                while self._suspensions:
                    self._changed.wait()
        with self._changed:
            while self._inside:
                self._changed.wait()

    def suspend(self) -> None:
        """Let no writer in until ``resume``; does not wait for those inside. May be nested."""
        with self._lock:
            self._suspensions += 1
            self._shut += 1

    def resume(self) -> None:
        """Take one suspension back."""
        with self._lock:
            if self._suspensions:
                self._suspensions -= 1
                self._shut -= 1
        self._wake()

    @property
    def is_held_by_caller(self) -> bool:
        """Whether the calling task holds the gate exclusively."""
        return self in _held.get()

    @property
    def is_suspended(self) -> bool:
        """Whether writers are kept out until ``resume``."""
        return self._suspensions > 0

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class _Shared:
    """``with gate.shared()``, without an object a pass."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def __enter__(self) -> None:
        self._gate.enter()

    def __exit__(self, *_: object) -> None:
        self._gate.leave()
