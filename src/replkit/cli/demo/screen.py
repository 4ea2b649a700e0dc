"""What the demo shows while it runs: a live table on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from replkit.cli.demo.rounds import Rounds
from replkit.cli.output import position_text
from replkit.site.sizes import format_age, format_size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

LINE_EVERY_S = 3.0


class Screen:
    """Shows steps as lines, and the state of the replication live below them."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self.console: Console = Console(highlight=False)
        self._live: Live | None = None
        self._next_line_s = 0.0
        self._began_s = time.monotonic()

    def step(self, text: str) -> None:
        """Say what begins, or what was found."""
        self.console.print(f"[dim]{time.monotonic() - self._began_s:5.1f} s[/dim]  {text}", soft_wrap=True)

    def __enter__(self) -> Self:
        from rich.live import Live

        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, title: str, facts: list[tuple[str, str]]) -> None:
        """Draw what there is to tell now, each with its name; ``facts`` may be those of ``facts_of``."""
        if self._live is not None:
            self._live.update(_table(title, facts))
        elif time.monotonic() >= self._next_line_s:
            self._next_line_s = time.monotonic() + LINE_EVERY_S
            self.step("   " + "   ".join(f"{name} {value}" for name, value in facts))


def facts_of(volume: dict[str, Any], rounds: Rounds) -> list[tuple[str, str]]:
    """The state of the primary's volume and of its members, in the order in which it is shown."""
    found = [
        ("rounds", f"{rounds.done} ({format_size(rounds.written_bytes)} changed)"),
        ("current set", position_text(volume.get("position"))),
    ]
    for member in volume.get("members", []):
        copied = member.get("copied_bytes")
        if member["state"] == "copying" and copied is not None:
            share = copied / max(1, member.get("copy_total_bytes") or volume["size_bytes"])
            found.append(("copied", f"{format_size(copied)} ({min(1.0, share):.0%})"))
        found += [
            ("secondary", member["state"]),
            ("received", position_text(member["received"])),
            ("played", position_text(member["played"])),
            ("lag", format_age(member["lag_s"])),
            ("sent", format_size(member["sent_bytes"])),
            ("rate", f"{format_size(member['rate_bytes_per_s'])}/s"),
        ]
    return found


def _table(title: str, facts: list[tuple[str, str]]) -> Table:
    from rich.box import ROUNDED
    from rich.table import Table

    table = Table(box=ROUNDED, show_header=False, title=title, title_justify="left")
    for name, value in facts:
        table.add_row(f"[cyan]{name}[/cyan]", value)
    return table
