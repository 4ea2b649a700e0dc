"""``replkit command``: let the secondaries of a volume carry out a control block or a named command (T10, T11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from replkit.cli.connection import ask, control_option
from replkit.cli.output import emit, json_option, new_table, show_table

if TYPE_CHECKING:
    from replkit.site.control import ControlClient


@click.command(short_help="Let the secondaries carry out a command.")
@click.argument("volume")
@click.argument("name")
@click.option("--arg", "words", metavar="NAME=VALUE", multiple=True, help="An argument; may be given again.")
@click.option("--member", "members", metavar="NAME", multiple=True, help="Only this secondary; may be given again.")
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    help="Wait so long for answers.",
)
@json_option
@control_option
def command(
    *,
    client: ControlClient,
    volume: str,
    name: str,
    words: tuple[str, ...],
    members: tuple[str, ...],
    timeout_s: float,
    as_json: bool,
) -> None:
    """Send the command NAME to the secondaries of VOLUME, and show what each answered; exit code 1 when one failed.

    start-playback (with --arg number=SET) lets a secondary play at once what it has received. Every other name is for
    the plugins of the secondary's site (hook replkit_run_command); one that no plugin knows fails there.
    """
    from replkit.cli.policy import parse_changes

    result = ask(
        client,
        "command",
        volume=volume,
        name=name,
        arguments=parse_changes(list(words)),
        members=list(members) or None,
        timeout_s=timeout_s,
    )
    emit(result, as_json, _render)
    if not all(one["ok"] for one in result["members"]):
        raise SystemExit(1)


def _render(result: dict[str, Any]) -> None:
    table = new_table("member", "done", "answer", title=f"{result['command']} on {result['volume']}")
    for one in result["members"]:
        answer = one["result"]
        shown = answer.get("result", answer.get("error"))
        table.add_row(one["member"], "yes" if one["ok"] else "NO", str(answer if shown is None else shown))
    show_table(table)
