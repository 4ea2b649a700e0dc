"""``replkit boundaries``: the boundaries of the past that can be served or restored (X2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from replkit.cli.connection import ask, control_option
from replkit.cli.output import emit, json_option, new_table, position_text, show_table, time_text

if TYPE_CHECKING:
    from replkit.site.control import ControlClient


@click.command(short_help="List the boundaries that can be restored.")
@click.argument("volume", required=False)
@json_option
@control_option
def boundaries(client: ControlClient, volume: str | None, as_json: bool) -> None:
    """List the boundaries of the past that the secondary VOLUME still has, oldest first.

    Each can be served with "replkit export VOLUME --at POSITION" and restored with "replkit restore". The time is that
    of the cut. How many stay is a policy: replkit policy VOLUME keep_all_s=86400 keep_for_s=2592000
    """
    emit(ask(client, "boundaries", volume=volume), as_json, _render)


def _render(result: dict[str, Any]) -> None:
    if not result["boundaries"]:
        name = result["volume"]
        click.echo(f"{name} keeps nothing of the past. To keep it: replkit policy {name} keep_all_s=86400")
        return
    table = new_table("position", "time", "kept as")
    for one in result["boundaries"]:
        kept = ("snapshot" if one["snapshot"] else "set") + (", held" if one["held"] else "")
        table.add_row(position_text(one["position"]), time_text(one["created_s"]), kept)
    show_table(table)
