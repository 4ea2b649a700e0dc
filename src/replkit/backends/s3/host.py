"""Threads, clock, randomness and the name of this process, for save volumes and volumes in a bucket."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import MethodType
from typing import TypeVar

from replkit.contracts.runtime import Condition, Event, Lock

WORKERS = 4
"""Uploads at a time for each producer."""
SHARED_WORKERS = 16
"""Requests at a time for all volumes of a process together."""
TICK_S = 5.0
"""How often a save volume uploads, for readers, what was put and not synced."""

_Result = TypeVar("_Result")
_shared = ThreadPoolExecutor(SHARED_WORKERS, "replkit-s3-volume")
_shared_threads = threading.local()
_held: set[str] = set()
"""Tags of the producers that live in this process."""


class ThreadRuntime:
    """The runtime of the contracts, from the standard library."""

    def now(self) -> float:
        """Wall clock, seconds since 1970 UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()

    def random_bytes(self, count: int) -> bytes:
        """From the system."""
        return os.urandom(count)

    def lock(self) -> Lock:
        """A new mutex."""
        return threading.Lock()

    def condition(self) -> Condition:
        """One that the thread which holds it must not take again."""
        return threading.Condition(threading.Lock())

    def event(self) -> Event:
        """A new event, not set."""
        return threading.Event()


def run_all(calls: Sequence[Callable[[], _Result]]) -> list[_Result]:
    """Make several calls at the same time; results in order, or the error of one after all have ended."""
    if len(calls) < 2 or getattr(_shared_threads, "is_one", False):  # a call of a call must not wait for a thread
        return [call() for call in calls]
    futures = [_shared.submit(_call, call) for call in calls]
    wait(futures)
    return [future.result() for future in futures]


def _call(call: Callable[[], _Result]) -> _Result:
    _shared_threads.is_one = True
    return call()


class ThreadHost(ThreadRuntime):
    """A pool of threads for one save volume, started when the first work comes."""

    def __init__(self) -> None:
        self.place = this_process()
        self._pool = ThreadPoolExecutor(WORKERS, "replkit-s3")
        self._closed = threading.Event()

    def run(self, work: Callable[[], None]) -> None:
        """On the pool."""
        self._pool.submit(work)

    def repeat(self, work: Callable[[], None]) -> None:
        """On a thread that ends with ``close`` or with the object of the method."""
        assert isinstance(work, MethodType)  # noqa: S101 - else nothing would end the thread
        reference, closed = weakref.WeakMethod(work), self._closed

        def tick() -> None:
            while not closed.wait(TICK_S):
                method = reference()
                if method is None:
                    return
                method()
                del method

        threading.Thread(target=tick, name="replkit-s3-tick", daemon=True).start()

    def close(self) -> None:
        """End the threads."""
        self._closed.set()
        self._pool.shutdown(wait=False)

    def hold(self, tag: str) -> None:
        """The producer lives here."""
        _held.add(tag)

    def release(self, tag: str) -> None:
        """No more."""
        _held.discard(tag)

    def has_ended(self, place: str, tag: str) -> bool:
        """True for a process of this machine that is gone, and for a producer that this process does not have."""
        if place == self.place:
            return tag not in _held
        return process_has_ended(place, self.place)


def this_process() -> str:
    """``machine/boot/namespace/process/start``: equal to that of no other process, ever."""
    machine = _read("/etc/machine-id") or "unknown"
    boot = _read("/proc/sys/kernel/random/boot_id") or "unknown"
    return f"{machine}/{boot}/{_pid_namespace()}/{os.getpid()}/{_start_of(os.getpid())}"


def process_has_ended(other: str, mine: str) -> bool:
    """Whether ``other`` is certainly gone: same machine, and another boot, or a process that is not there."""
    theirs, ours = other.split("/"), mine.split("/")
    if len(theirs) != len(ours) or theirs[0] != ours[0] or "unknown" in {theirs[0], theirs[1], ours[1]}:
        return False
    if theirs[1] != ours[1]:
        return True
    return theirs[2] == ours[2] and _start_of(int(theirs[3])) != theirs[4]


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "0"


def _start_of(pid: int) -> str:
    """When the process was started, in ticks since boot; empty if there is none."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""
