"""The history of a volume in ``replkit status --history``: sets cut or received, and passes of playback (R8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replkit.cli.output import new_table, time_text

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = 12


def history_tables(volume: dict[str, Any]) -> list[Table]:
    """The newest sets and passes of a volume, newest first; none for a volume that has no history yet."""
    tables = []
    if volume.get("history"):
        tables.append(_sets(volume))
    if volume.get("passes"):
        tables.append(_passes(volume))
    return tables


def _sets(volume: dict[str, Any]) -> Table:
    from replkit.site.sizes import format_size

    done = "cut" if volume["role"] == "primary" else "received"
    table = new_table("set", "created", ">took", ">blocks", ">bytes", title=f"{volume['name']}: sets {done}")
    for each in reversed(volume["history"][-SHOWN:]):
        table.add_row(
            str(each["number"]), time_text(each["created_s"]), f"{each['duration_s']:.2f} s", str(each["blocks"]),
            format_size(each["stored_bytes"]),
        )  # fmt: skip
    return table


def _passes(volume: dict[str, Any]) -> Table:
    table = new_table("sets", "played", ">took", ">blocks", ">in one pass", title=f"{volume['name']}: playback")
    for each in reversed(volume["passes"][-SHOWN:]):
        sets = str(each["first"]) if each["first"] == each["last"] else f"{each['first']} to {each['last']}"
        table.add_row(
            sets, time_text(each["started_s"]), f"{each['duration_s']:.2f} s", str(each["blocks"]), str(each["sets"])
        )
    return table
