"""``wait --durable-on K``: what is written now is safe on K secondaries when this returns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from math import inf
from typing import Any

from replkit.errors import ControlError, InvalidArgumentError, WrongRoleError

SHORTEST_POLL_S, LONGEST_POLL_S = 0.002, 0.05
"""Between two looks, in proportion to the time waited: late by a twentieth of it at most."""
LEVELS = ("received", "played")


def wait_durable(
    ask: Callable[[str], Any], *, members: int, level: str, timeout_s: float | None, ending: threading.Event
) -> dict[str, Any]:
    """Cut, then wait until ``members`` secondaries have acknowledged that cut at ``level``.

    ``ask`` sends ``cut`` and ``progress`` to the primary's worker. Only acknowledgements count (invariant 13).
    """
    if level not in LEVELS or members < 1:
        raise InvalidArgumentError(
            f"cannot wait for level {level!r} on {members} members", hint="levels: received, played"
        )
    if timeout_s is not None and not (isinstance(timeout_s, int | float) and 0 < timeout_s < inf):
        raise InvalidArgumentError(
            f"cannot wait {timeout_s} s", hint="give a number of seconds above 0, or none to wait without an end"
        )
    began_s = time.monotonic()
    position = ask("cut")["position"]
    while True:
        progress = ask("progress")
        if len(progress) < members:
            raise WrongRoleError(
                f"the volume has {len(progress)} member(s), and {members} are to be waited for",
                hint="add one with: replkit replica add",
            )
        safe = sorted(name for name, member in progress.items() if reaches(member.get(level), position))
        waited_s = time.monotonic() - began_s
        if len(safe) >= members:
            return {"position": position, "members": safe, "waited_s": waited_s}
        if timeout_s is not None and waited_s > timeout_s:
            raise ControlError(
                f"set {position['number']} is {level} on {len(safe)} of {members} members after {waited_s:.1f} s",
                hint="status shows what the others wait for",
            )
        if ending.wait(min(LONGEST_POLL_S, max(SHORTEST_POLL_S, waited_s / 20))):
            raise ControlError("the daemon is being stopped")


def reaches(acknowledged: dict[str, Any] | None, wanted: dict[str, Any]) -> bool:
    """Whether an acknowledged position contains the wanted one; both are of this primary's history."""
    return (
        acknowledged is not None
        and acknowledged["epoch"] >= wanted["epoch"]
        and acknowledged["number"] >= wanted["number"]
    )
