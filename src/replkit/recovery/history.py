"""Histories compared: where two replicas of one lineage parted, and whose epoch is over (R4, R9; DESIGN section 9).

Pure arithmetic. A history is the list of ``(epoch, first number)``, ascending in both; what a promotion left behind is
not in it. Two entries are equal only if count, promotion id and first number are.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from replkit.contracts.position import Epoch, HistoryEntry, Position
from replkit.errors import DivergedError


class ForkPoint(NamedTuple):
    """The last position that two histories share: what one has after it, the other never had."""

    number: int
    epoch: Epoch


class Relation(Enum):
    """What the epoch of a peer is to one's own."""

    SAME = "same"
    OLDER = "older"
    NEWER = "newer"
    DIVERGED = "diverged"
    """Equal counts, different promotion ids: neither is over, and only a command decides (invariant 8)."""


def relation(mine: Epoch, theirs: Epoch) -> Relation:
    """What ``theirs`` is, seen from ``mine``."""
    if mine == theirs:
        return Relation.SAME
    if mine.count == theirs.count:
        return Relation.DIVERGED
    return Relation.NEWER if theirs.count > mine.count else Relation.OLDER


def fork_point(
    mine: tuple[HistoryEntry, ...], my_last: Position, theirs: tuple[HistoryEntry, ...], their_last: Position
) -> ForkPoint:
    """The last position of both; ``DivergedError`` where the two never shared one (other lineages).

    It can be trusted as far as the histories can: of a save volume that was rolled back to an older copy they say too
    much, so whoever acts on it compares the identities at the fork (``peer.settle_fork``).
    """
    shared = 0
    while shared < min(len(mine), len(theirs)) and mine[shared] == theirs[shared]:
        shared += 1
    if not shared:
        raise DivergedError(
            f"the histories of {my_last} and {their_last} share no epoch", hint="these are replicas of two volumes"
        )
    number = min(_left_at(mine, shared, my_last), _left_at(theirs, shared, their_last))
    return ForkPoint(number, epoch_of(mine[:shared], number))


def epoch_of(history: tuple[HistoryEntry, ...], number: int) -> Epoch:
    """The epoch in which position ``number`` of a history was cut; that of position 0 is the first."""
    for entry in reversed(history):
        if entry.first_number <= number:
            return entry.epoch
    return history[0].epoch


def _left_at(history: tuple[HistoryEntry, ...], shared: int, last: Position) -> int:
    """The last number of the first ``shared`` epochs; who follows has the whole history before all of its sets."""
    return min(last.number, history[shared].first_number - 1) if shared < len(history) else last.number
