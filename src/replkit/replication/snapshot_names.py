"""Names of snapshots that the services make, use and delete by themselves, so that no user may take one."""

from __future__ import annotations

from replkit.errors import InvalidArgumentError

RESERVED = ("copy.", "past.", "restart.", "resync.", "salvage.", "verify.", "view.")
"""How names of snapshots for new copies, retention, recovery, verifications and pinned views begin."""
SALVAGE_SNAPSHOT = "salvage."
"""Names of the held snapshots of what a volume gave up begin so; the id of the resync follows."""
COMPARED = "resync."
"""Names of the snapshots that a member's hashes were compared with before its difference begin so."""


def refuse_reserved(name: str) -> None:
    """``InvalidArgumentError`` for a name under which a service would take the snapshot for its own."""
    if name.startswith(RESERVED):
        raise InvalidArgumentError(
            f"{name!r} cannot name a snapshot of yours: it would be deleted with those of new copies and views",
            hint=f"choose a name that does not begin with {', '.join(RESERVED)}",
        )
