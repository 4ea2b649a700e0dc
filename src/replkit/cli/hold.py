"""``replkit hold`` and ``release``: boundaries of the past that stay, whatever the policy says (X2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from replkit.cli.connection import ask, control_option
from replkit.cli.output import emit, json_option, moment

if TYPE_CHECKING:
    from replkit.site.control import ControlClient


@click.command(short_help="Keep a boundary of the past.")
@click.argument("volume")
@click.argument("position", metavar="TIME|POSITION")
@json_option
@control_option
def hold(client: ControlClient, volume: str, position: str, as_json: bool) -> None:
    """Keep a boundary of VOLUME, as "replkit boundaries" lists them, until it is released.

    It costs room in the save volume: what it stands on never gives way. The newest boundary, and one with a snapshot,
    cost that snapshot; one between two snapshots keeps all sets from the older snapshot on until it is released. At a
    primary only snapshots can be held.
    """
    emit(ask(client, "boundary-hold", volume=volume, at=moment(position)), as_json, _say)


@click.command(short_help="Let the policy decide about a boundary again.")
@click.argument("volume")
@click.argument("position", metavar="TIME|POSITION")
@json_option
@control_option
def release(client: ControlClient, volume: str, position: str, as_json: bool) -> None:
    """Keep a boundary of VOLUME no longer than the policy says."""
    emit(ask(client, "boundary-release", volume=volume, at=moment(position)), as_json, _say)


def _say(result: dict[str, Any]) -> None:
    click.echo(f"position {result['number']} of {result['volume']} is {'held' if result['held'] else 'released'}")
