"""``replkit policy``: what a volume's replication does, and changing it while it runs (D2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from replkit.cli.connection import ask, control_option
from replkit.cli.output import emit, json_option, new_table, show_table
from replkit.errors import InvalidArgumentError

if TYPE_CHECKING:
    from replkit.site.control import ControlClient


@click.command(short_help="Show or change the policy of a volume.")
@click.argument("words", metavar="[VOLUME] [FIELD=VALUE]...", nargs=-1)
@json_option
@control_option
def policy(client: ControlClient, words: tuple[str, ...], as_json: bool) -> None:
    """Show the policy of a volume, or change fields of it; services take the change up at once, at either end.

    For example: replkit policy disk interval_s=10 congestion=pull-ahead high_water_bytes=64MiB

    A secondary keeps its past as its own policy says: every boundary of the last keep_all_s seconds, then one each
    keep_each_s, until keep_for_s (0: none). See "replkit boundaries".
    """
    volume = next((word for word in words if "=" not in word), None)
    changes = parse_changes([word for word in words if "=" in word])
    if len(words) - len(changes) > 1:
        raise InvalidArgumentError("name one volume, then FIELD=VALUE for each field to change")
    result = (
        ask(client, "policy-set", volume=volume, changes=changes)
        if changes
        else ask(client, "policy-show", volume=volume)
    )
    emit(result, as_json, _render)


def parse_changes(words: list[str]) -> dict[str, Any]:
    """``FIELD=VALUE`` words as a dict; numbers as numbers, sizes as the daemon reads them."""
    changes: dict[str, Any] = {}
    for word in words:
        name, _, text = word.partition("=")
        if name in changes:
            raise InvalidArgumentError(f"{name} is given twice")
        changes[name] = _value(text)
    return changes


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _render(result: dict[str, Any]) -> None:
    table = new_table("field", ">value", title=f"policy of {result['volume']}")
    for name, value in result["policy"].items():
        table.add_row(name, str(value))
    show_table(table)
