"""``replkit pull``: ask the primary for a newer version of a secondary that is updated on demand (C5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from replkit.cli.connection import ask, control_option
from replkit.cli.output import emit, json_option, position_text

if TYPE_CHECKING:
    from replkit.site.control import ControlClient

HOW = {
    "nothing": "has it already",
    "sets": "got the sets that it lacked",
    "difference": "got the blocks that changed",
    "copy": "got a full copy",
}


@click.command(short_help="Ask the primary for a newer version.")
@click.argument("volume", required=False)
@click.option("--at", metavar="NUMBER", type=click.IntRange(min=0), help="This position; else the newest.")
@click.option("--allow-full-copy", "allow_copy", is_flag=True, help="Take a full copy where nothing less does.")
@click.option(
    "--timeout", "timeout_s", metavar="SECONDS", type=click.FloatRange(min=0, min_open=True), default=60.0,
    show_default=True, help="How long to wait for it.",
)  # fmt: skip
@json_option
@control_option
def pull(
    *, client: ControlClient, volume: str | None, at: int | None, allow_copy: bool, timeout_s: float, as_json: bool
) -> None:
    """Bring the secondary VOLUME of this site, which is updated on demand, to the newest version or to one it names."""
    result = ask(client, "pull", volume=volume, at=at, allow_copy=allow_copy or None, timeout_s=timeout_s)
    emit(result, as_json, _say)


def _say(result: dict[str, Any]) -> None:
    click.echo(
        f"{result['volume']} {HOW[result['how']]}: it stands at {position_text(result['position'])} after "
        f"{result['duration_s']:.2f} s"
    )
