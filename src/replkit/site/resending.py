"""Blocks that a secondary lost or has wrong are sent again: the next set has them as they are at the primary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from replkit.blocks.extent import Extent
from replkit.errors import ControlError
from replkit.site.control import ControlClient

EXTENTS_A_CALL = 10_000
TIMEOUT_S = 600.0


def send_again(control: Path, name: str, extents: Sequence[Extent]) -> int:
    """Ask the daemon at ``control`` for it, whose primary is ``name``; the number of the set."""
    number = None
    with ControlClient(control) as client:
        for at in range(0, len(extents), EXTENTS_A_CALL):
            part = [list(extent) for extent in extents[at : at + EXTENTS_A_CALL]]
            is_last = at + EXTENTS_A_CALL >= len(extents)
            number = client.request(
                "verify-repair", answer_timeout_s=TIMEOUT_S, volume=name, extents=part, cut=is_last
            )["number"]
    if number is None:
        raise ControlError(f"{name}: no block was sent again")
    return int(number)
