"""How the suites compare bytes: a difference is told in a line, however large the two are.

An ``assert`` of two large byte strings lets pytest write the whole difference where it is asked to be verbose, which it
takes an environment variable ``CI`` for; that is megabytes of text, and minutes.
"""

from __future__ import annotations

from typing import Final

from replkit.contracts.buffers import Buffer

_SHOWN_BYTES: Final = 16
_STEP_BYTES: Final = 4096


def assert_bytes(found: Buffer, wanted: Buffer, what: str = "the bytes read") -> None:
    """Fail, beginning with ``what``, unless both are the same bytes.

    Raises:
        AssertionError: naming both lengths, or the first byte that differs and what lies there.
    """
    mine, theirs = memoryview(found).cast("B"), memoryview(wanted).cast("B")
    if mine.nbytes != theirs.nbytes:
        raise AssertionError(f"{what}: {mine.nbytes} bytes, not {theirs.nbytes}")
    if mine == theirs:
        return
    step = next(at for at in range(0, mine.nbytes, _STEP_BYTES) if mine[at:][:_STEP_BYTES] != theirs[at:][:_STEP_BYTES])
    first = next(at for at in range(step, mine.nbytes) if mine[at] != theirs[at])
    there, instead = (bytes(view[first : first + _SHOWN_BYTES]).hex(" ") for view in (mine, theirs))
    raise AssertionError(f"{what}: from byte {first} of {mine.nbytes} on {there}, not {instead}")


__all__ = ["assert_bytes"]
