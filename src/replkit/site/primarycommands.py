"""Commands of a primary that need nothing of its worker but the replica: copy between snapshots, holds, size."""

from __future__ import annotations

from typing import Any

from replkit.contracts.savevolume import SaveVolume
from replkit.errors import InvalidArgumentError, NotFoundError
from replkit.recovery.ondemand import copy_between
from replkit.replication.primary import PrimaryReplica
from replkit.site.control import Arguments
from replkit.site.names import check_name
from replkit.site.sizing import resize


class PrimaryCommands:
    """Carries them out for one primary."""

    def __init__(self, primary: PrimaryReplica, save: SaveVolume, name: str) -> None:
        self._primary, self._save, self._name = primary, save, name

    def copy_between(self, arguments: Arguments) -> dict[str, Any]:
        """Bring a member on demand from one snapshot to another (P7)."""
        name, older, newer = (
            check_name(arguments.get(key, ""), what)
            for key, what in (("name", "replica"), ("older", "snapshot"), ("newer", "snapshot"))
        )
        found = copy_between(self._primary, name, older, newer)
        return {"volume": self._name, **found}

    def hold_boundary(self, arguments: Arguments, is_held: bool) -> dict[str, Any]:
        """At a primary a boundary that is kept is a snapshot: hold it, or let it go."""
        at = arguments.get("at")
        number = at.get("number") if isinstance(at, dict) else None
        for record in self._primary.snapshots():
            if record.valid and record.at_boundary and record.stamp is not None and record.stamp.number == number:
                self._primary.volume.snapped.hold_snapshot(record.name, held=is_held)
                return {"volume": self._name, "number": number, "held": is_held}
        raise NotFoundError(
            f"{self._name} has no snapshot at position {number}", hint="at a primary only snapshots are held"
        )

    def resize(self, arguments: Arguments) -> dict[str, Any]:
        """A larger size (X5)."""
        size_bytes, was_bytes = arguments.get("size_bytes"), self._primary.volume.size_bytes
        if not isinstance(size_bytes, int) or size_bytes < 1:
            raise InvalidArgumentError(f"{size_bytes!r} is no size")
        if size_bytes < was_bytes:  # clients that know the old size would write beyond the end
            raise InvalidArgumentError(
                f"{self._name} has {was_bytes} bytes: a volume that is served gets no smaller",
                hint="make another volume of that size, and copy into it",
            )
        number = resize(self._primary, self._save, size_bytes).number
        return {"volume": self._name, "size_bytes": size_bytes, "was_bytes": was_bytes, "number": number}
