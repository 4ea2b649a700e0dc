"""``replkit verify``: prove that secondaries equal their primary at a boundary, by hashes (X4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from replkit.cli.connection import control_option
from replkit.cli.jobs import run_job
from replkit.cli.output import emit, json_option, new_table, position_text, show_table

if TYPE_CHECKING:
    from replkit.site.control import ControlClient

SHOWN = 20


@click.command(short_help="Prove that secondaries equal the primary.")
@click.argument("volume", required=False)
@click.argument("replica", required=False)
@click.option("--repair", is_flag=True, help="Send what differs again, as it is at the primary.")
@json_option
@control_option
def verify(client: ControlClient, volume: str | None, replica: str | None, repair: bool, as_json: bool) -> None:
    """Compare the secondaries of the primary VOLUME with it at a new boundary, or only REPLICA; 1 when one differs.

    Both sides make a snapshot at a set of its own and hash it, while writes and replication go on; only hashes travel.
    Blocks that are in use on neither side are not read: damage in them is not found, and no reader of the volume sees
    it. With --repair the blocks that differ travel as the next set; run verify again to prove that they arrived.
    Ctrl-C ends it.
    """
    found = run_job(client, "verify", volume, member=replica, repair=repair or None)
    emit(found, as_json, _render)
    differs = any(member["differing_blocks"] for member in found["members"])
    if any(member["error"] for member in found["members"]) or (differs and found["repair"] is None):
        raise SystemExit(1)


def _render(found: dict[str, Any]) -> None:
    from replkit.site.sizes import format_size

    where = position_text(found["position"])
    for member in found["members"]:
        compared, hashes = member["compared_blocks"] * found["block_size"], format_size(member["hash_bytes"])
        if member["error"]:
            click.echo(f"{member['name']}: not verified: {member['error']}")
        elif not member["differing_blocks"]:
            click.echo(
                f"{member['name']} equals {found['volume']} at {where}: {format_size(compared)} compared by {hashes} "
                f"of hashes ({found['duration_s']:.1f} s)"
            )
        else:
            table = new_table(
                ">first block", ">blocks", title=f"{member['name']} differs from {found['volume']}, {where}"
            )
            for start, count in member["differing"][:SHOWN]:
                table.add_row(str(start), str(count))
            show_table(table)
            click.echo(f"{member['differing_blocks']} blocks of {member['name']} differ")
    if found["repair"] is not None:
        click.echo(f"{found['repair']['blocks']} blocks travel again, as set {found['repair']['number']}")
        click.echo(f"prove it with: replkit verify {found['volume']}")
