"""``replkit export``: serve a snapshot, a secondary's view, or a boundary of its past, read-only over NBD (X1, X2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from replkit.cli.connection import ask, control_option
from replkit.cli.output import emit, json_option, moment

if TYPE_CHECKING:
    from replkit.site.control import ControlClient


@click.command(short_help="Serve a snapshot or a secondary's view over NBD.")
@click.argument("volume", required=False)
@click.option("--snapshot", metavar="NAME", help="This snapshot; else the view of a secondary.")
@click.option("--at", metavar="TIME|POSITION", help="This boundary of the past of a secondary.")
@click.option("--left-behind", is_flag=True, help="What a failover --now received and did not play.")
@click.option("--nbd", "address", metavar="ADDRESS", help="unix:/path or host:port (default: a socket of its own).")
@click.option("--hold", is_flag=True, help="Keep the view at the boundary of now, with or without clients.")
@click.option("--follow", is_flag=True, help="Let the view go on with playback between two requests.")
@click.option("--stop", is_flag=True, help="Serve it no longer.")
@json_option
@control_option
def export(
    *,
    client: ControlClient,
    volume: str | None,
    snapshot: str | None,
    at: str | None,
    left_behind: bool,
    address: str | None,
    hold: bool,
    follow: bool,
    stop: bool,
    as_json: bool,
) -> None:
    """Serve a snapshot, or the consistent view of a secondary, read-only over NBD until --stop or the daemon ends.

    A view stays at one boundary while somebody is connected: the first client meets the newest one, and when the last
    has gone the next meets the newest again. A boundary of the past (see "replkit boundaries") is a POSITION as 1:17,
    or the newest at a TIME as 2026-03-01T12:00:00Z or "2h ago".
    """
    if at is not None and (snapshot is not None or hold or follow):
        raise click.UsageError("--at goes with neither --snapshot nor --hold nor --follow")
    if left_behind and (snapshot is not None or at is not None or hold or follow):
        raise click.UsageError("--left-behind goes with no other choice of what is served")
    command = "export-remove" if stop else "export-add"
    result = ask(
        client, command, volume=volume, snapshot=snapshot, at=moment(at), address=address, hold=hold or None,
        follow=follow or None, left_behind=left_behind or None,
    )  # fmt: skip
    if stop:
        emit(result, as_json, lambda r: click.echo(f"{r['export']} is served no longer"))
    else:
        emit(result, as_json, _say_served)


def _say_served(result: dict[str, Any]) -> None:
    where = f", boundary {result['boundary']}" if result.get("boundary") else ""
    click.echo(f"{result['export']} is served read-only at {result['uri']}{where}")
