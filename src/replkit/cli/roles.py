"""``failover``, ``switchover``, ``failback``, ``reverse``, ``resync``, ``rewind``: the commands that change roles."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from replkit.cli.connection import ask, control_option
from replkit.cli.output import emit, json_option, position_text
from replkit.cli.plan import agree

if TYPE_CHECKING:
    from replkit.site.control import ControlClient

LOOK_EVERY_S = 0.2
volume_argument = click.argument("volume", required=False)
request_option = click.option(
    "--request-id", metavar="ID", help="Give the same ID again after an interruption: it is carried out once."
)
plan_option = click.option(
    "--plan",
    "plan_id",
    metavar="ID",
    help="As said by this plan, without asking: refused where it does not hold any more.",
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
background_option = click.option("--no-wait", is_flag=True, help="Return when it has begun; it goes on by itself.")
timeout_option = click.option(
    "--timeout", "timeout_s", metavar="SECONDS", type=click.FloatRange(min=0, min_open=True), default=120.0,
    show_default=True, help="How long to wait for it.",
)  # fmt: skip


@click.command(short_help="Make this secondary the primary.")
@volume_argument
@click.option("--sync", is_flag=True, help="Lose nothing: the same as switchover; refused when the primary is down.")
@click.option("--now", is_flag=True, help="Do not play what was received and is not played yet; it stays readable.")
@click.option("--force", is_flag=True, help="Also where this site has just handed the role to one that is lost now.")
@request_option
@plan_option
@yes_option
@json_option
@control_option
def failover(
    *, client: ControlClient, volume: str | None, sync: bool, now: bool, force: bool, request_id: str | None,
    plan_id: str | None, yes: bool, as_json: bool,
) -> None:  # fmt: skip
    """Make the secondary VOLUME of this site the primary: it is played to the end of what was received, and written.

    What the old primary wrote and this site did not receive is not in it. The old primary refuses its users' writes as
    soon as it hears of this; when it is back, bring it up to date with: replkit resync.
    """
    if sync and now:
        raise click.UsageError("--sync and --now exclude each other")
    if sync:
        _switch(client, volume, request_id, 120.0, as_json=as_json)
        return
    plan_id = agree(client, "failover", volume, plan_id=plan_id, yes=yes, as_json=as_json, now=now or None)
    answer = ask(
        client, "failover", volume=volume, now=now or None, force=force or None, plan=plan_id, request=request_id
    )
    emit(answer, as_json, _say_failed_over)


def _say_failed_over(result: dict[str, Any]) -> None:
    click.echo(
        f"{result['volume']} is the primary here, from {position_text(result['position'])} on, "
        f"after {result['duration_s']:.2f} s"
    )
    if result.get("nbd"):
        click.echo(f"write it at {result['nbd']}")
    click.echo("when the old primary is back: replkit resync, there")


@click.command(short_help="Take the role over from the primary; nothing is lost.")
@volume_argument
@request_option
@timeout_option
@json_option
@control_option
def switchover(
    *, client: ControlClient, volume: str | None, request_id: str | None, timeout_s: float, as_json: bool
) -> None:
    """Make the secondary VOLUME of this site the primary, and the primary a secondary, without loss and without a copy.

    The primary's writers wait for the last set to arrive here. Refused when the primary is down: then use failover.
    """
    _switch(client, volume, request_id, timeout_s, as_json=as_json)


def _switch(
    client: ControlClient, volume: str | None, request_id: str | None, timeout_s: float, *, as_json: bool
) -> None:
    result = ask(client, "switchover", volume=volume, request=request_id, timeout_s=timeout_s)
    emit(
        result,
        as_json,
        lambda r: click.echo(f"{r['volume']} is the primary here after {r['duration_s']:.2f} s; nothing was lost"),
    )


def _hand_over(
    client: ControlClient, volume: str | None, member: str | None, timeout_s: float, *, plan_id: str | None,
    as_json: bool, cancel: bool,
) -> None:  # fmt: skip
    if cancel:
        emit(ask(client, "handover-cancel", volume=volume), as_json, lambda r: click.echo(f"given up: {r['state']}"))
        return
    result = ask(client, "handover", volume=volume, member=member, timeout_s=timeout_s, plan=plan_id)
    emit(
        result,
        as_json,
        lambda r: click.echo(
            f"{r['member']} has the role of {r['volume']} after {r['duration_s']:.2f} s, without a copy"
        ),
    )


@click.command(short_help="Give the role back to a member.")
@volume_argument
@click.option("--to", "member", metavar="MEMBER", help="The member that becomes the primary (the only one, else).")
@timeout_option
@click.option("--cancel", is_flag=True, help="Give up a failback that still waits for the last set.")
@plan_option
@json_option
@control_option
def failback(
    *, client: ControlClient, volume: str | None, member: str | None, timeout_s: float, cancel: bool,
    plan_id: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Give the role of the primary VOLUME to a member that follows, for example back after a failover and a resync.

    Writers wait for the last set; then this site is a secondary, without a copy. Can be given again after any error.
    """
    _hand_over(client, volume, member, timeout_s, plan_id=plan_id, as_json=as_json, cancel=cancel)


