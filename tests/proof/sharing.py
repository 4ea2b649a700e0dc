"""Shares the pieces of all parts out over some processes: floors first, then the time as the parts say."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

from .parts import Part
from .work import Piece, quiet, work

ENOUGH_FAILURES = 20
"""After so many a run ends: they will have few causes."""


def share(
    parts: list[Part],
    *,
    seconds: float,
    jobs: int,
    on_failure: Callable[[Part, tuple[str, str]], None],
    only_floors: bool = False,
) -> None:
    """Run until the time is over or every part is, or else at its floor. A piece that was begun is finished."""
    deadline_s = time.monotonic() + seconds
    asked = dict.fromkeys((part.kind for part in parts), 0.0)
    running: dict[Future[Piece], Part] = {}
    with ProcessPoolExecutor(jobs, initializer=quiet) as pool:
        while True:
            while len(running) < jobs and time.monotonic() < deadline_s and not _is_hopeless(parts):
                part = _next_part(parts, running, only_floors=only_floors)
                if part is None:
                    break
                piece = next(part.pieces, None)
                if piece is None:
                    part.is_over = True
                    continue
                asked[part.kind] += 1
                running[pool.submit(work, part.kind, piece)] = part
            if not running:
                return
            done, _running = wait(running, return_when=FIRST_COMPLETED)
            for each in done:
                part, piece = running.pop(each), each.result()
                part.take(piece)
                for failure in piece.failures:
                    on_failure(part, failure)


def _is_hopeless(parts: list[Part]) -> bool:
    return sum(len(part.failures) for part in parts) >= ENOUGH_FAILURES


def _next_part(parts: list[Part], running: dict[Future[Piece], Part], *, only_floors: bool = False) -> Part | None:
    """Of the parts below their floor the one that is farthest from it; else the one that had least of its share."""
    able = [part for part in parts if not part.is_over and not (part.kind == "kills" and part in running.values())]
    below = [part for part in able if part.count < part.floor]
    if below:
        return min(below, key=lambda part: part.count / part.floor)
    if only_floors:
        return None
    return min(able, key=lambda part: part.seconds / part.share, default=None)
