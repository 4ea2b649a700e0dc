"""The journal of a save volume in a bucket: one cell that says who its producer is and what records there are.

Each publication is one swap of this cell by the producer, so whoever takes the save volume over, by a swap of the same
cell, fences the one before (invariant 8). The value holds the newest *entries* (which bundles came, with their records;
which records went) and names a *checkpoint* object with the whole index up to entry ``base``. A reader that is not far
behind applies the entries it lacks; one that is, or a new one, begins with the checkpoint. Nobody needs a LIST.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from xxhash import xxh3_64_intdigest

from replkit.errors import (
    CorruptRecordError,
    FencedError,
    InvalidArgumentError,
    NotFoundError,
    RecordMissingError,
    SaveVolumeBusyError,
    StoreUnavailableError,
    SwapConflictError,
)
from replkit.objectstore.cells import CellStore
from replkit.objectstore.host import Host
from replkit.objectstore.store import ObjectStore

CELL = "journal"
OWN_PREFIX = "own"
"""The journal's cell is under this prefix, apart from the cells of users."""
LOG_BYTES = 64 << 10
"""When the entries have grown beyond this size, a checkpoint is written and half of them are kept."""
FORMAT = 1
_ATTEMPTS = 8


class BundleEntry(msgspec.Struct, frozen=True, array_like=True):
    """Records of one bundle: ``(key, offset, size, XXH3-64)``. ``size`` is that of the whole object."""

    name: str
    size: int
    records: list[tuple[str, int, int, int]]


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One publication: first ``deleted`` goes, then the records of ``bundles`` come, replacing any of the same key."""

    bundles: list[BundleEntry]
    deleted: list[str]


class Owner(msgspec.Struct, frozen=True, array_like=True):
    """The producer: its tag is in the keys of all that it writes."""

    tag: str
    place: str
    is_open: bool


class Checkpoint(msgspec.Struct, frozen=True, array_like=True):
    """Names the object with an ``Entry`` of all records."""

    key: str
    size: int
    checksum: int


class JournalValue(msgspec.Struct, frozen=True, kw_only=True):
    """What the cell holds. The entries are those up to number ``sequence``; some may be of ``base`` or before."""

    format: int = FORMAT
    identity: bytes
    capacity_bytes: int
    owner: Owner
    writers: list[str] = []
    """Tags of producers whose objects may be there, this one's last."""
    sequence: int = 0
    base: int = 0
    checkpoint: Checkpoint | None = None
    entries: list[Entry] = []


_decoder = msgspec.msgpack.Decoder(JournalValue)
_entry_decoder = msgspec.msgpack.Decoder(Entry)


