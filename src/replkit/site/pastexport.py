"""Serving a boundary of the past of a secondary (X1, X2)."""

from __future__ import annotations

from typing import Any

from replkit.errors import ReplkitError
from replkit.site.control import Arguments
from replkit.site.exporting import ExportKeeper
from replkit.site.held import HeldReplica
from replkit.site.returning import position_fields


def export_past(keeper: ExportKeeper, held: HeldReplica, arguments: Arguments, token: str) -> dict[str, Any]:
    """A boundary of the past, until it is stopped; for a restore until its client is gone."""
    boundary = held.past.open(arguments["at"])
    number, temporary = boundary.position.number, bool(arguments.get("temporary"))
    suffix = f".{token}" if temporary else ""
    stop = f"replkit export {held.name} --at {boundary.position.epoch.count}:{number} --stop"
    try:
        served = keeper.add(
            f"{held.name}.at-{number}{suffix}", boundary, arguments.get("address"), temporary=temporary,
            stop_command=stop,
        )  # fmt: skip
    except ReplkitError:
        boundary.close()
        raise
    return {
        **served,
        "position": position_fields(boundary.position),
        "boundary": str(boundary.position),
        "size_bytes": boundary.size_bytes,
        "block_size": boundary.block_size,
    }
