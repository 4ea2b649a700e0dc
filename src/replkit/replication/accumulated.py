"""The sets between the volume and the newest boundary, with the reads and pins that see them (C3, design section 5).

Rules that hold together: a read fixes the list of sets it sees until it returns; the player writes no block of a set
while a read that does not see it runs; a chunk is deleted when no read can name it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import NamedTuple

from replkit.blocks.extent import Extent
from replkit.contracts.position import Position
from replkit.contracts.runtime import Runtime
from replkit.replication.cells import Root
from replkit.replication.directory import numbers_between
from replkit.replication.index import Place, SetIndex
from replkit.replication.set_reader import BlockReader, SetReader


class Ticket(NamedTuple):
    """A read, or a pin, that sees the boundary ``upper`` and began when the volume stood at ``lower``."""

    upper: int
    lower: int
    is_pin: bool


class Accumulated:
    """Index of the sets not yet played, and a register of who reads at which boundary.

    ``played`` gives the position of the volume. ``generation`` counts the new copies, each of which ends all pins.
    """

    def __init__(
        self, reader: SetReader, runtime: Runtime, root: Callable[[], Root], played: Callable[[], Position]
    ) -> None:
        self.reader = reader
        self.blocks = BlockReader(reader, runtime)
        self._root = root
        self._played = played
        self._lock = runtime.lock()
        self._refreshing = runtime.lock()
        self._index = SetIndex(reader)
        self._newest: Position | None = None
        self._tickets: dict[int, Ticket] = {}
        self.generation = 0
        self._ids = count()

    @property
    def boundary(self) -> Position:
        """The position that a read which begins now sees."""
        if self._newest is None:
            self.refresh()
        return self._newest_or_played()

    def _newest_or_played(self) -> Position:
        return self._newest or self._played()

    def refresh(self) -> None:
        """Take sets into the index that were committed since."""
        with self._refreshing:
            root = self._root()
            newest = self._newest_or_played()
            if root.last.number <= newest.number and self._newest is not None:
                return
            for number in numbers_between(root, newest.number + 1, root.last.number):
                slot = self._index.load(number)
                position = self.reader.header(number).position
                with self._lock:
                    self._index.add(number, slot)
                    self._newest = position
            if self._newest is None:
                self._newest = newest

    def reset(self) -> None:
        """Forget everything, pins too: a new copy puts the volume somewhere else."""
        with self._refreshing, self._lock:
            self._index = SetIndex(self.reader)
            self._newest = None
            self.generation += 1
            self._tickets = {key: ticket for key, ticket in self._tickets.items() if not ticket.is_pin}

    def is_idle(self) -> bool:
        """Whether no read is under way."""
        with self._lock:
            return all(ticket.is_pin for ticket in self._tickets.values())

    def forget_played(self, number: int) -> None:
        """Drop the sets up to ``number`` from the index; the volume holds them, flushed."""
        with self._lock:
            for played in [each for each in self._index.numbers if each <= number]:
                self._index.forget(played)

    def begin_read(self, start: int, block_count: int) -> tuple[int, list[Place]]:
        """Fix where the blocks are read, and register the read; ``end`` takes the ticket back."""
        if self._newest is None:  # just opened: a pass may be half done, so that only its end can be read
            self.refresh()
        with self._lock:
            ticket = self._register(Ticket(self._newest_or_played().number, self._played().number, False))
            return ticket, self._index.find(start, block_count)

    def begin_pinned_read(self, pin: Ticket) -> int:
        """Register a read at the boundary of a pin, which may be released while the read runs."""
        with self._lock:
            return self._register(pin._replace(is_pin=False))

    def pin(self) -> tuple[int, Ticket, Position, SetIndex]:
        """Register a reader that stays at the newest boundary, with an index of its own."""
        self.refresh()
        with self._lock:
            ticket = Ticket(self._newest_or_played().number, self._played().number, True)
            key = self._register(ticket)
            numbers, boundary = self._index.numbers, self._newest_or_played()
        index = SetIndex(self.reader)
        for number in numbers:
            index.add(number, index.load(number))
        return key, ticket, boundary, index

    def _register(self, ticket: Ticket) -> int:
        key = next(self._ids)
        self._tickets[key] = ticket
        return key

    def end(self, key: int) -> None:
        """The read has returned, or the pin was released."""
        with self._lock:
            self._tickets.pop(key, None)

    def may_write(self, number: int) -> bool:
        """Whether every reader sees set ``number``, so that the player may write its blocks."""
        with self._lock:
            return all(ticket.upper >= number for ticket in self._tickets.values())

    def lowest_named(self) -> int:
        """No reader can name a set up to this number; what is not newer may be deleted."""
        with self._lock:
            return min((ticket.lower for ticket in self._tickets.values()), default=self._played().number)

    def extents(self, numbers: list[int]) -> list[Extent]:
        """The blocks of these sets, one set after the other."""
        with self._lock:
            return [extent for number in numbers for extent in self._index.extents(number)]

    def waiting_blocks(self) -> int:
        """Number of blocks that differ between the volume and the newest boundary (R8)."""
        with self._lock:
            return self._index.changed_blocks()
