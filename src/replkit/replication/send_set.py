"""Sending one delta set: begin, chunks in order from where the transfer broke off, header last (D3, D4, FIG. 12)."""

from __future__ import annotations

from replkit.contracts.buffers import Buffer
from replkit.contracts.position import Position
from replkit.deltaset.header import SetHeader
from replkit.errors import DivergedError
from replkit.rcp import messages as m
from replkit.replication.cells import Root
from replkit.replication.directory import set_after
from replkit.replication.set_reader import SetReader


class SetTransfer:
    """A committed set on its way to one member; the records go out as they are stored."""

    def __init__(self, reader: SetReader, header: SetHeader, partial: m.Partial | None) -> None:
        self.header = header
        self._reader = reader
        self._tag = reader.tag(header.number)
        resumes = partial is not None and (partial.set_tag, partial.epoch, partial.digest) == (
            self._tag, header.epoch, header.digest,
        )  # fmt: skip
        self._next_chunk = partial.next_chunk if partial is not None and resumes else 0
        self._is_begun = self.is_done = False

    def peek(self) -> tuple[m.Body, Buffer]:
        """The next message and its payload."""
        header = self.header
        if not self._is_begun:
            begin = m.SetBegin(
                tag=self._tag,
                epoch=header.epoch,
                first_number=header.first_number,
                number=header.number,
                base_identity=header.base_identity,
                chunk_count=header.chunk_count,
                digest=header.digest,
            )
            return begin, b""
        if self._next_chunk < header.chunk_count:
            payload = self._reader.chunk_record(header.number, self._next_chunk)
            return m.Chunk(tag=self._tag, index=self._next_chunk), payload
        return m.SetEnd(tag=self._tag), self._reader.header_record(header.number)

    def advance(self, body: m.Body) -> None:
        """The message of ``peek`` was sent."""
        if isinstance(body, m.SetBegin):
            self._is_begun = True
        elif isinstance(body, m.Chunk):
            self._next_chunk += 1
        else:
            self.is_done = True

    def abort(self) -> m.SetAbort | None:
        """What to send when the set cannot be finished."""
        return m.SetAbort(tag=self._tag) if self._is_begun and not self.is_done else None


def next_header(reader: SetReader, root: Root, at: Position) -> SetHeader | None:
    """The header of the set that a member at ``at`` needs next, if its history is ours; ``None`` when it has all."""
    if at.number > root.last.number or (at.number == root.last.number and at.identity != root.last.identity):
        raise diverged(at, root)
    span = set_after(root, at.number)
    if span is None:
        return None
    header = reader.header(span.last)
    if header.first_number != span.first:  # a difference over very many positions, of which it knows the two ends only
        raise diverged(at, root, hint="give it a difference or a new copy")
    before = (header.base_identity, *header.identities)
    if before[at.number + 1 - header.first_number] != at.identity:
        raise diverged(at, root)
    return header


def diverged(at: Position, root: Root, hint: str = "resync it, or make a new copy") -> DivergedError:
    """The member stands where this history never was, or where it cannot be followed from."""
    return DivergedError(
        f"the member stands at {at} ({at.identity}), which is not in the history that ends at {root.last}",
        hint=hint,
    )
