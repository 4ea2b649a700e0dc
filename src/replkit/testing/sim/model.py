"""The independent model: naive images of the volume at every boundary, and the checks of the invariants."""

from __future__ import annotations

from typing import Any

from replkit.contracts.position import Position
from replkit.contracts.volume import BlockVolume
from replkit.errors import InconsistentError


class InvariantError(AssertionError):
    """The simulation found a state that an invariant forbids."""


def read_all(volume: BlockVolume) -> bytes:
    """The whole content of a volume."""
    buffer = bytearray(volume.block_count * volume.block_size)
    volume.read_into(0, buffer)
    return bytes(buffer)


class Model:
    """Full images, one a boundary; it takes part as the event hooks of the machines.

    The image at a cut is taken in ``replkit_freeze``: in a simulation of one thread nothing comes between it and the
    swap of the maps.
    """

    def __init__(self, block_count: int, block_size: int) -> None:
        self._block_size = block_size
        self.image = bytearray(block_count * block_size)
        self.flushed = bytes(self.image)
        self._since_flush: dict[int, list[tuple[int, bytes]]] = {}
        self._sequence = self._frozen_at = self._flushed_at = 0
        self._frozen = bytes(self.image)
        self.boundaries: dict[int, bytes] = {0: bytes(self.image)}
        self.identities: dict[int, str] = {}
        self.errors: list[str] = []
        self._highest: dict[str, int] = {}
        self.cuts = self.played = self.received = 0

    # -- what happens to the volume --

    def write(self, block: int, data: bytes) -> None:
        """A write that may or may not have reached the disk when it fails: noted before it is made."""
        self.image[block * self._block_size : block * self._block_size + len(data)] = data
        self._sequence += 1
        for index in range(len(data) // self._block_size):
            part = data[index * self._block_size : (index + 1) * self._block_size]
            self._since_flush.setdefault(block + index, []).append((self._sequence, part))

    def flush(self) -> None:
        """A flush returned."""
        self._flushed_up_to(self._sequence, bytes(self.image))

    def _flushed_up_to(self, sequence: int, image: bytes) -> None:
        self.flushed, self._flushed_at = image, sequence
        for block, writes in list(self._since_flush.items()):
            later = [write for write in writes if write[0] > sequence]
            if later:
                self._since_flush[block] = later
            else:
                del self._since_flush[block]

    def crashed(self, content: bytes) -> None:
        """Invariants 1 and 3: each block holds its last flushed or committed value or a later one that was written."""
        for block in range(len(content) // self._block_size):
            part = slice(block * self._block_size, (block + 1) * self._block_size)
            allowed = [self.flushed[part], *(data for _sequence, data in self._since_flush.get(block, []))]
            if content[part] not in allowed:
                raise InvariantError(f"invariants 1 and 3: block {block} lost a flushed write")
        self.image[:] = content
        self._flushed_up_to(self._sequence, content)

    # -- hooks --

    def replkit_freeze(self, **_: Any) -> None:
        """A cut comes now."""
        self._frozen, self._frozen_at = bytes(self.image), self._sequence

    def replkit_thaw(self, **_: Any) -> None:
        """The cut was made."""

    def replkit_delta_set_cut(self, position: Position, **_: Any) -> None:
        """A set was committed: its boundary is the image at the freeze."""
        self.cuts += 1
        self.committed(position)
        if self._frozen_at >= self._flushed_at:  # invariant 3: the volume was flushed before the commit
            self._flushed_up_to(self._frozen_at, self._frozen)

    def replkit_delta_set_received(self, **_: Any) -> None:
        """Counted, so that a test sees that something happened."""
        self.received += 1

    def replkit_delta_set_played(self, **_: Any) -> None:
        """Counted too."""
        self.played += 1

    def replkit_error(self, message: str, **_: Any) -> None:
        """Kept for tests that expect one."""
        self.errors.append(message)

    def replkit_run_command(self, **_: Any) -> None:
        """No commands here."""

    def committed(self, position: Position) -> None:
        """The newest position of the primary; after a crash it may be one whose hook was never called."""
        if position.number not in self.boundaries:
            self.boundaries[position.number] = self._frozen
        if self.identities.setdefault(position.number, position.identity) != position.identity:
            raise InvariantError(f"position {position} has two identities")

    # -- checks --

    def check_view(self, name: str, view: Any) -> bool:
        """Invariant 5: a view equals the boundary at which it says it stands; False while there is none."""
        try:
            before = view.boundary
            content = read_all(view)
        except InconsistentError:
            return False
        self.check_boundary(name, before, content)
        return True

    def check_boundary(self, name: str, position: Position, content: bytes) -> None:
        """The content of a boundary is the image of the volume at its cut."""
        wanted = self.boundaries.get(position.number)
        if wanted is None:
            raise InvariantError(f"{name}: stands at {position}, which the primary never committed")
        if position.number and self.identities.get(position.number) not in {None, position.identity}:
            raise InvariantError(f"{name}: position {position} has another identity than at the primary")
        if content != wanted[: len(content)]:
            size = self._block_size
            wrong = [
                block for block in range(len(content) // size)
                if content[block * size : (block + 1) * size] != wanted[block * size : (block + 1) * size]
            ]  # fmt: skip
            raise InvariantError(f"invariant 5: {name} at {position} differs in blocks {wrong[:20]}")

    def check_ascends(self, name: str, number: int) -> None:
        """Invariant 5: a position never falls."""
        if number < self._highest.get(name, 0):
            raise InvariantError(f"invariant 5: {name} fell from {self._highest[name]} to {number}")
        self._highest[name] = number

    def check_acknowledged(self, name: str, acknowledged: int, durable: int) -> None:
        """Invariants 7 and 13: what was acknowledged is durable."""
        if acknowledged > durable:
            raise InvariantError(f"invariant 7: {name} acknowledged {acknowledged}, only {durable} is durable")
