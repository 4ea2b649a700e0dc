"""``replkit plan``: what a change of role would do, in figures, before it is done (invariant 10)."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from replkit.cli.connection import ask, control_option
from replkit.cli.output import counted, emit, json_option, new_table, position_text, show_table

if TYPE_CHECKING:
    from replkit.site.control import ControlClient

KINDS = ("failover", "switchover", "failback", "reverse", "resync", "rewind")


@click.command(short_help="Say what a change of role would do.")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("volume", required=False)
@click.option("--now", is_flag=True, help="Of a failover --now.")
@click.option("--from", "source", metavar="PEER|URL", help="Of a resync or rewind: the site of the new primary.")
@click.option("--volume-there", "source_volume", metavar="NAME", help="Name of the volume there (default: the same).")
@click.option("--to", "member", metavar="MEMBER", help="Of a failback or reverse: the member that takes the role.")
@json_option
@control_option
def plan(
    *, client: ControlClient, kind: str, volume: str | None, now: bool, source: str | None, source_volume: str | None,
    member: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Say what the command KIND would do to VOLUME: what is lost, undone and sent; nothing is changed.

    The command itself takes the id (--plan ID): it is refused when roles, epochs, the fork or holds changed since,
    or when more would be lost or undone than the plan said.
    """
    result = ask(
        client, "plan", kind=kind, volume=volume, now=now or None, source=source, source_volume=source_volume,
        member=member,
    )  # fmt: skip
    emit(result, as_json, _render)


def agree(
    client: ControlClient, kind: str, volume: str | None, *, plan_id: str | None, yes: bool, as_json: bool,
    **arguments: Any,
) -> str | None:  # fmt: skip
    """Say what is about to happen, and go on only if that is wanted (invariant 10); the id of the plan agreed to."""
    if plan_id is not None or yes:
        return plan_id
    if as_json:
        raise click.UsageError("with --json, say --yes or name a --plan")
    made = ask(client, "plan", kind=kind, volume=volume, **arguments)
    _render(made)
    click.confirm("Go on?", abort=True, err=True)
    return str(made["id"])


def _render(plan: dict[str, Any]) -> None:
    table = new_table("", "", title=f"{plan['kind']} of {plan['volume']} (now: {plan['state']})")
    table.add_row("stands then at", position_text(plan["position"]))
    if plan["fork"] is not None:
        table.add_row("the histories part at", position_text(plan["fork"]))
    table.add_row("newest write kept", _time(plan["newest_kept_s"]))
    table.add_row("lost", _lost(plan))
    table.add_row("undone here", f"{_blocks(plan['undo_blocks'])} in {counted(plan['undo_sets'], 'set')}")
    table.add_row("travels", _travels(plan))
    table.add_row("played before", counted(plan["play_sets"], "set"))
    show_table(table)
    for warning in plan["warnings"]:
        click.echo(f"{click.style('Note:', fg='yellow')} {warning}")
    click.echo(_carry_out(plan))


def _carry_out(plan: dict[str, Any]) -> str:
    """The command that was planned, as it is to be given."""
    kind, volume = plan["kind"], plan["volume"]
    if kind == "switchover":  # its command is given at the other site, which cannot know this plan
        return f"carry it out at the site of {plan['member']} with: replkit switchover {volume}"
    options = " --now" if plan["mode"] == "now" else f" --to {plan['member']}" if plan["member"] else ""
    return f"carry it out with: replkit {kind} {volume}{options} --plan {plan['id']}"


def _travels(plan: dict[str, Any]) -> str:
    from replkit.site.sizes import format_size

    seconds = "" if plan["estimated_s"] is None else f"about {plan['estimated_s']:.0f} s"
    if plan["send_bytes"] is None:
        return f"not known before a comparison ({_blocks(plan['send_blocks'])})"
    if plan["way"] == "nothing":
        return f"nothing ({seconds})"
    return f"{format_size(plan['send_bytes'])} ({_blocks(plan['send_blocks'])}, as {plan['way']}, {seconds})"


def _lost(plan: dict[str, Any]) -> str:
    if plan["lost_sets"] is None:
        return "not known: the primary cannot be reached"
    if not plan["lost_sets"] and not plan["lost_s"]:
        return "nothing"
    return f"{counted(plan['lost_sets'], 'set')}, and what was not cut: the last {plan['lost_s'] or 0:.1f} s"


def _blocks(count: int | None) -> str:
    return "an unknown number of blocks" if count is None else counted(count, "block")


def _time(seconds: float | None) -> str:
    return "not known" if seconds is None else datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
