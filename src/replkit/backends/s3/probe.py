"""What a store can do, found by trying: before it may fence, it must have shown one winner in a real race.

Some stores accept the condition and do not keep it under load, some ignore it. One call would not tell; 32 threads that
create the same key at the same moment do.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import msgspec

from replkit.backends.s3.url import S3Url
from replkit.errors import AlreadyExistsError, RecordMissingError, ReplkitError, StoreRefusedError
from replkit.objectstore.cells import CellStore
from replkit.objectstore.journal import OWN_PREFIX
from replkit.objectstore.store import ObjectStore

WRITERS = 32
ROUNDS = 10
LIMIT_S = 10.0
"""Some stores need seconds for a round. Opening a save volume then does with fewer, but never with fewer than four."""
_FEWEST_ROUNDS = 4
PROBE_FORMAT = 1
_CELL = "probe"
_SAMPLES = 10
_MIB = 1 << 20

_log = logging.getLogger(__name__)
_passed: set[tuple[str | None, str]] = set()
"""Endpoints and buckets that this process has seen to fence."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was tried. ``needed`` for a save volume; ``follows`` says what its result means."""

    name: str
    passed: bool
    needed: bool
    follows: str
    detail: str = ""


class ProbeReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that was tried, and some latencies in milliseconds (median)."""

    format: int = PROBE_FORMAT
    url: str
    checks: list[Check]
    latency_ms: dict[str, float] = {}

    @property
    def can_fence(self) -> bool:
        """Whether a save volume may be opened there for writing."""
        return all(check.passed for check in self.checks if check.needed)


def probe_store(
    store: ObjectStore, *, writers: int = WRITERS, rounds: int = ROUNDS, limit_s: float | None = None
) -> ProbeReport:
    """Try everything under keys of its own, which are deleted again; the race ends after ``limit_s`` seconds."""
    folder = f"probe/{os.urandom(8).hex()}"
    trials: list[tuple[str, bool, str, Callable[[ObjectStore, str], str]]] = [
        ("creates only", True, "a create-only PUT refuses what is there: cells can be made", _try_create),
        (
            "one winner", True, f"{writers} writers at a time, up to {rounds} rounds: a cell fences",
            lambda store, folder: _race(store, folder, writers, rounds, limit_s),
        ),
        ("reads what was written", True, "reads are never stale: no waiting, no repeated reads", _try_consistency),
        ("ranges", True, "a record is read without its bundle", _try_ranges),
        ("deletes in batches", True, "a thousand objects go with one request", _try_deletes),
        ("lists what was written", False, "LIST is a hint only: nothing depends on it", _try_list),
    ]  # fmt: skip
    checks = []
    for number, (name, needed, follows, trial) in enumerate(trials):
        try:
            detail = trial(store, f"{folder}/{number}")
        except (AlreadyExistsError, RecordMissingError) as error:
            detail = str(error)
        checks.append(Check(name=name, passed=not detail, needed=needed, follows=follows, detail=detail))
    latency_ms = _measure(store, f"{folder}/t")
    store.delete([info.key for info in store.list(f"{folder}/")])
    return ProbeReport(url=store.url, checks=checks, latency_ms=latency_ms)


def require_fencing(
    store: ObjectStore, place: S3Url, *, writers: int = WRITERS, rounds: int = ROUNDS, bare: ObjectStore | None = None
) -> None:
    """Return if the store may fence; ``StoreRefusedError`` else. The answer is remembered, here and in a cell.

    ``bare`` is what is tried where ``store`` limits requests: writers that wait for one another do not race.
    """
    who = (place.endpoint, place.bucket)
    if who in _passed:
        return
    if not place.fencing:
        _log.warning("%s: fencing is off: two producers at a time can destroy this save volume", place.name)
        return
    cells = CellStore(store, OWN_PREFIX, os.urandom)
    if not _remembers(cells.load(_CELL).value):
        report = probe_store(bare or store, writers=writers, rounds=rounds, limit_s=LIMIT_S)
        if not report.can_fence:
            failed = next(check for check in report.checks if check.needed and not check.passed)
            raise StoreRefusedError(
                f"{place.name}: this store cannot fence: {failed.name!r} failed: {failed.detail}",
                hint="use a store with a working If-None-Match, or ?fencing=off if there is only ever one producer",
            )
        save_report(store, report)
    _passed.add(who)


def save_report(store: ObjectStore, report: ProbeReport) -> None:
    """Remember it in a cell, for those who open the save volume later."""
    cells = CellStore(store, OWN_PREFIX, os.urandom)
    try:
        cells.swap(_CELL, msgspec.json.encode(report), cells.load(_CELL).version)
    except ReplkitError as error:  # two may try at a time, and it is only remembered to save time
        _log.info("%s: the result of the probe is not remembered: %s", store.url, error)


def _remembers(value: bytes) -> bool:
    try:
        report = msgspec.json.decode(value, type=ProbeReport)
    except msgspec.MsgspecError:
        return False
    return report.format == PROBE_FORMAT and report.can_fence


def _try_create(store: ObjectStore, key: str) -> str:
    store.put_new(key, b"first")
    try:
        store.put_new(key, b"second")
    except AlreadyExistsError:
        return "" if store.get(key) == b"first" else "the refused create has overwritten the object"
    return "a second create of the same key was accepted"


def _race(store: ObjectStore, folder: str, writers: int, rounds: int, limit_s: float | None) -> str:
    barrier, began_s = threading.Barrier(writers), time.monotonic()

    def write(me: int, key: str) -> int | None:
        barrier.wait()
        try:
            store.put_new(key, b"writer %d" % me)
        except AlreadyExistsError:
            return None
        return me

    with ThreadPoolExecutor(writers) as pool:
        for number in range(rounds):
            key = f"{folder}/{number}"
            answers = [pool.submit(write, me, key) for me in range(writers)]
            won = [me for answer in answers if (me := answer.result()) is not None]
            if len(won) != 1:
                return f"{len(won)} of {writers} writers won round {number + 1}"
            if store.get(key) != b"writer %d" % won[0]:
                return f"round {number + 1} was won by one writer and holds the data of another"
            if limit_s is not None and number + 1 >= _FEWEST_ROUNDS and time.monotonic() - began_s > limit_s:
                break
    return ""


def _try_consistency(store: ObjectStore, folder: str) -> str:
    key = f"{folder}/x"
    for number in range(_SAMPLES):
        for value in (b"old %d" % number, b"new %d" % number):
            store.put(key, [value])
            if store.get(key) != value:
                return "an overwritten object was read with its old value"
        store.delete([key])
        try:
            store.get(key)
        except RecordMissingError:
            continue
        return "a deleted object was still read"
    return ""


def _try_ranges(store: ObjectStore, key: str) -> str:
    store.put(key, [b"0123456789"])
    got = store.get(key, 2, 5), store.get(key, 8, 20), store.get(key, 4), store.get(key, 30, 40)
    return "" if got == (b"234", b"89", b"456789", b"") else f"ranges came as {got}"


def _try_deletes(store: ObjectStore, folder: str) -> str:
    keys = [f"{folder}/{number}" for number in range(_SAMPLES)]
    for key in keys:
        store.put(key, [b"x"])
    store.delete([*keys, f"{folder}/absent"])
    for key in keys:
        try:
            store.get(key)
        except RecordMissingError:
            continue
        return f"{key} is still there after it was deleted"
    return ""


def _try_list(store: ObjectStore, folder: str) -> str:
    for number in range(_SAMPLES):
        store.put(f"{folder}/{number}", [b"x"])
        if len(list(store.list(f"{folder}/"))) != number + 1:
            return "a listing lacked what had just been written"
    return ""


def _measure(store: ObjectStore, folder: str) -> dict[str, float]:
    def take(work: Callable[[int], object], count: int = _SAMPLES) -> float:
        times = []
        for number in range(count):
            began_s = time.perf_counter()
            work(number)
            times.append(time.perf_counter() - began_s)
        return round(median(times) * 1000, 2)

    data = os.urandom(4 * _MIB)
    return {
        "put 1 KiB": take(lambda number: store.put(f"{folder}/{number}", [data[:1024]])),
        "get 1 KiB": take(lambda number: store.get(f"{folder}/{number}")),
        "put 4 MiB": take(lambda number: store.put(f"{folder}/{number}", [data]), 3),
        "get 4 MiB": take(lambda number: store.get(f"{folder}/{number}"), 3),
    }
