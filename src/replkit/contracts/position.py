"""Positions: where a replica stands in the history of a volume (glossary: position, epoch, identity)."""

from __future__ import annotations

import msgspec


class Epoch(msgspec.Struct, frozen=True, order=True, array_like=True):
    """Generation count of a volume: raised by every promotion, durable before the first write after it (R9).

    ``promotion`` is a random id (16 hex digits), so that two promotions with equal counts are told apart.
    """

    count: int
    promotion: str


class Position(msgspec.Struct, frozen=True, array_like=True):
    """The state of a volume after the delta set ``number`` of an epoch, with its identity.

    ``identity`` is the hex XXH3-128 digest that is made once, when the set is committed; position 0 is the volume
    as it was when its lineage began, with the lineage's own digest.
    """

    epoch: Epoch
    number: int
    identity: str

    def __str__(self) -> str:
        return f"{self.epoch.count}:{self.number}"


class HistoryEntry(msgspec.Struct, frozen=True, array_like=True):
    """One epoch of a history: the sets from ``first_number`` on were cut in it."""

    epoch: Epoch
    first_number: int
