"""What the producer and the readers of a save volume in a bucket have in common: quotas, and reading a record."""

from __future__ import annotations

from xxhash import xxh3_64_intdigest

from replkit.contracts.savevolume import Partition
from replkit.objectstore.bundle import Place, bundle_key
from replkit.objectstore.store import ObjectStore

DEFAULT_CAPACITY_BYTES = 64 << 30
SHARES = {Partition.SETS: 60, Partition.AREAS: 30, Partition.LISTS: 10}
"""Percent of the capacity that each partition has as its quota (invariant 11)."""


def quota_bytes(capacity_bytes: int, partition: Partition) -> int:
    """What a partition may use of the capacity."""
    return capacity_bytes * SHARES[partition] // 100


def read_place(store: ObjectStore, place: Place, start: int, stop: int | None) -> bytes | None:
    """A record or a range of it; ``None`` if what came, also the second time, is not what it must be."""
    first, last, _ = slice(start, stop).indices(place.size)
    if last <= first:
        return b""
    for _ in range(2):
        data = store.get(bundle_key(place.bundle), place.offset + first, place.offset + last)
        if len(data) == last - first and (
            last - first < place.size or xxh3_64_intdigest(data) == place.checksum
        ):  # a range cannot be verified
            return data
    return None
