"""Which records there are, by key: grouped by the first two parts of the key, as they are listed and deleted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from replkit.contracts.savevolume import Partition
from replkit.objectstore.bundle import Place

RECORD_OVERHEAD_BYTES = 64
"""What each record costs of its quota beyond its bytes, for its line in the journal."""


def _group_of(key: str) -> str:
    parts = key.split("/", 2)
    return f"{parts[0]}/{parts[1]}"


class RecordIndex:
    """Key to place, with the bytes used in each partition. Callers serialise changes; readers need no lock."""

    def __init__(self) -> None:
        self._groups: dict[str, dict[str, Place]] = {}
        self._used = dict.fromkeys(Partition, 0)

    def find(self, key: str) -> Place | None:
        """Where the record is."""
        return self._groups.get(_group_of(key), {}).get(key)

    def used_bytes(self, partition: Partition) -> int:
        """Bytes of the partition's records and what they cost beyond."""
        return self._used[partition]

    def set(self, key: str, place: Place) -> None:
        """Add a record, or move it; a reader meets the old place or the new one."""
        group = self._groups.setdefault(_group_of(key), {})
        old = group.get(key)
        group[key] = place
        before = 0 if old is None else old.size + RECORD_OVERHEAD_BYTES
        self._used[Partition(key.partition("/")[0])] += place.size + RECORD_OVERHEAD_BYTES - before

    def remove(self, key: str) -> Place | None:
        """Forget a record; where it was."""
        name = _group_of(key)
        group = self._groups.get(name)
        place = None if group is None else group.pop(key, None)
        if group is not None and place is not None:
            self._used[Partition(key.partition("/")[0])] -= place.size + RECORD_OVERHEAD_BYTES
            if not group:
                del self._groups[name]
        return place

    def items(self) -> Iterator[tuple[str, Place]]:
        """All records, in no order."""
        for group in self._groups.values():
            yield from group.items()

    def list(self, prefix: str) -> Iterable[str]:
        """Sorted keys."""
        if prefix.count("/") >= 2:
            return sorted(key for key in list(self._groups.get(_group_of(prefix), ())) if key.startswith(prefix))
        groups = [(name, group) for name, group in list(self._groups.items()) if _may_hold(name, prefix)]
        return sorted(key for _, group in groups for key in list(group) if key.startswith(prefix))


def _may_hold(group: str, prefix: str) -> bool:
    return group.startswith(prefix) or prefix.startswith(group)
