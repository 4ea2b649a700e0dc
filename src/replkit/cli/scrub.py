"""``replkit scrub``: read all that is stored for a volume again, and say what of it is damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from replkit.cli.connection import control_option
from replkit.cli.jobs import run_job
from replkit.cli.output import emit, json_option, new_table, show_table

if TYPE_CHECKING:
    from replkit.site.control import ControlClient


@click.command(short_help="Check everything stored for a volume.")
@click.argument("volume", required=False)
@click.option("--repair", is_flag=True, help="Of a secondary: fetch again what is damaged and its primary still has.")
@json_option
@control_option
def scrub(client: ControlClient, volume: str | None, repair: bool, as_json: bool) -> None:
    """Read all that the save volume of VOLUME holds, and verify it; exit code 1 when something is damaged.

    Of a volume in a bucket each block in use is verified, too. Runs in a process of its own, beside all else; Ctrl-C
    ends it. Nothing is changed without --repair. With it, damaged records of delta sets are fetched again from the
    primary as long as it keeps them, and damaged blocks of a secondary in a bucket of this site are sent again.
    """
    found = run_job(client, "scrub", volume, repair=repair)
    emit(found, as_json, _render)
    if found["damage_count"]:
        raise SystemExit(1)


def _render(found: dict[str, Any]) -> None:
    blocks = f"{found['checked_blocks']:,} blocks, " if found["checked_blocks"] else ""
    if not found["damage_count"]:
        click.echo(
            f"{found['volume']}: {blocks}{found['checked']} records and cells, none damaged "
            f"({found['duration_s']:.1f} s)"
        )
        return
    table = new_table("what", "damage", title=f"damaged in {found['volume']}")
    for sentence in found["damage"]:
        name, _, what = sentence.partition(": ")
        table.add_row(name, what)
    show_table(table)
    click.echo(f"{found['damage_count']} of {blocks}{found['checked']} records and cells are damaged")
    repair = found["repair"]
    if repair is not None and repair["records"]:
        click.echo(f"records of delta sets fetched again from the primary: {repair['records']}")
    if repair is not None and repair["blocks"]:
        click.echo(f"{repair['blocks']} blocks are sent again with set {repair['number']}")
    for sentence in repair["left"] if repair is not None else ():
        click.echo(f"not repaired: {sentence}")
