"""``replkit replica``: the secondaries of a volume; one can be added at any time (C1, T6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from replkit.cli.connection import ask, control_option
from replkit.cli.output import emit, json_option

if TYPE_CHECKING:
    from replkit.site.control import ControlClient


@click.group(short_help="Add, copy again or remove a secondary.")
def replica() -> None:
    """Add, copy again or remove secondaries of a volume, while it is in use."""


@replica.command()
@click.argument("volume")
@click.argument("name")
@click.argument("url")
@click.option("--as", "destination_volume", metavar="VOLUME", help="Name of the volume there (default: the same).")
@click.option("--on-demand", is_flag=True, help="It stays at a boundary until its site asks for a newer one.")
@json_option
@control_option
def add(
    *, client: ControlClient, volume: str, name: str, url: str, destination_volume: str | None, on_demand: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Add the secondary NAME, reached at URL, of VOLUME: a new copy is made from a snapshot while writes go on.

    What the secondary's volume held before is replaced; the rest of it is made unused first.
    """
    result = ask(
        client, "replica-add", volume=volume, name=name, url=url, destination_volume=destination_volume,
        on_demand=on_demand or None,
    )  # fmt: skip
    emit(result, as_json, _say_added)


def _say_added(result: dict[str, Any]) -> None:
    click.echo(f"{result['member']} is being made from {result['volume']}; what its volume held before is replaced")
    click.echo("follow it with: replkit status --watch")


@replica.command()
@click.argument("volume")
@click.argument("name")
@json_option
@control_option
def remove(*, client: ControlClient, volume: str, name: str, as_json: bool) -> None:
    """Forget the secondary NAME of VOLUME; its copy stays as it is, and no set is kept for it any more."""
    result = ask(client, "replica-remove", volume=volume, name=name)
    emit(result, as_json, lambda r: click.echo(f"{r['member']} is no secondary of {r['volume']} any more"))


@replica.command()
@click.argument("volume")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@control_option
def copy(*, client: ControlClient, volume: str, name: str, yes: bool, as_json: bool) -> None:
    """Copy VOLUME to its secondary NAME once more, whole: for one that is stale, diverged or damaged.

    Replaces all that the secondary's volume holds, sets that only it has included. It cannot be read until the copy is
    complete; writes to VOLUME go on meanwhile. Says how much will travel, and asks, unless --yes.
    """
    from replkit.site.sizes import format_size

    if not yes:
        plan = ask(client, "replica-copy", volume=volume, name=name, dry_run=True)
        click.echo(
            f"{name} ({plan['was']}) holds a copy of {plan['volume']} in its volume {plan['destination_volume']}. All "
            f"of that is replaced: {format_size(plan['in_use_bytes'])} in use will travel, and its volume cannot be "
            "read until they are there.",
            err=True,
        )
        click.confirm("Go on?", abort=True, err=True)
    emit(ask(client, "replica-copy", volume=volume, name=name), as_json, _say_copied)


@replica.command("catch-up")
@click.argument("volume")
@click.argument("name")
@json_option
@control_option
def catch_up(*, client: ControlClient, volume: str, name: str, as_json: bool) -> None:
    """Bring the secondary NAME of VOLUME to the newest position by what changed since it stopped, not by a copy.

    For one that is stale, and for one that is refused as its save volume cannot hold the next set. What changed goes
    straight into its volume where there is no room for it either; until all is there it can be neither read nor
    promoted.

    Refused when the lists of what changed are trimmed as well: then only "replkit replica copy" is left.
    """
    result = ask(client, "replica-catch-up", volume=volume, name=name)
    emit(
        result,
        as_json,
        lambda r: click.echo(f"{r['member']} gets what changed; follow it with: replkit status --watch"),
    )


def _say_copied(result: dict[str, Any]) -> None:
    from replkit.site.sizes import format_size

    click.echo(f"{result['member']} is copied again: {format_size(result['in_use_bytes'])} in use will travel")
    click.echo("follow it with: replkit status --watch")
