"""Commands on a primary volume: cut, pause, resume, wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from replkit.cli.connection import ask, control_option
from replkit.cli.output import emit, json_option, position_text

if TYPE_CHECKING:
    from replkit.site.control import ControlClient

volume_argument = click.argument("volume", required=False)


@click.command(short_help="Cut a delta set now.")
@volume_argument
@click.option("--snapshot", metavar="NAME", help="Make a snapshot exactly at the cut.")
@json_option
@control_option
def cut(*, client: ControlClient, volume: str | None, snapshot: str | None, as_json: bool) -> None:
    """Cut a delta set now, and return when it is durable in the primary's save volume."""
    result = ask(client, "cut", volume=volume, snapshot=snapshot)
    emit(result, as_json, lambda r: click.echo(f"{r['volume']} stands at {position_text(r['position'])}"))


@click.command(short_help="Stop sending; changes are logged on.")
@volume_argument
@click.option("--member", metavar="NAME", help="Only this secondary.")
@json_option
@control_option
def pause(*, client: ControlClient, volume: str | None, member: str | None, as_json: bool) -> None:
    """Stop sending delta sets; they are cut and kept on. Survives a restart."""
    emit(ask(client, "pause", volume=volume, member=member), as_json, _say_state)


@click.command(short_help="Send again after a pause.")
@volume_argument
@click.option("--member", metavar="NAME", help="Only this secondary.")
@json_option
@control_option
def resume(*, client: ControlClient, volume: str | None, member: str | None, as_json: bool) -> None:
    """Send delta sets again."""
    emit(ask(client, "resume", volume=volume, member=member), as_json, _say_state)


def _say_state(result: dict[str, Any]) -> None:
    whom = f" to {result['member']}" if result.get("member") else ""
    click.echo(f"{result['volume']}: replication{whom} is {'paused' if result['paused'] else 'running'}")


@click.command(short_help="Return when all that is written now is safe elsewhere.")
@volume_argument
@click.option(
    "--durable-on", metavar="K", type=click.IntRange(min=1), default=1, show_default=True, help="Secondaries."
)
@click.option("--played", is_flag=True, help="Wait until it is played there too, not only received.")
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="Give up after this time.",
)
@json_option
@control_option
def wait(
    *, client: ControlClient, volume: str | None, durable_on: int, played: bool, timeout_s: float | None, as_json: bool
) -> None:
    """Cut, and return when K secondaries have acknowledged all that was written before the call as durable."""
    level = "played" if played else "received"
    result = ask(client, "wait", volume=volume, durable_on=durable_on, level=level, timeout_s=timeout_s)
    emit(
        result,
        as_json,
        lambda r: click.echo(
            f"{position_text(r['position'])} is {level} on {', '.join(r['members'])} after {r['waited_s']:.2f} s"
        ),
    )
