"""Order within a session: which chunk may follow, and what an acknowledgement may say.

One book is kept at each end, of the same messages; so both find the same fault, whoever made it.
"""

from __future__ import annotations

from replkit.contracts.position import Position
from replkit.rcp import messages as m
from replkit.rcp.states import COPY_STEPS, SET_STEPS, CopyState, SetState


class OutOfOrderError(Exception):
    """A message that may not come here; the session turns it into the error of who is at fault."""


class SetTrack:
    """The set that is under way: its chunks come each once, in order, all of them before the end (D3)."""

    def __init__(self) -> None:
        self.state = SetState.BETWEEN
        self.begun: m.SetBegin | None = None
        self.next_chunk = 0
        self.partial: m.Partial | None = None
        """Where the receiver said that it goes on; good for one set, once."""

    def pass_on(self, body: m.Body) -> None:
        """Check ``body`` and take the step."""
        following = SET_STEPS.get((self.state, type(body)))
        if following is None:
            raise OutOfOrderError(f"{type(body).__name__} while the set is in state '{self.state.value}'")
        if isinstance(body, m.SetBegin):
            first = self.partial.next_chunk if self.partial and _goes_on(body, self.partial) else 0
            if first > body.chunk_count:
                raise OutOfOrderError(f"set {body.tag} goes on at chunk {first} of {body.chunk_count}")
            self.begun, self.next_chunk, self.partial = body, first, None
        else:
            self._check_inside(body)
        self.state = following

    def _check_inside(self, body: m.Body) -> None:
        if self.begun is None or not isinstance(body, m.Chunk | m.SetEnd | m.SetAbort):
            raise OutOfOrderError(f"{type(body).__name__} outside a set")
        if body.tag != self.begun.tag:
            raise OutOfOrderError(f"{type(body).__name__} of set {body.tag} inside set {self.begun.tag}")
        if isinstance(body, m.Chunk):
            if body.index != self.next_chunk or body.index >= self.begun.chunk_count:
                raise OutOfOrderError(
                    f"chunk {body.index} of set {body.tag}, expected {self.next_chunk} of {self.begun.chunk_count}"
                )
            self.next_chunk = body.index + 1
        elif isinstance(body, m.SetEnd) and self.next_chunk != self.begun.chunk_count:
            raise OutOfOrderError(f"end of set {body.tag} at chunk {self.next_chunk} of {self.begun.chunk_count}")


class CopyTrack:
    """The new copy that is under way: chunks in order, blocks ascending."""

    def __init__(self) -> None:
        self.state = CopyState.NONE
        self.begun: m.CopyBegin | None = None
        self.next_index = 0
        self.next_block = 0
        self.progress_block = 0
        self.partial: m.Partial | None = None
        """Where the receiver said that it goes on; good for one copy, once."""

    def pass_on(self, body: m.Body) -> None:
        """Check ``body`` and take the step."""
        following = COPY_STEPS.get((self.state, type(body)))
        if following is None:
            raise OutOfOrderError(f"{type(body).__name__} while the copy is in state '{self.state.value}'")
        if isinstance(body, m.CopyBegin):
            goes_on = self.partial is not None and self.partial.copy_id == body.copy_id
            first = self.partial.copy_next_block if self.partial and goes_on else 0
            if first > _block_count(body):
                raise OutOfOrderError(f"copy {body.copy_id} of {_block_count(body)} blocks goes on at block {first}")
            self.begun, self.next_index, self.partial = body, 0, None
            self.next_block = self.progress_block = first
        else:
            self._check_inside(body)
        self.state = following

    def _check_inside(self, body: m.Body) -> None:
        if self.begun is None or not isinstance(body, m.CopyChunk | m.CopyEnd | m.CopyProgress | m.CopyDone):
            raise OutOfOrderError(f"{type(body).__name__} outside a copy")
        if body.copy_id != self.begun.copy_id:
            raise OutOfOrderError(f"{type(body).__name__} of copy {body.copy_id} inside copy {self.begun.copy_id}")
        if isinstance(body, m.CopyChunk):
            block_count = _block_count(self.begun)
            if body.index != self.next_index or not self.next_block <= body.next_block <= block_count:
                raise OutOfOrderError(
                    f"chunk {body.index} up to block {body.next_block} of copy {body.copy_id}, expected "
                    f"{self.next_index} and a block from {self.next_block} to {block_count}"
                )
            self.next_index += 1
            self.next_block = body.next_block
        elif isinstance(body, m.CopyProgress):
            if not self.progress_block <= body.next_block <= self.next_block:
                raise OutOfOrderError(
                    f"progress of copy {body.copy_id} at block {body.next_block}, expected one from "
                    f"{self.progress_block} to {self.next_block}"
                )
            self.progress_block = body.next_block


class AckBook:
    """What was acknowledged: it never falls, and never goes beyond what was sent (invariant 7)."""

    def __init__(self) -> None:
        self.received: Position | None = None
        self.played: Position | None = None
        self._sent_number = 0

    def pass_on(self, body: m.Body, begun: m.SetBegin | None) -> None:
        """Note what was sent, check what is acknowledged."""
        if isinstance(body, m.Welcome):
            self.received, self.played = body.received, body.played
            self._sent_number = max(_number(body.received), _number(body.played))
        elif isinstance(body, m.SetEnd) and begun is not None:
            self._sent_number = max(self._sent_number, begun.number)
        elif isinstance(body, m.CopyBegin):
            # The copy replaces what stood there, so the positions begin anew.
            self.received = self.played = None
            self._sent_number = max(self._sent_number, body.stamp.number)
        elif isinstance(body, m.Ack):
            received = self._checked("received", self.received, body.received)
            self.played = self._checked("played", self.played, body.played)
            self.received = received

    def _checked(self, level: str, before: Position | None, now: Position | None) -> Position | None:
        if before is not None and (now is None or _order(now) < _order(before)):
            raise OutOfOrderError(f"acknowledgement '{level}' falls from {before} to {now}")
        if now is not None and now.number > self._sent_number:
            raise OutOfOrderError(f"acknowledgement '{level}' {now} is beyond {self._sent_number}, the last set sent")
        return now


def _goes_on(begin: m.SetBegin, partial: m.Partial) -> bool:
    """A resumed transfer is bound to tag, epoch and digest of the set."""
    return (begin.tag, begin.epoch, begin.digest) == (partial.set_tag, partial.epoch, partial.digest)


def _block_count(copy: m.CopyBegin) -> int:
    return -(-copy.volume_size_bytes // copy.block_size)


def _number(position: Position | None) -> int:
    return position.number if position else 0


def _order(position: Position) -> tuple[int, int]:
    return position.epoch.count, position.number
