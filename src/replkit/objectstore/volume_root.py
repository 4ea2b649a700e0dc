"""Publication of a bucket volume: one swap of its root cell, which fences; condemned objects, holds and orphans.

What a root does not name does not exist. Objects leave in two steps (``docs/explanation/architecture.md``): a root
condemns them, and after a later swap they are deleted, unless a reader holds a root that is older than their
condemnation. A hold is an object of the reader's own, ``holds/<root version>-<expiry>-<token>``; that it expires by the
clock costs a slow reader at most the typed error ``RecordMissingError``, never wrong data.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from replkit.contracts.runtime import Runtime
from replkit.errors import (
    AlreadyExistsError,
    FencedError,
    NotFoundError,
    RecordMissingError,
    StorageError,
    SwapConflictError,
    VolumeFailedError,
)
from replkit.objectstore.cells import CellStore
from replkit.objectstore.store import ObjectStore
from replkit.objectstore.volume_format import (
    SEQUENCE_BITS,
    Condemned,
    ObjectKind,
    Root,
    Unclean,
    WriterRow,
    decode_root,
    encode_root,
    group_of,
    group_prefix,
)
from replkit.objectstore.volume_objects import Objects

ROOT = "root"
_NEW_GENERATION_AT = 1 << (SEQUENCE_BITS - 1)
_MAX_GENERATION = 1 << 22
_CLAIM_ATTEMPTS = 5
_MANY_UNCLEAN = 8
_GROUP_SEQUENCES = 1 << 12
KINDS: tuple[ObjectKind, ...] = ("data", "map")


def read_root(cells: CellStore, url: str) -> tuple[Root, int]:
    """The newest root and its version; ``NotFoundError`` where there is no volume."""
    value, version = cells.load(ROOT)
    if not value:
        raise NotFoundError(f"{url}: holds no volume", hint="open it with create")
    return decode_root(value, f"{url}: root {version}"), version


def create_root(cells: CellStore, url: str, root: Root, runtime: Runtime) -> int:
    """Make the first root, owned by this writer; ``AlreadyExistsError`` where there is one."""
    _take(root, runtime)
    try:
        return cells.swap(ROOT, encode_root(root), 0)
    except SwapConflictError as error:
        raise AlreadyExistsError(f"{url}: holds a volume already") from error


def claim_root(cells: CellStore, url: str, runtime: Runtime, *, site: str, epoch: int | None) -> tuple[Root, int]:
    """Swap a fresh owner into the root, so that whoever owned it before publishes nothing more (invariant 8).

    ``FencedError`` where the root has a higher epoch, or another site's token and no lower epoch.
    """
    for _ in range(_CLAIM_ATTEMPTS):
        root, version = read_root(cells, url)
        mine = root.epoch if epoch is None else epoch
        if mine < root.epoch or (site and root.site and site != root.site and mine == root.epoch):
            raise FencedError(
                f"{url}: belongs to site {root.site or 'without a name'} with epoch {root.epoch}; this one has {mine}",
                hint="promote this site before it writes",
            )
        old = root.writers[root.generation]
        root.unclean = (*root.unclean, Unclean(root.generation, old.tag, root.next_sequence))
        root.site, root.epoch = site or root.site, mine
        _take(root, runtime)
        with suppress(SwapConflictError):  # another opener was first: its owner gives way to ours
            return root, cells.swap(ROOT, encode_root(root), version)
    raise FencedError(f"{url}: other openers take the volume again and again", hint="find out who else writes to it")


def _take(root: Root, runtime: Runtime) -> None:
    """Put a new owner, with a generation of its own, into the root."""
    root.owner = runtime.random_bytes(8).hex()
    root.generation += 1
    if root.generation >= _MAX_GENERATION:
        raise VolumeFailedError("the volume was opened too often for its object numbers", hint="copy it to a new one")
    root.next_sequence = 0
    root.writers = {**_needed_writers(root), root.generation: WriterRow(runtime.random_bytes(4).hex(), 0)}


def _needed_writers(root: Root) -> dict[int, WriterRow]:
    unclean = {entry.generation for entry in root.unclean}
    return {
        generation: row
        for generation, row in root.writers.items()
        if row.objects or generation in unclean or generation == root.generation
    }


class Publisher:
    """Publishes the root of one writer. The caller makes its calls one at a time."""

    def __init__(self, objects: Objects, cells: CellStore, version: int) -> None:
        self._objects = objects
        self._cells = cells
        self._condemned: dict[ObjectKind, list[int]] = {"data": [], "map": []}
        self.version = version

    def condemn(self, kind: ObjectKind, numbers: list[int]) -> None:
        """The next root does not name these objects any more."""
        self._condemned[kind] += numbers

    def _fenced(self) -> FencedError:
        url = self._objects.store.url
        return FencedError(f"{url}: another owner has taken the volume", hint="open it again after a promotion")

    @contextmanager
    def owning(self) -> Iterator[None]:
        """Where an object is missing because another owner has deleted it, say ``FencedError``."""
        try:
            yield
        except RecordMissingError as error:
            if self._cells.is_current(ROOT, self.version):
                raise
            raise self._fenced() from error

    def publish(self) -> None:
        """Swap the root in, durably, then delete what an earlier one condemned.

        A crash before the swap leaves the old state and orphans, one after it the new state. ``FencedError`` when
        another owner has swapped it.
        """
        objects, root = self._objects, self._objects.root
        row = root.writers[root.generation]
        fresh = WriterRow(row.tag, row.objects + objects.next_sequence - root.next_sequence)
        root.writers = {**root.writers, root.generation: fresh}
        root.next_sequence = objects.next_sequence
        if root.next_sequence >= _NEW_GENERATION_AT:
            _take(root, objects.runtime)
            objects.restart_sequence()
        root.writers = _needed_writers(root)
        version = self.version + 1
        root.condemned += tuple(
            Condemned(version, kind, tuple(numbers)) for kind, numbers in self._condemned.items() if numbers
        )
        try:
            self.version = self._cells.swap(ROOT, encode_root(root), self.version)
        except SwapConflictError as error:
            raise self._fenced() from error
        self._condemned = {"data": [], "map": []}
        self._delete_condemned()

    def _delete_condemned(self) -> None:
        """Delete what no root since an earlier swap names and no hold protects. What fails is left for later."""
        root = self._objects.root
        due = [entry for entry in root.condemned if entry.version < self.version]
        if not due:
            return
        with suppress(StorageError):
            oldest = oldest_hold(self._objects.store, self._objects.runtime.now(), self.version)
            due = [entry for entry in due if entry.version <= oldest]
            keys = [self._objects.key(entry.kind, number) for entry in due for number in entry.numbers]
            self._objects.store.delete(keys)
            gone = set(due)
            root.condemned = tuple(entry for entry in root.condemned if entry not in gone)
            writers = dict(root.writers)
            for number in (number for entry in due for number in entry.numbers):
                row = writers[number >> SEQUENCE_BITS]
                writers[number >> SEQUENCE_BITS] = WriterRow(row.tag, row.objects - 1)
            root.writers = writers

    def clean(self) -> None:
        """Delete the objects that earlier writers put and never published. What fails is left for a later opening."""
        root = self._objects.root
        with suppress(StorageError):
            for entry in root.unclean:
                _delete_orphans(self._objects.store, entry)
            is_long = len(root.unclean) >= _MANY_UNCLEAN
            root.unclean = ()
            if is_long:
                self.publish()


def _delete_orphans(store: ObjectStore, entry: Unclean) -> None:
    """Group by group upward, until one is empty: a writer's sequences follow one another."""
    first = group = group_of(entry.first_sequence)
    while True:
        found = [
            (group * _GROUP_SEQUENCES + int(info.key.rpartition("/")[2], 16), info.key)
            for kind in KINDS
            for info in store.list(group_prefix(kind, entry.generation, entry.tag, group))
        ]
        orphans = [key for sequence, key in found if sequence >= entry.first_sequence]
        if orphans:
            store.delete(orphans)
        if not found and group > first:
            return
        group += 1


