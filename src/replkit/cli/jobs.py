"""Watching a job of the daemon to its end, with a progress bar; Ctrl-C ends the job too."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from replkit.cli.connection import ask
from replkit.errors import ControlError, NotFoundError

if TYPE_CHECKING:
    from replkit.site.control import ControlClient

LOOK_EVERY_S = 0.2


def run_job(client: ControlClient, kind: str, volume: str | None, **arguments: Any) -> dict[str, Any]:
    """Begin a job of this kind, or join the one that runs; its result. ``ControlError`` where it came to no end."""
    try:
        found = _watch(client, kind, ask(client, f"{kind}-begin", volume=volume, **arguments))
    except KeyboardInterrupt:
        _end(client, kind, volume)
        raise
    if found["error"]:
        raise ControlError(
            f"the {kind} of {found['volume']} came to no end: {found['error']}",
            hint="begin again with the same command; the daemon's log tells more",
        )
    return found


def _end(client: ControlClient, kind: str, volume: str | None) -> None:
    from replkit.site.control import ControlClient as Client

    try:
        with Client(client.path) as other:  # an answer may be on its way on the first one
            ask(other, f"{kind}-end", volume=volume)
    except (NotFoundError, ControlError):  # it was not begun, or the daemon is gone, and the job with it
        return


def _watch(client: ControlClient, kind: str, found: dict[str, Any]) -> dict[str, Any]:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{kind} {found['volume']}", total=None)
        while not found["done"]:
            time.sleep(LOOK_EVERY_S)
            found = ask(client, f"{kind}-progress", volume=found["volume"])
            bar.update(task, completed=found["checked"], total=found["total"] or None)
    return found
