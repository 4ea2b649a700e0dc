"""Turning what changed at the producer into journal entries, and journal entries into an index."""

from __future__ import annotations

from collections.abc import Iterable

from replkit.objectstore.bundle import Bundle, Place
from replkit.objectstore.journal import BundleEntry, Entry
from replkit.objectstore.recordindex import RecordIndex


def apply_entry(index: RecordIndex, entry: Entry) -> None:
    """Change ``index`` as the entry says."""
    for key in entry.deleted:
        index.remove(key)
    for bundle in entry.bundles:
        for key, offset, size, checksum in bundle.records:
            index.set(key, Place(bundle.name, offset, size, checksum))


class Published:
    """The state that readers see, at the producer: the index, and how many of its records each bundle holds."""

    def __init__(self, bundles: dict[str, Bundle]) -> None:
        self.index = RecordIndex()
        self._bundles = bundles

    def apply(self, entry: Entry) -> None:
        """An entry was published."""
        for key in entry.deleted:
            self._remove(key)
        for bundle in entry.bundles:
            known = self._bundles.setdefault(bundle.name, Bundle(bundle.name, bundle.size))
            for key, offset, size, checksum in bundle.records:
                self._remove(key)
                self.index.set(key, Place(bundle.name, offset, size, checksum))
                known.published += 1

    def adopt(self, entries: Iterable[Entry], *, from_nothing: bool) -> None:
        """Entries of our own turned out to be published; ``from_nothing`` when they begin with a whole index."""
        if from_nothing:
            whole = RecordIndex()
            for entry in entries:
                apply_entry(whole, entry)
            for key in [key for key, _ in self.index.items() if whole.find(key) is None]:
                self._remove(key)
        for entry in entries:
            self.apply(entry)

    def _remove(self, key: str) -> None:
        place = self.index.remove(key)
        if place is not None:
            self._bundles[place.bundle].published -= 1

    def difference(self, live: RecordIndex, changed: Iterable[str]) -> tuple[Entry, set[str]]:
        """What makes the published state equal to ``live`` for these keys, as far as their bundles are durable.

        Also the keys that are settled by it.
        """
        deleted: list[str] = []
        settled: set[str] = set()
        coming: dict[str, list[tuple[str, int, int, int]]] = {}
        for key in changed:
            new, old = live.find(key), self.index.find(key)
            if new is not None and not self._bundles[new.bundle].is_durable:
                if old is not None and not _is_move(new, old):
                    deleted.append(key)
                continue
            settled.add(key)
            if new is None and old is not None:
                deleted.append(key)
            elif new is not None and new != old:
                coming.setdefault(new.bundle, []).append((key, *new[1:]))
        bundles = [BundleEntry(name, self._bundles[name].size, records) for name, records in coming.items()]
        return Entry(bundles, deleted), settled

    def everything(self, entry: Entry) -> Entry:
        """The whole index as it will be after ``entry``."""
        deleted = set(entry.deleted)
        coming = {record[0] for bundle in entry.bundles for record in bundle.records}
        records: dict[str, list[tuple[str, int, int, int]]] = {}
        for key, place in self.index.items():
            if key not in deleted and key not in coming:
                records.setdefault(place.bundle, []).append((key, *place[1:]))
        for bundle in entry.bundles:
            records.setdefault(bundle.name, []).extend(bundle.records)
        return Entry([BundleEntry(name, self._bundles[name].size, some) for name, some in records.items()], [])


def _is_move(new: Place, old: Place) -> bool:
    """Whether the same record only went to another bundle: it stays readable at the old place until then."""
    return new.size == old.size and new.checksum == old.checksum
