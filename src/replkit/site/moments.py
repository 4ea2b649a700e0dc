"""Moments of the past as people write them: positions, times, and times ago."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from replkit.errors import InvalidArgumentError

_POSITION = re.compile(r"(?:(\d{1,9}):)?(\d{1,15})")
_AGO = re.compile(r"(\d+(?:\.\d+)?) ?(s|sec|min|m|h|d|w)[a-z]* ago", re.IGNORECASE)
_UNITS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_moment(text: str, now_s: float) -> dict[str, Any]:
    """``{"number", "epoch"}`` of a position, or ``{"time_s"}`` of a time; a time without a zone is local.

    For example ``1:17``, ``17``, ``2026-03-01T12:00:00Z``, ``2026-03-01 12:00``, ``2h ago``.
    """
    text = text.strip()
    if match := _POSITION.fullmatch(text):
        epoch, number = match.groups()
        return {"number": int(number), "epoch": int(epoch) if epoch else None}
    if match := _AGO.fullmatch(text):
        return {"time_s": now_s - float(match.group(1)) * _UNITS[match.group(2).lower()]}
    try:
        return {"time_s": datetime.fromisoformat(text).timestamp()}
    except (ValueError, OverflowError, OSError):
        raise InvalidArgumentError(
            f"{text!r} is neither a position nor a time",
            hint='write it as 1:17, 2026-03-01T12:00:00Z, "2026-03-01 12:00" or "2h ago"',
        ) from None
