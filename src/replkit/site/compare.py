"""Two things that can be read by bytes, compared block for block; holes of both are passed over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from replkit.contracts.volume import BlockVolume
from replkit.errors import InvalidArgumentError

STEP_BYTES = 1 << 20
MAX_REPORTED = 20


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a comparison found; ``differing`` are the first few differing blocks."""

    block_count: int
    block_size: int
    compared_bytes: int
    differing_count: int
    differing: tuple[int, ...]
    duration_s: float

    @property
    def is_equal(self) -> bool:
        """Whether every block is the same on both sides."""
        return self.differing_count == 0


def compare_volumes(
    left: BlockVolume, right: BlockVolume, *, on_progress: Callable[[int], None] = lambda _blocks: None
) -> Comparison:
    """Read every block that is in use on either side, and compare."""
    if (left.size_bytes, left.block_size) != (right.size_bytes, right.block_size):
        raise InvalidArgumentError(
            f"sizes differ: {left.size_bytes} bytes in blocks of {left.block_size}, "
            f"{right.size_bytes} bytes in blocks of {right.block_size}"
        )
    began_s = time.monotonic()
    block_size, step = left.block_size, max(1, STEP_BYTES // left.block_size)
    differing: list[int] = []
    count = compared = 0
    for start, a, b in _pairs(left, right, step):
        compared += len(a)
        found = _differing(start, a, b, block_size)
        count += len(found)
        differing += found[: MAX_REPORTED - len(differing)]
        on_progress(start + len(a) // block_size)
    return Comparison(
        block_count=left.block_count,
        block_size=block_size,
        compared_bytes=compared,
        differing_count=count,
        differing=tuple(differing),
        duration_s=time.monotonic() - began_s,
    )


def differing_runs(old: BlockVolume, new: BlockVolume, *, run_blocks: int = 64) -> Iterator[tuple[int, bytes]]:
    """Yield ``(byte offset, new content)`` for each run of blocks of ``new`` that is not so in ``old``."""
    size = old.block_size
    for start, a, b in _pairs(old, new, max(1, STEP_BYTES // size)):
        run: list[int] = []
        for block in _differing(start, a, b, size):
            if run and (block != run[-1] + 1 or len(run) == run_blocks):
                yield run[0] * size, bytes(b[(run[0] - start) * size : (run[-1] + 1 - start) * size])
                run = []
            run.append(block)
        if run:
            yield run[0] * size, bytes(b[(run[0] - start) * size : (run[-1] + 1 - start) * size])


def _differing(start: int, a: memoryview, b: memoryview, size: int) -> list[int]:
    if a == b:
        return []
    left, right = bytes(a), bytes(b)
    return [start + at // size for at in range(0, len(left), size) if left[at : at + size] != right[at : at + size]]


def _pairs(left: BlockVolume, right: BlockVolume, step: int) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Both contents of each run that either side has in use; the buffers are used again for the next."""
    ours, theirs = bytearray(step * left.block_size), bytearray(step * left.block_size)
    for start, stop in _steps(left, right, step):
        size = (stop - start) * left.block_size
        a, b = memoryview(ours)[:size], memoryview(theirs)[:size]
        left.read_into(start, a)
        right.read_into(start, b)
        yield start, a, b


def _steps(left: BlockVolume, right: BlockVolume, step: int) -> Iterator[tuple[int, int]]:
    """Runs of at most ``step`` blocks that cover what either side has in use, ascending."""
    extents = sorted((*left.in_use(), *right.in_use()))
    done = 0
    for extent in extents:
        at = max(done, extent.start)
        while at < extent.stop:
            stop = min(at + step, extent.stop)
            yield at, stop
            at = done = stop
