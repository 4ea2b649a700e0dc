"""What lies between a save volume or volume and boto3: encryption, counting, limits, as the URL asks for them."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

from replkit.backends.s3.host import ThreadRuntime
from replkit.backends.s3.keyfile import key_path, read_keys
from replkit.backends.s3.probe import require_fencing
from replkit.backends.s3.store import S3ObjectStore
from replkit.backends.s3.url import S3Url
from replkit.objectstore.cells import CellStore
from replkit.objectstore.encrypted import EncryptedStore
from replkit.objectstore.journal import OWN_PREFIX
from replkit.objectstore.metered import USAGE_CELL, MeteredStore, Usage, decode_usage
from replkit.objectstore.store import ObjectStore
from replkit.objectstore.throttled import Bandwidth, Slots, ThrottledStore, parse_limit

_lock = threading.Lock()
_bandwidths: weakref.WeakValueDictionary[tuple[str, ...], Bandwidth] = weakref.WeakValueDictionary()
_slots: weakref.WeakValueDictionary[tuple[str, ...], Slots] = weakref.WeakValueDictionary()
_meters: weakref.WeakSet[MeteredStore] = weakref.WeakSet()


def open_store(place: S3Url, *, writes: bool, probes: bool = True) -> ObjectStore:
    """The store that ``place`` names. One that ``writes`` has shown that it can fence, unless not ``probes``.

    What is counted is what goes over the line, after compression and encryption. A daemon keeps its own ledger; with
    ``metered`` usage is kept in the bucket as well, whoever writes.
    """
    keys = read_keys(key_path(place.encrypt)) if place.encrypt else None
    runtime = ThreadRuntime()
    bare = S3ObjectStore(place)
    try:
        meter = MeteredStore(_throttled(bare, place, runtime), runtime)
        store: ObjectStore = meter
        if keys is not None:
            store = EncryptedStore(meter, keys, os.urandom, place=place.prefix)
        if writes:
            if probes:
                require_fencing(store, place, bare=bare)
            if place.metered:
                meter.keep_in(CellStore(store, OWN_PREFIX, os.urandom))
    except BaseException:
        bare.close()
        raise
    with _lock:
        _meters.add(meter)
    return store


def _throttled(bare: S3ObjectStore, place: S3Url, runtime: ThreadRuntime) -> ObjectStore:
    """Stores of one bucket with the same limit share it, in this process."""
    if not (place.limit or place.limit_down or place.requests):
        return bare
    whose = (place.endpoint or "", place.bucket)
    with _lock:
        up = _bandwidth((*whose, "up", place.limit), runtime)
        down = _bandwidth((*whose, "down", place.limit_down or place.limit), runtime)
        slots = None
        if place.requests:
            name = (*whose, str(place.requests))
            slots = _slots.get(name) or Slots(place.requests, runtime)
            _slots[name] = slots
    return ThrottledStore(bare, up=up, down=down, slots=slots)


def _bandwidth(name: tuple[str, ...], runtime: ThreadRuntime) -> Bandwidth | None:
    if not name[-1]:
        return None
    bandwidth = _bandwidths.get(name) or Bandwidth(parse_limit(name[-1]), runtime)
    _bandwidths[name] = bandwidth
    return bandwidth


def usage_here() -> dict[str, list[dict[str, Any]]]:
    """Usage of the stores that are open in this process, by ``s3://bucket/prefix``: one for each opener."""
    with _lock:
        meters = list(_meters)
    found: dict[str, list[dict[str, Any]]] = {}
    for meter in meters:
        found.setdefault(meter.url, []).append(meter.usage())
    return found


def saved_usage(place: S3Url) -> Usage:
    """What all openers of ``place`` together have saved there."""
    store = open_store(place, writes=False)
    try:
        value = CellStore(store, OWN_PREFIX, os.urandom).load(USAGE_CELL).value
        return decode_usage(value, f"{store.url}: cell {USAGE_CELL}")
    finally:
        store.close()
