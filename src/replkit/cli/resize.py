"""``replkit resize``: make a primary volume larger while it is replicated (X5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from replkit.cli.connection import ask, control_option
from replkit.cli.output import emit, json_option

if TYPE_CHECKING:
    from replkit.site.control import ControlClient


@click.command(short_help="Make a volume larger.")
@click.argument("volume")
@click.argument("size")
@json_option
@control_option
def resize(*, client: ControlClient, volume: str, size: str, as_json: bool) -> None:
    """Give the primary VOLUME a larger SIZE, as 20GiB; secondaries follow with the next set, or say why they cannot.

    What is new reads as zeros; snapshots keep their size. Clients see the new size when they connect again. Then write
    the size into the configuration.
    """
    from replkit.site.sizes import parse_size

    size_bytes = parse_size(size)
    emit(ask(client, "resize", volume=volume, size_bytes=size_bytes), as_json, _say)


def _say(result: dict[str, Any]) -> None:
    from replkit.site.sizes import format_size

    click.echo(
        f"{result['volume']} has {format_size(result['size_bytes'])}; set {result['number']} tells the secondaries"
    )
    click.echo("write the size into the configuration; until then status shows it as drift")
