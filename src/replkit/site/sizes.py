"""Sizes and durations as people write and read them."""

from __future__ import annotations

import re

from replkit.errors import InvalidArgumentError

_UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTP]?)(?:iB|B)?", re.IGNORECASE)


def parse_size(text: str | int) -> int:
    """Bytes of ``4096``, ``"64KiB"``, ``"1GiB"``; the units are powers of 1024."""
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise InvalidArgumentError(f"{text!r} is no size", hint='write it like 4096, "64KiB" or "1GiB"')
    if isinstance(text, int):
        return text
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise InvalidArgumentError(f"{text!r} is no size", hint='write it like 4096, "64KiB" or "1GiB"')
    return round(float(match.group(1)) * _UNITS[match.group(2).upper()])


def format_size(size_bytes: float) -> str:
    """A size in the unit that suits it: ``1.5 GiB``."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise InvalidArgumentError(f"{size_bytes} is no size")


def format_age(age_s: float | None) -> str:
    """A duration for a table: ``0.4 s``, ``12 s``, ``5 min``, ``3 h``."""
    if age_s is None:
        return "-"
    if age_s < 10:
        return f"{max(0.0, age_s):.1f} s"
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if age_s < limit:
            return f"{age_s / divisor:.0f} {unit}"
    return f"{age_s / 86400:.0f} d"
