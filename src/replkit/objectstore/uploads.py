"""The bundles of a producer: filling them, and bringing them to the store beside the callers, in bounded memory."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from replkit.contracts.runtime import Condition
from replkit.contracts.savevolume import Partition
from replkit.errors import StorageError
from replkit.objectstore.bundle import Bundle, Place, encode_bundle
from replkit.objectstore.host import Host
from replkit.objectstore.store import ObjectStore

MAX_PENDING_BYTES = 40 << 20
"""A put waits while more is on its way to the store: four uploads of full bundles at a time, and one that fills."""

_log = logging.getLogger(__name__)


class Uploads:
    """All bundles by name. Methods that end in ``_locked`` are called with ``changed`` held, the others without.

    Before-images have bundles of their own: they go with their snapshot, sets and lists with time.
    """

    def __init__(self, store: ObjectStore, host: Host, tag: str, identity: bytes) -> None:
        self._store, self._host, self._tag, self._identity = store, host, tag, identity
        self.changed: Condition = host.condition()
        self.bundles: dict[str, Bundle] = {}
        self._open: dict[bool, Bundle] = {}
        self._count = 0
        self._pending_bytes = 0
        self.uploaded_bytes = 0
        """Of records that came to be durable so far."""

    def add_locked(self, key: str, data: bytes, checksum: int) -> Place:
        """Put a record into an open bundle. Call ``start`` after the lock was given back."""
        lane = key.startswith(f"{Partition.AREAS}/")
        bundle = self._open.get(lane)
        if bundle is not None and not bundle.takes(len(data)):
            bundle.is_sealed = True
            bundle = None
        if bundle is None or bundle.is_sealed:
            self._count += 1
            bundle = Bundle(f"{self._tag}/{self._count:08d}", data={})
            self._open[lane] = self.bundles[bundle.name] = bundle
        self._pending_bytes += len(data)
        place = bundle.add(key, data, checksum)
        bundle.is_sealed = not bundle.takes(0)
        return place

    def seal_locked(self) -> list[Bundle]:
        """Close the open bundles; all those that are not durable."""
        self._open.clear()
        waiting = [bundle for bundle in self.bundles.values() if not bundle.is_durable]
        for bundle in waiting:
            bundle.is_sealed = True
        return waiting

    def find_locked(self, place: Place) -> bytes | None:
        """A record that is still in memory."""
        bundle = self.bundles.get(place.bundle)
        return None if bundle is None or bundle.data is None else bundle.data[place.offset]

    def start(self) -> None:
        """Upload what is sealed, unless that runs already."""
        with self.changed:
            ready = [
                bundle for bundle in self.bundles.values()
                if bundle.is_sealed and not bundle.is_durable and not bundle.is_running and bundle.failure is None
            ]  # fmt: skip
            for bundle in ready:
                bundle.is_running = True
        for bundle in ready:
            self._host.run(lambda bundle=bundle: self._upload(bundle))  # type: ignore[misc]

    def _upload(self, bundle: Bundle) -> None:
        failure: Exception | None = None
        with self.changed:
            wanted = bool(bundle.live)
            bundle.was_tried = bundle.was_tried or wanted
        try:
            if wanted:
                parts = encode_bundle(self._identity, bundle)
                self._store.put(bundle.key, parts)
                bundle.size = sum(len(part) for part in parts)
        except Exception as error:  # whatever the store raises: those who wait for the bundle raise it
            failure = error
        with self.changed:
            bundle.is_running, bundle.failure = False, failure
            if failure is None:
                done = sum(len(data) for data in (bundle.data or {}).values())
                self._pending_bytes -= done
                self.uploaded_bytes += done
                bundle.data, bundle.records = None, []
                if not bundle.was_tried:
                    self.bundles.pop(bundle.name, None)
            self.changed.notify_all()
        if failure is not None:
            _log.warning("%s: %s is not uploaded: %s", self._store.url, bundle.key, failure)
        else:
            self.on_durable()

    def on_durable(self) -> None:
        """Called after each upload, without the lock; set by the owner."""

    def wait_for_room(self) -> None:
        """Wait while too much is on its way; if nothing runs, raise what keeps it there, which is then tried again."""
        with self.changed:
            while self._pending_bytes > MAX_PENDING_BYTES and self._runs_any():
                self.changed.wait()
            stuck = self._pending_bytes > MAX_PENDING_BYTES
            failed = [bundle for bundle in self.bundles.values() if stuck and bundle.failure is not None]
            failures = [bundle.failure for bundle in failed]
            for bundle in failed:
                bundle.failure = None
        for failure in failures:
            raise failure or StorageError

    def _runs_any(self) -> bool:
        return any(bundle.is_running for bundle in self.bundles.values())

    def wait_for(self, bundles: Iterable[Bundle]) -> None:
        """Wait until these are durable; raise what kept one of them from it. They can be tried again after that."""
        waiting = list(bundles)
        with self.changed:
            while any(bundle.is_running for bundle in waiting):
                self.changed.wait()
            failed = [bundle for bundle in waiting if bundle.failure is not None]
            failures = [bundle.failure for bundle in failed]
            for bundle in failed:
                bundle.failure = None
        for failure in failures:
            raise failure or StorageError

    def settle(self) -> None:
        """Wait until nothing runs."""
        with self.changed:
            while self._runs_any():
                self.changed.wait()

    def take_needless_locked(self) -> list[str]:
        """Keys of objects that nothing names any more; their bundles are forgotten."""
        needless = [
            bundle for bundle in self.bundles.values()
            if bundle.is_needless and bundle.is_sealed and not bundle.is_running
        ]  # fmt: skip
        for bundle in needless:
            del self.bundles[bundle.name]
            if bundle.data is not None:
                self._pending_bytes -= sum(len(data) for data in bundle.data.values())
        return [bundle.key for bundle in needless if bundle.was_tried]
