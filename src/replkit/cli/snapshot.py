"""``replkit snapshot``: make, list, show, restore and delete snapshots of a volume (P6)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from replkit.cli.connection import ask, control_option
from replkit.cli.output import emit, json_option, new_table, position_text, show_table, time_text
from replkit.errors import ControlError

if TYPE_CHECKING:
    from replkit.site.control import ControlClient

LOOK_EVERY_S = 0.1


@click.group(short_help="Make, list, show, restore and delete snapshots.")
def snapshot() -> None:
    """Snapshots of a volume: each is a read-only volume of its own."""


@snapshot.command()
@click.argument("volume")
@click.argument("name")
@json_option
@control_option
def create(client: ControlClient, volume: str, name: str, as_json: bool) -> None:
    """Make the snapshot NAME of VOLUME; on a primary exactly at a cut."""
    result = ask(client, "snapshot-create", volume=volume, name=name)
    emit(result, as_json, lambda r: click.echo(f"{r['name']} holds {volume} at {position_text(r['stamp'])}"))


@snapshot.command("list")
@click.argument("volume", required=False)
@json_option
@control_option
def list_(client: ControlClient, volume: str | None, as_json: bool) -> None:
    """List the snapshots of VOLUME, oldest first."""
    emit(ask(client, "snapshot-list", volume=volume), as_json, lambda r: _render(r["snapshots"]))


@snapshot.command()
@click.argument("volume")
@click.argument("name")
@json_option
@control_option
def show(client: ControlClient, volume: str, name: str, as_json: bool) -> None:
    """Show one snapshot."""
    emit(ask(client, "snapshot-show", volume=volume, name=name), as_json, lambda r: _render([r]))


@snapshot.command()
@click.argument("volume")
@click.argument("name")
@json_option
@control_option
def delete(client: ControlClient, volume: str, name: str, as_json: bool) -> None:
    """Delete any snapshot of the queue; older ones keep what they need of it."""
    result = ask(client, "snapshot-delete", volume=volume, name=name)
    emit(result, as_json, lambda r: click.echo(f"snapshot {r['name']} of {r['volume']} is deleted"))


@snapshot.command()
@click.argument("volume")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@control_option
def restore(client: ControlClient, volume: str, name: str, yes: bool, as_json: bool) -> None:
    """Write the primary VOLUME back to what the snapshot NAME shows. What was written since is lost, unless it is in a
    newer snapshot.

    The users of the export are disconnected until it is done; secondaries get one ordinary set. Ctrl-C ends only the
    waiting: the restore goes on, also after a crash.
    """
    if not yes:
        if as_json:
            raise click.UsageError("with --json, say --yes")
        plan = ask(client, "snapshot-restore", volume=volume, name=name, dry_run=True)
        click.echo(
            f"{plan['volume']} goes back to {time_text(plan['created_s'])}: {plan['write_blocks']} blocks are written, "
            f"{plan['discard_blocks']} discarded. What they hold now is lost, unless a newer snapshot has it. Users of "
            "the export are disconnected meanwhile.",
            err=True,
        )
        click.confirm("Go on?", abort=True, err=True)
    found = _watch_restore(client, ask(client, "snapshot-restore", volume=volume, name=name))
    if found["error"]:
        raise ControlError(
            f"snapshot {name} was not restored: {found['error']}",
            hint="the volume is not served until it is: give the command again, or restore another snapshot",
        )
    emit(found, as_json, lambda r: click.echo(f"{r['volume']} is as in {name}; set {r['number']} tells the others"))


def _watch_restore(client: ControlClient, found: dict[str, Any]) -> dict[str, Any]:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"restore {found['snapshot']}", total=None)
        while not found["done"] and not found["error"]:
            bar.update(
                task, completed=found["total_blocks"] - found["left_blocks"], total=found["total_blocks"] or None
            )
            time.sleep(LOOK_EVERY_S)
            found = ask(client, "snapshot-restore-progress", volume=found["volume"])
    return found


def _render(records: list[dict[str, Any]]) -> None:
    from replkit.site.sizes import format_size

    table = new_table("name", "created", "position", ">size", "state")
    for record in records:
        states = ["valid" if record["valid"] else "INVALID", "held" if record["held"] else ""]
        boundary = position_text(record["stamp"]) + ("" if record["at_boundary"] else " (after it, at no boundary)")
        table.add_row(
            record["name"], time_text(record["created_s"]), boundary, format_size(record["size_bytes"]),
            " ".join(filter(None, states)),
        )  # fmt: skip
    show_table(table)
