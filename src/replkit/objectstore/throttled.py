"""``ThrottledStore``: a bucket gets no more bytes a second, and no more requests at a time, than it was given.

A limit is text: ``20MiB/s``, ``20MiB/s@08:00-18:00``, or several of these with commas between them, of which the first
one counts whose window holds the time of day. Outside of all windows nothing is limited.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, tzinfo
from typing import NamedTuple

from replkit.contracts.buffers import Buffer
from replkit.contracts.runtime import Runtime
from replkit.errors import InvalidArgumentError
from replkit.objectstore.store import ObjectInfo, ObjectStore

BURST_S = 0.5
"""After a pause, so many seconds' worth of bytes go at once."""
DAY_S = 86_400
_SHORTEST_S = 0.001
_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_TIME = r"([01]\d|2[0-3]):([0-5]\d)"
_WINDOW = re.compile(rf"(\d{{1,9}}(?:\.\d{{1,3}})?)(B|KiB|MiB|GiB|)/s(?:@{_TIME}-(?:{_TIME}|24:00))?")
_URGENT = re.compile(r"(?:^|/)(?:cells|hints|holds)/")


class Window(NamedTuple):
    """A rate for a part of each day; past midnight if it ends before it begins, all day if both are equal."""

    bytes_per_s: float
    begin_s: int
    end_s: int

    def holds(self, second: float) -> bool:
        """Whether a second of the day is in it."""
        if self.begin_s < self.end_s:
            return self.begin_s <= second < self.end_s
        return second >= self.begin_s or second < self.end_s


class Limit(NamedTuple):
    """Windows, of which the first that holds a time counts."""

    windows: tuple[Window, ...]

    def at(self, second: float) -> tuple[float | None, float]:
        """Bytes a second at a second of the day, ``None`` without limit, and for how many seconds that stays so."""
        rate = next((window.bytes_per_s for window in self.windows if window.holds(second)), None)
        borders = {border for window in self.windows for border in (window.begin_s, window.end_s)}
        left_s = min((border - second) % DAY_S or DAY_S for border in borders)
        return rate, max(left_s, _SHORTEST_S)


def parse_limit(text: str) -> Limit:
    """Read a limit as the module says; ``InvalidArgumentError`` if it is none (invariant 12)."""
    windows = []
    for part in text.split(","):
        match = _WINDOW.fullmatch(part.strip())
        rate = float(match[1]) * _UNITS[match[2]] if match else 0.0
        if match is None or rate < 1:
            raise InvalidArgumentError(
                f"{text!r} is no limit", hint="write it like 20MiB/s or 20MiB/s@08:00-18:00, several with commas"
            )
        begin_s = int(match[3] or 0) * 3600 + int(match[4] or 0) * 60
        windows.append(Window(rate, begin_s, int(match[5] or 0) * 3600 + int(match[6] or 0) * 60))
    return Limit(tuple(windows))


class Bandwidth:
    """A token bucket in one direction, for any number of stores and threads.

    Who finds no debt goes at once, whatever it takes, and leaves a debt that the next ones wait for. So a large object
    passes, and the rate holds over any time longer than the largest object takes. ``zone`` is that of the windows;
    ``None``: the machine's.
    """

    def __init__(self, limit: Limit, runtime: Runtime, zone: tzinfo | None = None) -> None:
        self._limit, self._runtime, self._zone = limit, runtime, zone
        self._changed = runtime.condition()
        self._bytes = 0.0
        self._at_s = runtime.monotonic()

    def take(self, count: int, *, waits: bool = True) -> None:
        """Wait until nothing is owed, then owe ``count`` bytes; without waiting if ``waits`` is false."""
        with self._changed:
            pause_s = self._pause_s()
            while waits and pause_s > 0:
                self._changed.wait(pause_s)
                pause_s = self._pause_s()
            self._bytes -= count

    def _pause_s(self) -> float:
        """Bring the account up to now; for how long to wait then."""
        now_s, wall_s = self._runtime.monotonic(), self._runtime.now()
        passed_s, self._at_s = min(now_s - self._at_s, float(DAY_S)), now_s
        while passed_s > 0:
            rate, left_s = self._limit.at(self._second_of_day(wall_s - passed_s))
            step_s = min(passed_s, left_s)
            self._bytes = 0.0 if rate is None else min(rate * BURST_S, self._bytes + rate * step_s)
            passed_s -= step_s
        rate, left_s = self._limit.at(self._second_of_day(wall_s))
        if rate is None or self._bytes >= 0:
            return 0.0
        return max(_SHORTEST_S, min(-self._bytes / rate, left_s))

    def _second_of_day(self, wall_s: float) -> float:
        local = datetime.fromtimestamp(wall_s, UTC).astimezone(self._zone)
        return local.hour * 3600 + local.minute * 60 + local.second + local.microsecond / 1e6


class Slots:
    """So many requests at a time."""

    def __init__(self, count: int, runtime: Runtime) -> None:
        self._changed = runtime.condition()
        self._free = count

    @contextmanager
    def one(self) -> Iterator[None]:
        """Wait for a free one, and hold it."""
        with self._changed:
            while not self._free:
                self._changed.wait()
            self._free -= 1
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()


class ThrottledStore(ObjectStore):
    """``inner`` with its bytes paid from ``up`` and ``down``, and each request in a slot.

    Cells, hints and holds are small and time matters to them: their bytes are counted and never waited for. A read is
    paid for when its length is known, so that the next one waits.
    """

    def __init__(
        self,
        inner: ObjectStore,
        *,
        up: Bandwidth | None = None,
        down: Bandwidth | None = None,
        slots: Slots | None = None,
    ) -> None:
        self.url = inner.url
        self._inner, self._up, self._down, self._slots = inner, up, down, slots

    @contextmanager
    def _slot(self) -> Iterator[None]:
        if self._slots is None:
            yield
        else:
            with self._slots.one():
                yield

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Pay, then put."""
        if self._up is not None:
            self._up.take(sum(memoryview(part).nbytes for part in parts), waits=not _URGENT.search(key))
        with self._slot():
            self._inner.put(key, parts)

    def put_new(self, key: str, data: Buffer) -> None:
        """Pay, then create."""
        if self._up is not None:
            self._up.take(memoryview(data).nbytes, waits=not _URGENT.search(key))
        with self._slot():
            self._inner.put_new(key, data)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Wait until nothing is owed, get, then pay."""
        if self._down is not None:
            self._down.take(0, waits=not _URGENT.search(key))
        with self._slot():
            data = self._inner.get(key, start, stop)
        if self._down is not None:
            self._down.take(len(data), waits=False)
        return data

    @property
    def requests(self) -> Mapping[str, int]:
        """Those of the inner one."""
        return self._inner.requests

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """A slot for each step, so that a listing that is not read on holds none."""
        found = self._inner.list(prefix)
        while True:
            with self._slot():
                info = next(found, None)
            if info is None:
                return
            yield info

    def delete(self, keys: Iterable[str]) -> None:
        """In a slot."""
        doomed = list(keys)
        with self._slot():
            self._inner.delete(doomed)

    def close(self) -> None:
        """Close the inner one."""
        self._inner.close()
