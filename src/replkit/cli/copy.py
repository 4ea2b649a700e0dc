"""``replkit copy``: bring a secondary from one snapshot to another by what differs (P7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from replkit.cli.connection import ask, control_option
from replkit.cli.output import emit, json_option

if TYPE_CHECKING:
    from replkit.site.control import ControlClient


@click.command(short_help="Bring a secondary from one snapshot to another.")
@click.argument("volume")
@click.option("--from", "older", metavar="SNAPSHOT", required=True, help="What the secondary equals now.")
@click.option("--to", "newer", metavar="SNAPSHOT", required=True, help="What it is brought to; a newer one.")
@click.argument("replica")
@json_option
@control_option
def copy(*, client: ControlClient, volume: str, older: str, newer: str, replica: str, as_json: bool) -> None:
    """Bring the secondary REPLICA of the primary VOLUME, which is updated on demand, from one snapshot to another.

    Only blocks that differ travel; those in use before and not after are discarded there.
    """
    emit(ask(client, "copy-between", volume=volume, name=replica, older=older, newer=newer), as_json, _say)


def _say(result: dict[str, Any]) -> None:
    click.echo(
        f"{result['member']} goes from {result['from']} to {result['to']}: {result['data_blocks']} blocks travel, "
        f"{result['discard_blocks']} are discarded"
    )