@click.command(short_help="Swap the roles of this primary and a member.")
@volume_argument
@click.option("--to", "member", metavar="MEMBER", help="The member that becomes the primary (the only one, else).")
@timeout_option
@click.option("--cancel", is_flag=True, help="Give up a swap that still waits for the last set.")
@plan_option
@json_option
@control_option
def reverse(
    *, client: ControlClient, volume: str | None, member: str | None, timeout_s: float, cancel: bool,
    plan_id: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Swap the direction of replication, with no disaster at all: the same as failback."""
    _hand_over(client, volume, member, timeout_s, plan_id=plan_id, as_json=as_json, cancel=cancel)


@click.command(short_help="Bring an old primary up to date, by what differs.")
@volume_argument
@click.option("--from", "source", metavar="PEER|URL", help="The site of the new primary (the only peer, else).")
@click.option("--volume-there", "source_volume", metavar="NAME", help="Name of the volume there (default: the same).")
@click.option(
    "--allow-full-copy",
    is_flag=True,
    help="Give a resync that is under way and cannot go on up for a new copy of all that is in use there.",
)
@plan_option
@background_option
@yes_option
@json_option
@control_option
def resync(
    *, client: ControlClient, volume: str | None, source: str | None, source_volume: str | None, allow_full_copy: bool,
    plan_id: str | None, no_wait: bool, yes: bool, as_json: bool,
) -> None:  # fmt: skip
    """Make this site's VOLUME a secondary of the new primary: what it wrote after the two parted is taken back.

    Only blocks that differ travel. What the volume held is kept before, as a salvage that can be read and exported.
    """
    plan_id = agree(
        client, "resync", volume, plan_id=plan_id, yes=yes, as_json=as_json, source=source, source_volume=source_volume
    )
    result = ask(
        client, "resync", volume=volume, source=source, source_volume=source_volume, plan=plan_id,
        allow_full_copy=allow_full_copy or None,
    )  # fmt: skip
    if not as_json:
        _say_resync(result)
    if not no_wait:
        _wait_until_following(client, result["volume"])
    emit(result, as_json, lambda r: _say_end(r, waited=not no_wait))


@click.command(short_help="Take a volume back to where the new primary began.")
@volume_argument
@click.option("--from", "source", metavar="PEER|URL", help="The site that holds that boundary (the only peer, else).")
@click.option("--volume-there", "source_volume", metavar="NAME", help="Name of the volume there (default: the same).")
@plan_option
@background_option
@yes_option
@json_option
@control_option
def rewind(
    *, client: ControlClient, volume: str | None, source: str | None, source_volume: str | None,
    plan_id: str | None, no_wait: bool, yes: bool, as_json: bool,
) -> None:  # fmt: skip
    """Bring this site's VOLUME to the restart point of the new primary, no further, by the before-images kept there."""
    plan_id = agree(
        client, "rewind", volume, plan_id=plan_id, yes=yes, as_json=as_json, source=source, source_volume=source_volume
    )
    result = ask(client, "resync", volume=volume, source=source, source_volume=source_volume, plan=plan_id, rewind=True)
    if not as_json:
        _say_resync(result)
    if not no_wait:
        _wait_until_following(client, result["volume"])
    emit(result, as_json, lambda r: _say_end(r, waited=not no_wait))


def _wait_until_following(client: ControlClient, volume: str) -> None:
    """Return when the volume stands at a boundary of the new primary; what holds it up is said once."""
    from replkit.errors import ControlError

    said = ""
    while True:
        try:
            status = ask(client, "status")
        except ControlError:  # the volume moves from one process to another
            time.sleep(LOOK_EVERY_S)
            continue
        found: dict[str, Any] = next((each for each in status["volumes"] if each["name"] == volume), {})
        if found.get("role") == "secondary" and found.get("state") in {"up-to-date", "outdated"}:
            return
        trouble = (found.get("resync") or {}).get("error", "")
        if trouble and trouble != said:
            click.echo(f"{click.style('Waiting:', fg='yellow')} {trouble}", err=True)
        said = trouble
        time.sleep(LOOK_EVERY_S)


def _say_end(result: dict[str, Any], *, waited: bool) -> None:
    if waited:
        click.echo(f"{result['volume']} follows {result['primary']}")
    else:
        click.echo("follow it with: replkit status --watch")


def _say_resync(result: dict[str, Any]) -> None:
    if result["full_copy"]:
        click.echo(f"{result['volume']} is copied again, whole, by {result['primary']}; what it held stays a salvage")
        return
    click.echo(
        f"{result['volume']} returns to {position_text(result['fork'])} and asks {result['primary']} for the rest"
    )
    if result["compares"]:
        click.echo("the list of what differs is gone: both sides are compared by hashes first, which reads all in use")
    if result["salvage"]:
        click.echo(f"what it held is kept as snapshot {result['salvage']}")
