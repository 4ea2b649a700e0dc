"""``MeteredStore``: requests and bytes by kind, today and in total, because a bucket is paid by the request.

The figures are kept in a cell, saved at most once a minute and at close, and added to what other openers saved there.
So a crash loses at most what came since the last save, and a save whose answer was lost may count it twice.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from replkit.contracts.buffers import Buffer
from replkit.contracts.runtime import Runtime
from replkit.contracts.savevolume import CellValue
from replkit.errors import CorruptRecordError, ReplkitError, StoreUnavailableError
from replkit.objectstore.store import ObjectInfo, ObjectStore

USAGE_CELL = "usage"
USAGE_FORMAT = 1
SAVE_EVERY_S = 60.0

_log = logging.getLogger(__name__)


class Cells(Protocol):
    """Where usage is kept: the cells of a bucket, or of any save volume."""

    def load(self, name: str, /) -> CellValue:
        """The newest value and its version."""
        ...

    def swap(self, name: str, value: bytes, expected_version: int, /) -> int:
        """Make the next version; ``SwapConflictError`` if another one did."""
        ...


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Counts by kind, of the day (UTC) that ``day`` names and of all days since ``since``."""

    format: int = USAGE_FORMAT
    since: str = ""
    day: str = ""
    today: dict[str, int] = {}
    total: dict[str, int] = {}

    def plus(self, day: str, counts: Mapping[str, int]) -> Usage:
        """With what was counted on ``day``; a day that is over counts in the total only."""
        today = self.today if day == self.day else {}
        return Usage(
            since=self.since or day,
            day=max(day, self.day),
            today=_sum(today, counts) if day >= self.day else self.today,
            total=_sum(self.total, counts),
        )

    def as_dict(self) -> dict[str, Any]:
        """For status: ``since``, ``day``, ``today`` and ``total``, the latter by kind."""
        return {"since": self.since, "day": self.day, "today": dict(self.today), "total": dict(self.total)}


def decode_usage(value: bytes, what: str) -> Usage:
    """What a cell holds; ``CorruptRecordError`` names it if that is no usage (invariant 12)."""
    if not value:
        return Usage()
    try:
        usage = msgspec.json.decode(value, type=Usage)
    except msgspec.MsgspecError as error:
        raise CorruptRecordError(f"{what}: its usage is damaged: {error}") from error
    if usage.format != USAGE_FORMAT:
        raise CorruptRecordError(f"{what}: its usage has format {usage.format}: unknown to this replkit")
    return usage


def _sum(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return {kind: first.get(kind, 0) + second.get(kind, 0) for kind in sorted({*first, *second})}


class MeteredStore(ObjectStore):
    """``inner`` with its requests and bytes counted: as a real store counts itself, else by the call.

    Those of a real store are exact: pages of listings, batches of deletions and repetitions are requests.
    """

    def __init__(self, inner: ObjectStore, runtime: Runtime) -> None:
        self.url = inner.url
        self._inner, self._runtime = inner, runtime
        self._lock = runtime.lock()
        self._own: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()
        self._unsaved = Usage()
        self._known = Usage()
        self._cells: Cells | None = None
        self._saved_at_s = runtime.monotonic()
        self._is_saving = self._is_away = False

    def keep_in(self, cells: Cells) -> None:
        """Save in this cell store from now on; it may lead through this very store."""
        self._cells = cells

    def usage(self) -> dict[str, Any]:
        """What was saved when it was last looked at, and what was counted since."""
        with self._lock:
            self._gather_locked()
            return _join(self._known, self._unsaved).as_dict()

    def _gather_locked(self) -> None:
        day = datetime.fromtimestamp(self._runtime.now(), UTC).date().isoformat()
        now = Counter({kind.replace(" ", "_"): count for kind, count in (self._inner.requests or self._own).items()})
        fresh = {kind: count - self._seen[kind] for kind, count in now.items() if count > self._seen[kind]}
        self._seen = now
        if fresh or day > self._unsaved.day:
            self._unsaved = self._unsaved.plus(day, fresh)

    @property
    def requests(self) -> Mapping[str, int]:
        """Since it was opened."""
        return self._inner.requests or dict(self._own)

    def save(self) -> None:
        """Add what is new to the cell; what fails is left for the next time."""
        with self._lock:
            cells = self._cells
            if cells is None or self._is_saving:
                return
            self._is_saving, self._saved_at_s = True, self._runtime.monotonic()
            self._gather_locked()
            mine, self._unsaved = self._unsaved, Usage()
        try:
            value, version = cells.load(USAGE_CELL)
            known = _join(decode_usage(value, f"{self.url}: cell {USAGE_CELL}"), mine)
            cells.swap(USAGE_CELL, msgspec.json.encode(known), version)
            with self._lock:
                self._known = known
        except ReplkitError as error:
            _log.info("%s: usage is not saved yet: %s", self.url, error)
            with self._lock:
                self._unsaved = _join(mine, self._unsaved)
        finally:
            with self._lock:
                self._is_saving = False

    def _count(self, kind: str, size_bytes: int = 0) -> None:
        with self._lock:
            self._own[f"{kind} requests"] += 1
            if size_bytes:
                self._own["bytes got" if kind == "get" else "bytes put"] += size_bytes

    @contextmanager
    def _call(self) -> Iterator[None]:
        try:
            yield
            self._is_away = False
        except StoreUnavailableError:
            self._is_away = True
            raise
        if self._runtime.monotonic() - self._saved_at_s >= SAVE_EVERY_S:
            self.save()

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Count and put."""
        with self._call():
            self._count("put", sum(memoryview(part).nbytes for part in parts))
            self._inner.put(key, parts)

    def put_new(self, key: str, data: Buffer) -> None:
        """Count and create."""
        with self._call():
            self._count("put_new", memoryview(data).nbytes)
            self._inner.put_new(key, data)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Get and count."""
        with self._call():
            data = self._inner.get(key, start, stop)
            self._count("get", len(data))
            return data

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Count and list."""
        self._count("list")
        return self._inner.list(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        """Count and delete."""
        with self._call():
            self._count("delete")
            self._inner.delete(keys)

    def close(self) -> None:
        """Save once more, unless the store was away at the last call, then close the inner one."""
        with self._lock:
            self._gather_locked()
            is_worth = bool(self._unsaved.total) and not self._is_away
        if is_worth:
            self.save()
        self._inner.close()


def _join(saved: Usage, more: Usage) -> Usage:
    """``more`` counted on top of ``saved``; its today is of its own day, the rest of its total of earlier ones."""
    if not more.day:
        return saved
    earlier = {kind: count - more.today.get(kind, 0) for kind, count in more.total.items()}
    with_earlier = Usage(
        since=min(filter(None, (saved.since, more.since)), default=""),
        day=saved.day,
        today=saved.today,
        total=_sum(saved.total, {kind: count for kind, count in earlier.items() if count}),
    )
    return with_earlier.plus(more.day, more.today)
