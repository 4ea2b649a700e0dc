"""The save volume in a bucket, at its producer (S1, S2).

A put copies the record into an open *bundle* in memory. A full bundle, and at a sync any, is uploaded beside the
callers. A sync, and 64 MiB without one, is published by an entry of the *journal*. So a small set is one object, and a
sync costs one PUT for each lane and one swap. A delete is published with the next entry; an object goes after no
published record is in it: that very swap condemned it. What a crash leaves is objects that nothing names, under the tag
of a dead producer; the next one deletes them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from xxhash import xxh3_64_intdigest

from replkit.contracts.buffers import Buffer
from replkit.contracts.registry import SaveVolumeOptions
from replkit.contracts.savevolume import CellValue, Partition, SaveVolume
from replkit.errors import (
    AlreadyExistsError,
    CorruptRecordError,
    FencedError,
    RecordMissingError,
    ReplkitError,
    SaveVolumeFullError,
    StoreUnavailableError,
    SwapConflictError,
)
from replkit.objectstore.bundle import Place, bundle_key
from replkit.objectstore.cells import CellStore
from replkit.objectstore.garbage import collect_garbage, pick_movable
from replkit.objectstore.host import Host
from replkit.objectstore.journal import Journal
from replkit.objectstore.placing import DEFAULT_CAPACITY_BYTES, quota_bytes, read_place
from replkit.objectstore.published import Published
from replkit.objectstore.recent import RecentRecords
from replkit.objectstore.recordindex import RECORD_OVERHEAD_BYTES, RecordIndex
from replkit.objectstore.store import ObjectStore
from replkit.objectstore.uploads import Uploads

PUBLISH_BYTES = 64 << 20
"""When as much was uploaded without a sync it is published, so that a crash costs no more of a set that arrives."""
_ATTEMPTS = 5

_log = logging.getLogger(__name__)


class ObjectSaveVolume(SaveVolume):
    """The producer. ``takeover`` opens it although another one has it open, and fences that one.

    The quotas count records, not objects: the bucket holds up to two and a half times as much, while deleted records
    lie between living ones.
    """

    def __init__(self, store: ObjectStore, options: SaveVolumeOptions, host: Host, *, takeover: bool = False) -> None:
        self._store, self._host, self.url = store, host, store.url
        self._cells = CellStore(store, "", host.random_bytes)
        self._journal = Journal(store, host.random_bytes)
        self._fence: FencedError | None = None
        self._live = RecordIndex()
        self._changed_keys: set[str] = set()
        self._condemned: list[str] = []
        self._is_publishing = False
        self._publications = self._published_bytes = 0
        self._syncing = 0
        self._recent = RecentRecords()
        self._is_moving = self._is_closed = False
        host.hold(self._journal.tag)
        try:
            self._journal.claim(
                host,
                capacity_bytes=options.capacity_bytes,
                default_bytes=DEFAULT_CAPACITY_BYTES,
                create=options.create,
                force=takeover,
            )
            self._recover()
            host.repeat(self.flush_idle)
        except BaseException:
            host.release(self._journal.tag)
            raise

    def _recover(self) -> None:
        journal = self._journal
        self._uploads = Uploads(self._store, self._host, journal.tag, journal.value.identity)
        self._uploads.on_durable = self._on_durable  # type: ignore[method-assign]
        self._changed = self._uploads.changed
        self._published = Published(self._uploads.bundles)
        for entry in journal.changes_since(-1)[1]:
            self._published.apply(entry)
        for key, place in self._published.index.items():
            self._live.set(key, place)
            self._uploads.bundles[place.bundle].use(key, place.size)
        for bundle in list(self._uploads.bundles.values()):
            bundle.is_sealed = bundle.was_tried = True
            if bundle.is_needless:
                del self._uploads.bundles[bundle.name]  # condemned; deleted below unless it was
        collect_garbage(self._store, journal, set(self._uploads.bundles))

    # -- records --

    @property
    def requests(self) -> Mapping[str, int]:
        """Requests and bytes by kind since it was opened."""
        return self._store.requests

    def _check(self) -> None:
        if self._fence is not None:
            raise FencedError(self._fence.message, hint=self._fence.hint)

    def capacity_bytes(self, partition: Partition) -> int:
        """The partition's share."""
        return quota_bytes(self._journal.value.capacity_bytes, partition)

    def used_bytes(self, partition: Partition) -> int:
        """Its records, and their lines in the journal."""
        return self._live.used_bytes(partition)

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Copy the record; wait only while 40 MiB are on their way to the store, and raise what keeps them there."""
        self._uploads.wait_for_room()
        data = b"".join(memoryview(part) for part in parts)
        checksum = xxh3_64_intdigest(data)
        partition = Partition(key.partition("/")[0])
        with self._changed:
            self._check()
            if self._live.find(key) is not None:
                raise AlreadyExistsError(f"{self.url}: {key} is already there")
            used = self._live.used_bytes(partition) + len(data) + RECORD_OVERHEAD_BYTES
            if used > self.capacity_bytes(partition):
                raise SaveVolumeFullError(
                    f"{self.url}: no room for the {len(data)} bytes of {key} in partition {partition}"
                )
            self._live.set(key, self._uploads.add_locked(key, data, checksum))
            self._changed_keys.add(key)
            self._recent.add(key, data)
        self._uploads.start()

    def get(self, key: str, start: int = 0, stop: int | None = None) -> memoryview:
        """From memory while it is on its way, else a ranged GET."""
        place = self._place(key)
        for _ in range(_ATTEMPTS):
            with self._changed:
                pending = self._uploads.find_locked(place) if place.size else b""
            if pending is not None:
                return memoryview(pending)[start:stop]
            try:
                data = read_place(self._store, place, start, stop)
            except RecordMissingError:
                data = None
            before, place = place, self._place(key)
            if data is not None:
                return memoryview(data)
            if place == before:  # else it was moved while it was read
                break
        raise CorruptRecordError(f"{self.url}: {key}: its bytes in {bundle_key(place.bundle)} are lost or damaged")

    def recall(self, key: str) -> memoryview | None:
        """What was put a short while ago, without a request."""
        with self._changed:
            data = self._recent.take(key)
        return None if data is None else memoryview(data)

    def _place(self, key: str) -> Place:
        place = self._live.find(key)
        if place is None:
            raise RecordMissingError(f"{self.url}: no record {key}")
        return place

    def size_bytes(self, key: str) -> int:
        """From the index."""
        return self._place(key).size

    def delete(self, keys: Iterable[str]) -> None:
        """Forget records; published with the next sync, or the next bundle that is full."""
        with self._changed:
            self._check()
            for key in keys:
                place = self._live.remove(key)
                if place is not None:
                    self._uploads.bundles[place.bundle].unuse(key)
                    self._changed_keys.add(key)
                    self._recent.remove(key)

    def list(self, prefix: str) -> Sequence[str]:
        """From the index."""
        with self._changed:
            return list(self._live.list(prefix))

    # -- publication --

    def sync(self) -> None:
        """Upload all that is open and publish it; those who come meanwhile share the next publication."""
        with self._changed:
            self._check()
            waiting = self._uploads.seal_locked()
            self._syncing += 1
        try:
            self._uploads.start()
            self._uploads.wait_for(waiting)
            self._publish()
        finally:
            with self._changed:
                self._syncing -= 1
        self._begin_moving()

    def flush_idle(self) -> None:
        """Begin to upload what was put and not synced, for readers; called now and then by the backend.

        What was only deleted waits for the next publication: it costs a swap, and nobody waits for it.
        """
        with self._changed:
            was_put = any(self._live.find(key) is not None for key in self._changed_keys)
            waits = was_put and self._fence is None and not self._is_closed
            if waits:
                self._uploads.seal_locked()
        if waits:
            self._uploads.start()
            self._publish_quietly()

    def _on_durable(self) -> None:
        if self._uploads.uploaded_bytes - self._published_bytes >= PUBLISH_BYTES:
            self._publish_quietly()

    def _publish_quietly(self) -> None:
        """Publish for readers' sake; who needs it for sure syncs and gets the error."""
        with self._changed:
            if self._is_publishing or self._syncing or self._is_closed or self._fence is not None:
                return
        try:
            self._publish()
        except ReplkitError as error:
            _log.info("%s: not published yet: %s", self.url, error)

    def _publish(self) -> None:
        """Return when the changes of before the call, as far as they are durable, are in the journal."""
        with self._changed:
            wanted = self._publications + (2 if self._is_publishing else 1)
            while self._is_publishing and self._publications < wanted:
                self._changed.wait()
            self._check()
            if self._publications >= wanted:
                return
            self._is_publishing = True
        try:
            for attempt in range(_ATTEMPTS):
                try:
                    self._publish_once()
                    break
                except SwapConflictError:  # an earlier swap of ours came late
                    if attempt == _ATTEMPTS - 1:
                        raise
        except FencedError as error:
            self._fence = error
            raise
        else:
            with self._changed:
                self._publications += 1
        finally:
            with self._changed:
                self._is_publishing = False
                self._changed.notify_all()
        self._delete_condemned()

    def _publish_once(self) -> None:
        is_full, came = self._journal.reconcile()
        with self._changed:
            self._published.adopt(came, from_nothing=is_full)
            changed = list(self._changed_keys)
            uploaded_bytes = self._uploads.uploaded_bytes
            entry, settled = self._published.difference(self._live, changed)
        if entry.bundles or entry.deleted or self._journal.must_append:
            self._journal.append(entry, lambda: self._published.everything(entry))
        with self._changed:
            self._published.apply(entry)
            self._published_bytes = uploaded_bytes
            for key in settled:
                new, old = self._live.find(key), self._published.index.find(key)
                if new == old:  # else it has changed again meanwhile
                    self._changed_keys.discard(key)
            self._condemned += [*self._uploads.take_needless_locked(), *self._journal.dead]
            self._journal.dead.clear()

    def _delete_condemned(self) -> None:
        with self._changed:
            keys, self._condemned = self._condemned, []
        if keys:
            try:
                self._store.delete(keys)
            except StoreUnavailableError:  # with the next publication, or by the next producer
                with self._changed:
                    self._condemned += keys

    # -- moving what is left in bundles that are mostly dead --

    def _begin_moving(self) -> None:
        with self._changed:
            if self._is_moving or self._is_closed:
                return
            records = pick_movable(self._uploads.bundles.values(), self._live)
            self._is_moving = bool(records)
        if records:
            self._host.run(lambda: self._move(records))

    def _move(self, records: Sequence[tuple[str, Place]]) -> None:
        try:
            for key, place in records:
                self._move_one(key, place)
        except ReplkitError as error:  # the rest with a later sync
            _log.info("%s: records are not moved yet: %s", self.url, error)
        finally:
            with self._changed:
                self._is_moving = False
                self._changed.notify_all()

    def _move_one(self, key: str, place: Place) -> None:
        with self._changed:
            data = self._recent.small(key)
        try:
            data = data or read_place(self._store, place, 0, None)
        except RecordMissingError:
            data = None
        with self._changed:
            old = self._uploads.bundles.get(place.bundle)
            if old is None or self._live.find(key) != place:
                return  # deleted meanwhile
            if data is None:
                old.is_damaged = True  # stays as it is, for the scrub to find
                return
            old.unuse(key)
            self._live.set(key, self._uploads.add_locked(key, data, place.checksum))
            self._changed_keys.add(key)
        self._uploads.start()

    # -- cells --

    def load(self, cell: str) -> CellValue:
        """Two requests if it has not changed."""
        return self._cells.load(cell)

    def swap(self, cell: str, value: bytes, expected_version: int) -> int:
        """Refused to a producer that was fenced; a swap of its own that is under way then may still win."""
        self._check()
        try:
            self._journal.check_owner()
        except FencedError as error:
            self._fence = error
            raise
        return self._cells.swap(cell, value, expected_version)

    def cells(self, prefix: str = "") -> Sequence[str]:
        """By LIST."""
        return self._cells.cells(prefix)

    def close(self) -> None:
        """Wait for what is on its way, then give the producer's place back. What was not synced may be lost."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
        self._uploads.settle()
        with self._changed:
            while self._is_publishing or self._is_moving:
                self._changed.wait()
        try:
            if self._fence is None:
                self._journal.reconcile()
                self._journal.release(self._host)
        except (FencedError, StoreUnavailableError, SwapConflictError) as error:
            _log.warning("%s: the producer's place is not given back: %s", self.url, error)
        finally:
            self._host.release(self._journal.tag)
            self._host.close()
            self._store.close()