class Hold:
    """What keeps the objects of one root for one reader, for some time."""

    def __init__(self, store: ObjectStore, runtime: Runtime, version: int, hold_s: float) -> None:
        self._store, self._runtime = store, runtime
        self._version, self._hold_s = version, hold_s
        self._token = runtime.random_bytes(6).hex()
        self._key = ""
        self._renew_at_s = 0.0
        self._lock = runtime.lock()
        if hold_s > 0:
            with suppress(StorageError):  # whoever may only read goes without
                self._put()

    def _put(self) -> None:
        expiry_s = self._runtime.now() + self._hold_s
        before, self._key = self._key, f"holds/{self._version:012x}-{int(expiry_s * 1000):012x}-{self._token}"
        self._renew_at_s = expiry_s - self._hold_s / 2
        self._store.put(self._key, [b"hold"])
        if before:
            self._store.delete([before])

    def renew(self) -> None:
        """Put the hold anew when half of its time is over; a store that fails lets it expire."""
        if self._hold_s > 0 and self._runtime.now() >= self._renew_at_s:
            with self._lock, suppress(StorageError):
                if self._runtime.now() >= self._renew_at_s:
                    self._put()

    def release(self) -> None:
        """Give the objects free."""
        if self._key:
            with suppress(StorageError):
                self._store.delete([self._key])
            self._key = ""


def oldest_hold(store: ObjectStore, now_s: float, version: int) -> int:
    """Version of the oldest root that somebody holds, ``version`` if nobody does; expired holds are deleted."""
    expired = []
    for info in list(store.list("holds/")):
        held, _, rest = info.key.rpartition("/")[2].partition("-")
        try:
            held_version, expiry_s = int(held, 16), int(rest.partition("-")[0], 16) / 1000
        except ValueError:  # not one of ours
            continue
        if expiry_s < now_s:
            expired.append(info.key)
        else:
            version = min(version, held_version)
    if expired:
        store.delete(expired)
    return version
