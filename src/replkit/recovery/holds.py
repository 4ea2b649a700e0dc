"""Boundaries of the past that an operator holds: they stay, whatever retention says, until they are released (X2).

A hold is the snapshot at or before the boundary, held, and the sets between. The cell ``holds`` names it before the
snapshot is held, and after it was let go: a crash between leaves a hold that is complete at the next opening.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from replkit.contracts.runtime import Runtime
from replkit.contracts.savevolume import SaveVolume
from replkit.errors import NotFoundError
from replkit.recovery.boundary import Boundaries
from replkit.recovery.retention import PREFIX
from replkit.replication.cells import Root
from replkit.replication.root import StructCell
from replkit.snapshot.records import SnapshotRecord

HOLDS = "holds"


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A held boundary: its number, and the snapshot that it stands on, held before or not."""

    number: int
    base: str
    was_held: bool = False


class HoldList(msgspec.Struct, frozen=True, kw_only=True):
    """All that are held."""

    holds: tuple[Hold, ...] = ()


class Holds:
    """The held boundaries of one secondary.

    ``hold_snapshot`` holds a snapshot or lets it go; ``make_base`` makes one, or gives ``None`` while playback is not
    at rest.
    """

    def __init__(  # noqa: PLR0917 - what a replica has
        self,
        save: SaveVolume,
        root: Callable[[], Root],
        boundaries: Boundaries,
        hold_snapshot: Callable[[str, bool], object],
        make_base: Callable[[str], SnapshotRecord | None],
        runtime: Runtime,
    ) -> None:
        self._root, self._boundaries, self._runtime = root, boundaries, runtime
        self._hold_snapshot, self._make_base = hold_snapshot, make_base
        self._cell = StructCell(save, HOLDS, HoldList)
        for hold in self.all():
            self._hold_snapshot(hold.base, True)

    def all(self) -> list[Hold]:
        """Those whose snapshot is still there."""
        found, names = self._cell.get(), {record.name for record in self._root().snapshots if record.valid}
        return [hold for hold in (found.holds if found is not None else ()) if hold.base in names]

    def hold(self, number: int, epoch: int | None = None) -> bool:
        """Hold a boundary; False while playback must come to rest first: ask again. ``NotFoundError`` if it is gone."""
        if any(hold.number == number for hold in self.all()):
            return True
        boundary = self._boundaries.open(number, epoch)  # checks that it is there, and keeps it for this call
        if boundary is None:
            return False
        try:
            base = self._base_for(number)
            if base is None:
                return False
            self._set([*self.all(), Hold(number=number, base=base.name, was_held=base.held)])
            self._hold_snapshot(base.name, True)
        finally:
            boundary.close()
        return True

    def _base_for(self, number: int) -> SnapshotRecord | None:
        """What the boundary is to stand on; ``None`` while playback must come to rest first.

        The newest one gets a snapshot of its own: on an older one it would keep every set from there on.
        """
        base = self._boundaries.base_of(number)
        if base is not None and (number < self._root().last.number or _number(base) == number):
            return base
        made = self._make_base(f"{PREFIX}hold-{self._runtime.random_bytes(4).hex()}")
        if made is None or _number(made) <= number:
            return made or base
        if base is None:
            raise NotFoundError(f"playback has gone on beyond position {number}", hint="hold a newer one")
        return base  # retention deletes the other

    def release(self, number: int) -> None:
        """Let retention decide about a boundary again."""
        holds = self.all()
        found = next((hold for hold in holds if hold.number == number), None)
        if found is None:
            held = ", ".join(str(hold.number) for hold in holds) or "none"
            raise NotFoundError(f"position {number} is not held", hint=f"held are: {held}")
        if not found.was_held and all(hold is found or hold.base != found.base for hold in holds):
            self._hold_snapshot(found.base, False)
        rest = [
            msgspec.structs.replace(hold, was_held=hold.was_held or found.was_held) if hold.base == found.base else hold
            for hold in holds
            if hold is not found
        ]
        self._set(rest)

    def floor(self) -> int | None:
        """Sets after this number are held; ``None`` when none are."""
        stamps = {record.name: record.stamp.number for record in self._root().snapshots if record.stamp}
        return min(
            (stamps[hold.base] for hold in self.all() if stamps.get(hold.base, hold.number) < hold.number), default=None
        )

    def is_base(self, name: str) -> bool:
        """Whether a held boundary stands on this snapshot."""
        return any(hold.base == name for hold in self.all())

    def _set(self, holds: list[Hold]) -> None:
        self._cell.set(HoldList(holds=tuple(sorted(holds, key=lambda hold: hold.number))))


def _number(record: SnapshotRecord) -> int:
    return record.stamp.number if record.stamp is not None else 1 << 62
