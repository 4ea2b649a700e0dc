"""What a change of history does to a root: the sets it leaves behind, and how they stay readable or go (R3, R4)."""

from __future__ import annotations

from bisect import bisect_right
from contextlib import suppress
from typing import Final

import msgspec

from replkit.contracts.position import Epoch, HistoryEntry, Position
from replkit.contracts.savevolume import SaveVolume
from replkit.deltaset.header import SetHeader
from replkit.deltaset.identity import lineage_identity
from replkit.deltaset.keys import set_tag
from replkit.errors import CorruptRecordError, RecordMissingError
from replkit.replication.cells import Branch, Root, Span, WriterRun
from replkit.replication.directory import numbers_between, set_after, span_of, tag_of
from replkit.replication.set_reader import SetReader

UNKNOWN_IDENTITY: Final = "0" * 32
"""Stands in the header of a difference for the positions inside it: no position has it, so none of them fits.

It stands for the position before it, too, where hashes were compared: see ``is_compared``.
"""
FORK_IDENTITY: Final = "f" * 32
"""Of a fork that two sides agreed on by their histories alone, as neither lists its identity any more.

It tells nothing, and no boundary has it: only the difference that both sides know leads on from there.
"""


def history_after(history: tuple[HistoryEntry, ...], number: int, epoch: Epoch) -> tuple[HistoryEntry, ...]:
    """A history that leaves all others after position ``number`` and goes on in ``epoch``.

    Epochs that began after ``number`` are no part of it: a promotion ``--now`` may go back behind them. The first
    stays in any case, as it is that of position 0.
    """
    later = (entry for entry in history[1:] if entry.first_number <= number)
    return (*history[:1], *later, HistoryEntry(epoch, number + 1))


def cut_back(root: Root, position: Position) -> Root:
    """The root with ``position`` as its newest: it names no set after it any more."""
    return msgspec.structs.replace(
        root,
        last=position,
        writers=tuple(run for run in root.writers if run.first_number <= position.number),
        spans=tuple(span for span in root.spans if span.last <= position.number),
        first_kept=min(root.first_kept, position.number + 1),
        first_listed=min(root.first_listed, position.number + 1),
        given_up=None,
    )


def leave_branch(root: Root, position: Position) -> Root:
    """``cut_back``, with the sets after ``position`` as a branch: stored and readable until they are dropped (R3)."""
    if root.last.number <= position.number:
        return root
    first = position.number + 1
    branch = Branch(
        first=first,
        last=root.last,
        writers=_runs_from(root.writers, first),
        spans=tuple(span for span in root.spans if span.last >= first),
    )
    return msgspec.structs.replace(cut_back(root, position), branches=(*root.branches, branch))


def drop_branches(root: Root) -> Root:
    """The root without branches; their sets are condemned."""
    tags = tuple(tag for branch in root.branches for tag in branch_tags(branch))
    return msgspec.structs.replace(root, branches=(), condemned=(*root.condemned, *tags))


def tags_after(root: Root, number: int) -> tuple[str, ...]:
    """Tags of the kept sets after ``number``, to be condemned when the history goes on without them.

    While a difference arrives, positions up to its stamp have no set yet.
    """
    named = root.writers[0].first_number if root.writers else root.last.number + 1
    first = max(number + 1, root.first_kept, named)
    return tuple(tag_of(root, each) for each in numbers_between(root, first, root.last.number))


def is_compared(header: SetHeader) -> bool:
    """Whether a set has only what hashes found to differ from the volume that took it in.

    It leads that volume on and no other, as another may differ elsewhere; nor is its list that of all that changed.
    """
    return header.base_identity == UNKNOWN_IDENTITY


def leads_on(reader: SetReader, root: Root, at: Position) -> bool:
    """Whether the set after a position is kept and can be played there, or there is none; also inside a span."""
    try:
        span = set_after(root, at.number)
        header = None if span is None else reader.header(span.last)
    except (CorruptRecordError, RecordMissingError):
        return False
    if span is None or header is None:
        return at.number >= root.last.number
    if header.first_number != span.first:
        return False
    return (header.base_identity, *header.identities)[at.number + 1 - span.first] == at.identity


def identity_of(save: SaveVolume, root: Root, number: int, block_count: int) -> str:
    """The identity of position ``number``; empty where neither the root nor a listed set tells it."""
    try:
        return identity_at(SetReader(save, lambda: root, block_count), root, number)
    except RecordMissingError:
        return ""


def identity_at(reader: SetReader, root: Root, number: int) -> str:
    """The identity of a position of this history; ``RecordMissingError`` where no set that is listed tells it."""
    found = _listed_identity(reader, root, number)
    if found in {UNKNOWN_IDENTITY, FORK_IDENTITY}:
        raise RecordMissingError(f"the identity of position {number} is not known here: a difference leads over it")
    return found


def _listed_identity(reader: SetReader, root: Root, number: int) -> str:
    if number == root.last.number:
        return root.last.identity
    if number == 0:
        return lineage_identity(root.lineage)
    if not max(0, root.first_listed - 1) <= number < root.last.number:
        raise RecordMissingError(f"position {number} is not listed: its identity is not known here")
    span = span_of(root, number)
    if span.last == number:
        if number >= root.first_listed:
            with suppress(RecordMissingError, CorruptRecordError):  # then the set after it tells
                return reader.header(number).identities[-1]
        return reader.header(span_of(root, number + 1).last).base_identity
    header = reader.header(span.last)
    return header.identities[number - span.first] if header.first_number == span.first else UNKNOWN_IDENTITY


def branch_tags(branch: Branch) -> list[str]:
    """Tags of the sets of a branch, ascending."""
    tags: list[str] = []
    number = branch.first
    while number <= branch.last.number:
        span = next((each for each in branch.spans if each.first <= number <= each.last), Span(number, number))
        place = bisect_right(branch.writers, span.last, key=lambda run: run.first_number)
        tags.append(set_tag(branch.last.epoch.count, span.last, branch.writers[place - 1].writer))
        number = span.last + 1
    return tags


def is_in_branch(root: Root, tag: str) -> bool:
    """Whether a branch names the set."""
    return any(tag in branch_tags(branch) for branch in root.branches)


def _runs_from(writers: tuple[WriterRun, ...], first: int) -> tuple[WriterRun, ...]:
    place = bisect_right(writers, first, key=lambda run: run.first_number)
    return writers[max(0, place - 1) :]
