"""``replkit salvage``: what a volume held when it gave up its own history, kept until somebody deletes it (R4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from replkit.cli.connection import ask, control_option
from replkit.cli.output import counted, emit, json_option, new_table, position_text, show_table

if TYPE_CHECKING:
    from replkit.site.control import ControlClient


@click.group(short_help="What a resync took back.")
def salvage() -> None:
    """List, show, serve and delete salvages: volumes as they were before a resync or rewind."""


@salvage.command("list")
@click.argument("volume", required=False)
@json_option
@control_option
def list_(*, client: ControlClient, volume: str | None, as_json: bool) -> None:
    """List the salvages of VOLUME, oldest first."""
    emit(ask(client, "salvage-list", volume=volume), as_json, _render_list)


@salvage.command()
@click.argument("volume")
@click.argument("id_", metavar="ID")
@json_option
@control_option
def show(*, client: ControlClient, volume: str, id_: str, as_json: bool) -> None:
    """Show one salvage of VOLUME, with the blocks that had been written since the histories parted."""
    emit(ask(client, "salvage-show", volume=volume, id=id_), as_json, _render_one)


@salvage.command()
@click.argument("volume")
@click.argument("id_", metavar="ID")
@click.option("--nbd", "address", metavar="ADDRESS", help="Where: unix:/path or host:port (default: a Unix socket).")
@click.option("--stop", is_flag=True, help="Serve it no longer.")
@json_option
@control_option
def export(*, client: ControlClient, volume: str, id_: str, address: str | None, stop: bool, as_json: bool) -> None:
    """Serve a salvage of VOLUME read-only over NBD, as the volume was before it was taken back."""
    snapshot = f"salvage.{id_.removeprefix('salvage.')}"
    command = "export-remove" if stop else "export-add"
    result = ask(client, command, volume=volume, snapshot=snapshot, address=None if stop else address)
    emit(result, as_json, lambda r: click.echo(f"{r['export']} is served no longer" if stop else r["uri"]))


@salvage.command()
@click.argument("volume")
@click.argument("id_", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@control_option
def delete(*, client: ControlClient, volume: str, id_: str, yes: bool, as_json: bool) -> None:
    """Delete a salvage of VOLUME for good; what only it held cannot be brought back.

    The ID left-behind stands for the sets that a failover --now received and did not play.
    """
    if not yes:
        if as_json:
            raise click.UsageError("with --json, say --yes")
        click.confirm(f"Delete salvage {id_} of {volume} for good?", abort=True, err=True)
    result = ask(client, "salvage-delete", volume=volume, id=id_)
    emit(result, as_json, lambda r: click.echo(f"salvage {r['id']} of {r['volume']} is deleted"))


def _render_list(result: dict[str, Any]) -> None:
    if not result["salvages"]:
        click.echo(f"{result['volume']} has no salvage")
        return
    table = new_table("id", "stood at", ">blocks", "valid", title=f"salvages of {result['volume']}")
    for one in result["salvages"]:
        blocks = "not known" if one["blocks"] is None else str(one["blocks"])
        table.add_row(one["id"], position_text(one["stamp"]), blocks, "yes" if one["valid"] else "no")
    show_table(table)


def _render_one(one: dict[str, Any]) -> None:
    blocks, runs = counted(one["blocks"], "block"), counted(one["run_count"], "run")
    click.echo(f"salvage {one['id']} of {one['volume']}: {blocks} in {runs}")
    for start, count in one["runs"]:
        click.echo(f"  {start}" if count == 1 else f"  {start} to {start + count - 1}")
    click.echo(f"read it over NBD with: replkit salvage export {one['volume']} {one['id']}")
