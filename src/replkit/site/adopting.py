"""A bucket with nobody at home, read from another machine: what is there, and any boundary of it (U3, X2).

Everything is opened read-only, so that looking takes nothing away from a site that has the bucket open. A volume that
is opened for reading stays at the state it met, so it can be the base of a boundary without a snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec

from replkit.backends.s3 import open_s3_volume
from replkit.contracts.position import Position
from replkit.contracts.registry import Registry, VolumeOptions
from replkit.contracts.savevolume import SaveVolume
from replkit.contracts.volume import BlockVolume
from replkit.errors import ConfigError, NotFoundError, RecordMissingError, WrongRoleError
from replkit.objectstore.cache import LocalCache
from replkit.recovery.boundary import Boundaries, Boundary, Moment, Standing, standing_of
from replkit.replication.cells import PLAYING, Playing, Root
from replkit.replication.directory import numbers_between
from replkit.replication.outbox import RootReaderTable
from replkit.replication.root import load_struct, read_root
from replkit.replication.set_reader import SetReader
from replkit.site.buckets import Entry, below, list_entries, open_bucket
from replkit.site.runtime import SiteRuntime
from replkit.snapshot.reader import SnapshotReader
from replkit.snapshot.records import SnapshotRecord

CACHE_BYTES = 4 << 30
_THE_VOLUME = "the-volume"
_ATTEMPTS = 20
_PAUSE_S = 0.5


def find_entries(url: str) -> list[Entry]:
    """The volumes that are listed in a bucket; ``NotFoundError`` where there is none."""
    store = open_bucket(url)
    try:
        entries = list_entries(store)
    finally:
        store.close()
    if not entries:
        raise NotFoundError(f"{store.url}: no volume is listed here", hint="name the prefix of the destination")
    return entries


def pick_entry(entries: list[Entry], name: str | None) -> Entry:
    """The entry of a volume, by name; the only one where none is named."""
    found = [one for one in entries if name in {None, one.place, one.source}]
    if len(found) != 1:
        known = ", ".join(one.place for one in entries)
        raise NotFoundError(f"{name or 'which volume'}: it is not clear which is meant", hint=f"it has: {known}")
    return found[0]


class Adopted:
    """One volume of a bucket, opened for reading; ``close`` it."""

    def __init__(self, registry: Registry, url: str, entry: Entry, cache: BlockVolume | None = None) -> None:
        self.entry = entry
        self._url, self._registry = url, registry
        self._stack, self._runtime = ExitStack(), SiteRuntime()
        self._cache = None if cache is None else LocalCache(cache, self._runtime.lock())
        if cache is not None:
            self._stack.callback(cache.close)
        if self._cache is not None:
            self._stack.callback(self._cache.flush)
        try:
            self._save: SaveVolume = registry.open_save_volume(below(url, entry.place, "save"), producer=False)
            self._stack.callback(self._save.close)
            self.root, self._playing, self._volume = self._open()
        except BaseException:
            self._stack.close()
            raise
        self._stack.callback(self._volume.close)
        self._boundaries = Boundaries(
            self._save, lambda: self.root, self._open_snapshot, lambda _name: None, self._base, self._runtime,
            self._volume.block_count,
        )  # fmt: skip

    def _open(self) -> tuple[Root, Playing | None, BlockVolume]:
        """The volume as it is while its player rests, or in one pass; with the root of just after."""
        for _ in range(_ATTEMPTS):
            before = self._save.load(PLAYING)
            options = VolumeOptions(read_only=True, block_size=self.entry.block_size)
            volume = open_s3_volume(below(self._url, self.entry.place, "volume"), options, cache=self._cache)
            root = read_root(self._save)
            if self._save.load(PLAYING).version == before.version:
                return root, load_struct(self._save, PLAYING, Playing)[0], volume
            volume.close()
            time.sleep(_PAUSE_S)
        raise WrongRoleError(f"{self.entry.place} is played without a pause", hint="try again")

    # --- at which boundaries it stands ---

    @property
    def _standing(self) -> Standing:
        standing = standing_of(self.root, self._playing)
        if standing is None:
            raise NotFoundError(
                f"{self.entry.place} stands at no boundary: a copy or a resync was under way",
                hint="its snapshots, and what its primary has, are all there is",
            )
        return standing

    @property
    def _position(self) -> Position:
        return self._standing.position

    def _base(self, name: str) -> SnapshotRecord:
        """The volume as it was met, as the newest snapshot."""
        return SnapshotRecord(
            id=name, name=_THE_VOLUME, stamp=self._position, at_boundary=True, created_s=self._runtime.now(),
            size_bytes=self._volume.size_bytes, in_use_key="", areas=(),
        )  # fmt: skip

    def _open_snapshot(self, name: str) -> BlockVolume:
        if name == _THE_VOLUME:
            return self._volume
        return SnapshotReader(name, self._volume, self._save, RootReaderTable(self._save))

    def moments(self) -> list[Moment]:
        """All boundaries that can be opened, oldest first."""
        found = {moment.position.number: moment for moment in self._boundaries.moments()}
        if self.root.role == "secondary" and self.root.is_at_boundary:
            reader = SetReader(self._save, lambda: self.root, self._volume.block_count)
            numbers = numbers_between(self.root, self._position.number + 1, self.root.last.number)
            for number in [self._position.number, *numbers]:
                if number >= self._standing.first and number not in found:
                    found[number] = self._moment(reader, number)
        return [found[number] for number in sorted(found)]

    def _moment(self, reader: SetReader, number: int) -> Moment:
        try:
            header = reader.header(number)
        except RecordMissingError:  # the copy itself: its set is not here
            return Moment(self._position, self._runtime.now(), False)
        return Moment(header.position, header.created_s, False)

    def open_boundary(self, at: dict[str, Any] | None) -> Boundary:
        """The volume as it was at ``{"time_s"}`` or ``{"number", "epoch"}``, by default at the newest boundary."""
        moments = self.moments()
        if not moments:
            raise NotFoundError(f"{self.entry.place} has no boundary that can be opened")
        wanted = moments[-1]
        if at is not None and "time_s" in at:
            older = [moment for moment in moments if moment.created_s <= at["time_s"]]
            if not older:
                raise NotFoundError("no boundary as old as that is kept", hint=f"the oldest is {moments[0].position}")
            wanted = older[-1]
        number, epoch = wanted.position.number, None
        if at is not None and "number" in at:
            number, epoch = int(at["number"]), at.get("epoch")
            if all(moment.position.number != number for moment in moments):
                raise NotFoundError(
                    f"boundary {number} is not kept", hint=f"kept are {moments[0].position} to {moments[-1].position}"
                )
        boundary = self._boundaries.open(number, epoch)
        assert boundary is not None  # noqa: S101 - the base is always there
        return boundary

    def describe(self) -> dict[str, Any]:
        """The volume for people and programs."""
        return {
            "volume": self.entry.place,
            "source": self.entry.source,
            "site": self.entry.site,
            "role": self.root.role,
            "size_bytes": self._volume.size_bytes,
            "block_size": self._volume.block_size,
            "lineage": self.root.lineage,
            "epoch": self.root.epoch.count,
            "position": {"epoch": self.root.last.epoch.count, "number": self.root.last.number},
            "epochs": [
                {"count": entry.epoch.count, "promotion": entry.epoch.promotion, "first_number": entry.first_number}
                for entry in self.root.history
            ],
            "snapshots": [record.name for record in self.root.snapshots if record.valid],
            "boundaries": [
                {"position": {"epoch": one.position.epoch.count, "number": one.position.number},
                 "created_s": one.created_s, "snapshot": one.is_snapshot}
                for one in self.moments()
            ],
        }  # fmt: skip

    def close(self) -> None:
        """Give the stores back; what the cache holds is there the next time."""
        self._stack.close()


@contextmanager
def adopted(registry: Registry, url: str, name: str | None, cache_url: str | None = None) -> Iterator[Adopted]:
    """Open one volume of a bucket for reading, with a local cache where one is named (made if absent)."""
    entry = pick_entry(find_entries(url), name)
    cache = None
    if cache_url is not None:
        cache = registry.open_volume(cache_url, size_bytes=CACHE_BYTES, block_size=entry.block_size, create=True)
    opened = Adopted(registry, url, entry, cache)
    try:
        yield opened
    finally:
        opened.close()


def site_text(url: str, entries: list[Entry], *, site: str, listen: str, folder: str) -> str:
    """The configuration of a site that has the volumes of a bucket; it takes the place of whoever had them."""
    if any(one.site == site for one in entries):
        raise ConfigError(f"the bucket was left by a site called {site}", hint="give this one another name with --site")
    lines = [
        f"# Volumes of {url.partition('?')[0]}, written by replkit adopt. Serve them with: replkit serve --config …",
        f'site = "{site}"',
        f'listen = "{listen}"',
    ]
    for entry in entries:
        volume, save = below(url, entry.place, "volume"), below(url, entry.place, "save")
        save += ("&" if "?" in save else "?") + "takeover=yes"
        lines += [
            "",
            f"[volumes.{entry.source}]",
            f'url = "{volume}"',
            f"size = {entry.size_bytes}",
            f"block_size = {entry.block_size}",
            'role = "secondary"',
            f'nbd = "unix:{folder}/{entry.source}.nbd"',
            f'save_volume = {{ url = "{save}", capacity = {entry.capacity_bytes} }}',
            f'catalogue = "{url}"',
        ]
    return "\n".join(lines) + "\n"


def entry_fields(entry: Entry) -> dict[str, Any]:
    """An entry for people and programs."""
    found: dict[str, Any] = msgspec.to_builtins(entry)
    return found
