"""Which sets a root names: from a number to the key of its set, and from a position to the set that continues it."""

from __future__ import annotations

import re
from bisect import bisect_right

import msgspec

from replkit.contracts.position import Epoch, Position
from replkit.deltaset.keys import set_tag
from replkit.errors import RecordMissingError
from replkit.replication.cells import Root, Span, WriterRun

DIFFERENCE_WRITER = "copy-"
"""Writer tags of differences begin so, and no others: their content has another identity than their position."""


def writer_of(root: Root, number: int) -> str:
    """The writer tag in the keys of set ``number``."""
    place = bisect_right(root.writers, number, key=lambda run: run.first_number)
    if place == 0:
        raise RecordMissingError(f"set {number} is older than every set that is listed: its boundary was trimmed")
    return root.writers[place - 1].writer


def epoch_at(root: Root, number: int) -> Epoch:
    """The epoch in which position ``number`` was reached: after a promotion older sets keep theirs."""
    place = bisect_right(root.history, number, key=lambda entry: entry.first_number)
    return root.history[max(0, place - 1)].epoch if root.history else root.epoch


def tag_of(root: Root, number: int) -> str:
    """The tag of the committed set whose last position is ``number``."""
    return set_tag(epoch_at(root, number).count, number, writer_of(root, number))


def difference_writer(copy_id: str) -> str:
    """The writer tag of the set that a difference is at the replica that took it in; both sides know it."""
    return DIFFERENCE_WRITER + re.sub(r"[^a-z0-9_-]", "-", copy_id)[-59:]


def set_after(root: Root, number: int) -> Span | None:
    """The positions reached by the set that a volume at position ``number`` plays next; ``None`` if there is none.

    ``RecordMissingError`` when the data of that set is trimmed: whoever stands there needs a resync or a new copy.
    """
    wanted = number + 1
    if wanted > root.last.number or (root.given_up is not None and root.given_up.first <= wanted):
        return None
    span = span_of(root, wanted)
    if span.last < root.first_kept:
        raise RecordMissingError(f"the set after position {number} was trimmed; the first kept is {root.first_kept}")
    return span


def is_trimmed_after(root: Root, number: int) -> bool:
    """Whether the data of the set that leads on from a position is kept no more."""
    return number < root.last.number and span_of(root, number + 1).last < root.first_kept


def is_unlisted_after(root: Root, number: int) -> bool:
    """Whether it is not known any more which blocks changed after a position: the block lists are trimmed too."""
    return number < root.last.number and span_of(root, number + 1).last < root.first_listed


def span_of(root: Root, number: int) -> Span:
    """The positions reached by the set that reaches position ``number``."""
    for span in root.spans:
        if span.first <= number <= span.last:
            return span
    return Span(number, number)


def add_set(root: Root, span: Span, writer: str, position: Position) -> Root:
    """The root with one more committed set: the one that leads from ``span.first - 1`` to ``position``."""
    writers = root.writers
    if not writers or writers[-1].writer != writer:
        writers = (*writers, WriterRun(position.number, writer))
    spans = tuple(each for each in root.spans if each.last < span.first)  # a set that was given up is spanned now
    if span.first != span.last:
        spans = (*spans, span)
    return msgspec.structs.replace(root, writers=writers, spans=spans, last=position)


def insert_set(root: Root, span: Span, writer: str) -> Root:
    """The root with the set that leads from ``span.first - 1`` to ``span.last``, before sets that it names already.

    No set that it names may reach a position of the span.
    """
    before = tuple(run for run in root.writers if run.first_number < span.first)
    after = tuple(run for run in root.writers if run.first_number > span.last)
    if span.last < root.last.number and (not after or after[0].first_number > span.last + 1):
        after = (WriterRun(span.last + 1, writer_of(root, span.last + 1)), *after)
    spans = root.spans if span.first == span.last else tuple(sorted((*root.spans, span), key=lambda each: each.first))
    return msgspec.structs.replace(root, writers=(*before, WriterRun(span.last, writer), *after), spans=spans)


def forget_before(root: Root, first_listed: int) -> Root:
    """The root without what it says about sets whose last position is before ``first_listed``."""
    place = bisect_right(root.writers, first_listed, key=lambda run: run.first_number)
    spans = tuple(span for span in root.spans if span.last >= first_listed)
    return msgspec.structs.replace(
        root, first_listed=first_listed, writers=root.writers[max(0, place - 1) :], spans=spans
    )


def numbers_between(root: Root, first: int, last: int) -> list[int]:
    """The last positions of the sets that reach positions ``first`` to ``last``, ascending, each once."""
    numbers: list[int] = []
    number = first
    while number <= last:
        span = span_of(root, number)
        numbers.append(span.last)
        number = span.last + 1
    return numbers