class Journal:
    """One opener's hold of the journal: ``value`` is what it saw or wrote last."""

    value: JournalValue
    version = 0

    def __init__(self, store: ObjectStore, random_bytes: Callable[[int], bytes]) -> None:
        self._store = store
        self._cells = CellStore(store, OWN_PREFIX, random_bytes)
        self.tag = random_bytes(8).hex()
        self._checkpoints = 0
        self._is_in_doubt = False
        self.must_append = False
        """True until a swap succeeded after one in doubt, so that the doubtful one cannot come late any more."""
        self.dead: list[str] = []
        """Keys of checkpoints that nothing names any more."""

    # -- reading --

    def load(self) -> bool:
        """Read the cell; whether it has changed. ``NotFoundError`` if there is no save volume here."""
        before = self.version
        self.value, self.version = self._read()
        return self.version != before

    def _read(self) -> tuple[JournalValue, int]:
        cell = self._cells.load(CELL)
        if not cell.version:
            raise NotFoundError(f"{self._store.url}: no save volume is here", hint="open it with create")
        if self.version == cell.version:
            return self.value, self.version
        try:
            value = _decoder.decode(cell.value)
        except msgspec.MsgspecError as error:
            raise CorruptRecordError(f"{self._store.url}: the journal cannot be understood: {error}") from error
        if value.format != FORMAT or value.sequence - value.base > len(value.entries):
            raise CorruptRecordError(f"{self._store.url}: the journal has format {value.format}, or lacks entries")
        return value, cell.version

    def changes_since(self, sequence: int) -> tuple[bool, list[Entry]]:
        """Entries after number ``sequence``; with True when they begin from nothing, with a checkpoint."""
        for _ in range(_ATTEMPTS):
            value = self.value
            missing = value.sequence - sequence
            if 0 <= missing <= len(value.entries):
                return False, value.entries[len(value.entries) - missing :]
            newer = value.entries[len(value.entries) - (value.sequence - value.base) :]
            if value.checkpoint is None:
                return True, newer
            try:
                return True, [self._read_checkpoint(value.checkpoint), *newer]
            except RecordMissingError as error:
                if not self.load():
                    raise CorruptRecordError(f"{self._store.url}: the checkpoint of the journal is lost") from error
        raise StoreUnavailableError(f"{self._store.url}: the journal changes faster than it can be read")

    def _read_checkpoint(self, named: Checkpoint) -> Entry:
        for _ in range(2):  # a second time if the first came damaged: it may have been the way
            data = self._store.get(named.key)
            if len(data) == named.size and xxh3_64_intdigest(data) == named.checksum:
                return _entry_decoder.decode(data)
        raise CorruptRecordError(f"{self._store.url}: {named.key}: the checkpoint of the journal is damaged")

    # -- the producer --

    def claim(self, host: Host, *, capacity_bytes: int | None, default_bytes: int, create: bool, force: bool) -> None:
        """Become the producer: whoever was it before is fenced from here on.

        ``SaveVolumeBusyError`` while one that is not certainly gone has it open, unless ``force``.
        """
        for _ in range(_ATTEMPTS):
            try:
                self.load()
            except NotFoundError:
                if not create:
                    raise
                self.version = 0
                size = capacity_bytes or default_bytes
                new = JournalValue(identity=host.random_bytes(16), capacity_bytes=size, owner=self._me(host))
            else:
                self._check(host, capacity_bytes, force=force)
                new = msgspec.structs.replace(self.value, owner=self._me(host))
            try:
                self._swap(msgspec.structs.replace(new, writers=[*new.writers, self.tag]))
                return
            except SwapConflictError:
                continue  # somebody else was quicker: look who
        raise StoreUnavailableError(f"{self._store.url}: the journal changes faster than it can be claimed")

    def _me(self, host: Host) -> Owner:
        return Owner(self.tag, host.place, is_open=True)

    def _check(self, host: Host, capacity_bytes: int | None, *, force: bool) -> None:
        owner = self.value.owner
        if capacity_bytes not in {None, self.value.capacity_bytes}:
            raise InvalidArgumentError(
                f"{self._store.url}: has {self.value.capacity_bytes} bytes, not {capacity_bytes}"
            )
        if owner.is_open and not force and not host.has_ended(owner.place, owner.tag):
            raise SaveVolumeBusyError(
                f"{self._store.url}: is open as producer at {owner.place}",
                hint="if that machine is lost, open it with ?takeover=yes: it is fenced then",
            )

    def append(self, entry: Entry, everything: Callable[[], Entry]) -> None:
        """Publish an entry; ``everything`` gives the whole index with it, for a checkpoint.

        ``FencedError`` if another producer has taken over. After ``StoreUnavailableError`` call ``reconcile`` first.
        """
        old = self.value
        number, entries = old.sequence + 1, [*old.entries, entry]
        new = msgspec.structs.replace(old, sequence=number, entries=entries)
        if len(msgspec.msgpack.encode(entries)) > LOG_BYTES:
            new = msgspec.structs.replace(
                new, base=number, checkpoint=self._write_checkpoint(everything()), entries=_newest(entries)
            )
        self._swap_as_owner(new)
        if old.checkpoint is not None and new.checkpoint != old.checkpoint:
            self.dead.append(old.checkpoint.key)

    def _write_checkpoint(self, entry: Entry) -> Checkpoint:
        data = msgspec.msgpack.encode(entry)
        self._checkpoints += 1
        key = f"index/{self.tag}/{self._checkpoints:08d}"
        self._store.put(key, [data])
        return Checkpoint(key, len(data), xxh3_64_intdigest(data))

    def reconcile(self) -> tuple[bool, list[Entry]]:
        """After a publication whose outcome is unknown: what it has published after all, as ``changes_since``."""
        if not self._is_in_doubt:
            return False, []
        known = self.value.sequence
        self.check_owner()
        self.load()
        self._is_in_doubt = False
        return self.changes_since(known)

    def check_owner(self) -> None:
        """``FencedError`` if another producer has taken over. Changes nothing, so any thread may ask."""
        owner = self._read()[0].owner
        if owner.tag != self.tag:
            raise FencedError(
                f"{self._store.url}: the producer at {owner.place} has taken this save volume over",
                hint="this one must not write to it any more; open it again only when the other is closed",
            )

    def forget_writers(self, tags: Sequence[str]) -> None:
        """Nothing of these producers is there any more."""
        kept = [tag for tag in self.value.writers if tag not in tags]
        if kept != self.value.writers:
            self._swap_as_owner(msgspec.structs.replace(self.value, writers=kept))

    def release(self, host: Host) -> None:
        """Give the producer's place back."""
        self._swap_as_owner(msgspec.structs.replace(self.value, owner=Owner(self.tag, host.place, is_open=False)))

    def _swap_as_owner(self, new: JournalValue) -> None:
        try:
            self._swap(new)
        except SwapConflictError:
            self._is_in_doubt = self.must_append = True  # unless fenced, an earlier swap of ours came late
            self.check_owner()
            raise
        except StoreUnavailableError:
            self._is_in_doubt = self.must_append = True
            raise
        self.must_append = False

    def _swap(self, new: JournalValue) -> None:
        self.version = self._cells.swap(CELL, msgspec.msgpack.encode(new), self.version)
        self.value = new


def _newest(entries: list[Entry]) -> list[Entry]:
    """The last entries that are half a log together, for readers that are close behind."""
    kept: list[Entry] = []
    size = 0
    for entry in reversed(entries):
        size += len(msgspec.msgpack.encode(entry))
        if size > LOG_BYTES // 2:
            break
        kept.insert(0, entry)
    return kept
