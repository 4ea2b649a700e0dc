"""Which objects of a save volume go, and which records move so that an object can go."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from replkit.errors import StoreUnavailableError
from replkit.objectstore.bundle import Bundle, Place
from replkit.objectstore.journal import Journal
from replkit.objectstore.recordindex import RecordIndex
from replkit.objectstore.store import ObjectStore

LOW_SHARE_PERCENT = 40
"""What is left in a bundle is moved when less of it than this is in use."""
SMALL_BYTES = 256 << 10
MANY_SMALL = 48
"""So many bundles smaller than ``SMALL_BYTES`` are joined."""
MOVE_BYTES = 4 << 20
"""As much is moved at a time."""

_log = logging.getLogger(__name__)


def pick_movable(bundles: Iterable[Bundle], live: RecordIndex) -> list[tuple[str, Place]]:
    """Records to move, with their places now; each bundle that is begun is moved as a whole."""
    durable = [bundle for bundle in bundles if bundle.is_durable and bundle.live and not bundle.is_damaged]
    chosen = [bundle for bundle in durable if bundle.live_bytes * 100 < bundle.size * LOW_SHARE_PERCENT]
    small = [bundle for bundle in durable if bundle.size < SMALL_BYTES]
    if len(small) >= MANY_SMALL:
        chosen += [bundle for bundle in small if bundle not in chosen]
    elif all(bundle.size < SMALL_BYTES for bundle in chosen):
        return []  # nothing worth a request
    records: list[tuple[str, Place]] = []
    size = 0
    for bundle in chosen:
        if size and size + bundle.live_bytes > MOVE_BYTES:
            break
        size += bundle.live_bytes
        records += [(key, place) for key in bundle.live if (place := live.find(key)) is not None]
    return records


def collect_garbage(store: ObjectStore, journal: Journal, needed: set[str]) -> None:
    """Delete objects of dead producers that no journal names; ``needed`` are names of bundles.

    Only under tags of producers before this one: they are fenced, so nothing of theirs can be named any more, while
    one that takes over from us may already have objects that we do not know of.
    """
    *before, _own = journal.value.writers
    dead = set(before)
    if not dead:
        return
    keys = {f"bundles/{name}" for name in needed}
    if journal.value.checkpoint is not None:
        keys.add(journal.value.checkpoint.key)
    try:
        found = [info.key for folder in ("bundles/", "index/") for info in store.list(folder)]
        ours = [key for key in found if key.split("/")[1] in dead]
        doomed = [key for key in ours if key not in keys]
        if doomed:
            _log.info("%s: %d objects that a dead producer left are deleted", store.url, len(doomed))
            store.delete(doomed)
        # A tag stays until nothing of it was found, and the last one until the next opening at least: a producer that
        # lives and does not know yet that it is fenced may still upload.
        has_objects = {key.split("/")[1] for key in (*ours, *keys)}
        journal.forget_writers(sorted(dead - has_objects - {before[-1]}))
    except StoreUnavailableError as error:
        _log.warning("%s: what dead producers left stays for now: %s", store.url, error)
