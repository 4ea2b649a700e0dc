"""The cells of a member that reads the primary's save volume itself (S2); the table of all cells is in ``cells``."""

from __future__ import annotations

import msgspec

from replkit.contracts.position import Position


def played_cell(member: str) -> str:
    """Cell of the player of a member that reads the primary's save volume itself (S2)."""
    return f"played.{member}"


def reads_cell(member: str) -> str:
    """Cell of the reads of a member that reads the primary's save volume itself (S2)."""
    return f"reads.{member}"


def copied_cell(member: str) -> str:
    """Cell of the new copy of a member that reads the primary's save volume itself (S2)."""
    return f"copied.{member}"


class ReadFloor(msgspec.Struct, frozen=True, kw_only=True):
    """No read of a member that shares the save volume names a set up to ``number``, now or ever; of one new copy."""

    copy_id: str
    number: int


class SharedCopy(msgspec.Struct, frozen=True, kw_only=True):
    """The new copy of a member that shares the save volume; at no boundary until ``done``."""

    copy_id: str
    stamp: Position
    next_block: int = 0
    cleared: bool = False
    done: bool = False


_BUILT = [msgspec.json.Decoder(kind) for kind in (ReadFloor, SharedCopy)]
"""As in ``cells``: before any thread decodes."""
