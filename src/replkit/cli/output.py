"""How results and errors are shown: JSON for programs, tables for people."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from replkit.errors import ReplkitError

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA_VERSION = 1
"""Raised when a field of ``--json`` output changes its meaning or goes; new fields do not raise it."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON with a schema_version.")


class CommandFailed(click.ClickException):
    """A failure with the exit code of its error."""

    def __init__(self, message: str, hint: str, exit_code: int) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it for the class, and reads it from us

    def show(self, file: Any = None) -> None:
        """Print message and hint to standard error."""
        click.echo(f"{click.style('Error:', fg='red')} {self.message}", file=file, err=True)
        if self.hint:
            click.echo(f"{click.style('Hint:', fg='yellow')} {self.hint}", file=file, err=True)


def fail(error: ReplkitError) -> CommandFailed:
    """The click exception for an error of ours."""
    return CommandFailed(error.message, error.hint, error.exit_code)


def emit(result: dict[str, Any], as_json: bool, render: Callable[[dict[str, Any]], None]) -> None:
    """Print ``result`` as JSON, or let ``render`` print it for people."""
    if as_json:
        click.echo(json.dumps({"schema_version": SCHEMA_VERSION, **result}, indent=2, sort_keys=True))
    else:
        render(result)


def show_table(table: Table) -> None:
    """Print a table; a pipe gets the full width, so that nothing is cut off."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)


def new_table(*columns: str, title: str | None = None) -> Table:
    """A table in the one style; a column that begins with ``>`` is aligned to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    return table


def position_text(position: dict[str, Any] | None) -> str:
    """A position as ``epoch:number``."""
    return "-" if position is None else f"{position['epoch']}:{position['number']}"


def counted(number: int, thing: str) -> str:
    """So many of something, in words."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def time_text(time_s: float) -> str:
    """A time for a table, local."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_s))


def moment(text: str | None) -> dict[str, Any] | None:
    """What ``--at`` means, as the daemon takes it."""
    if text is None:
        return None
    from replkit.site.moments import parse_moment

    return parse_moment(text, time.time())
