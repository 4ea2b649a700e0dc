"""``replkit status``: what a site does, and how far its copies are (R8)."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from replkit.cli.connection import ask, control_option
from replkit.cli.history import history_tables
from replkit.cli.output import counted, new_table, position_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions, Group, RenderableType

    from replkit.site.control import ControlClient

WATCH_EVERY_S = 1.0
UNREACHABLE = 1
_ENDLESS = 10_000
_VOLUME_COLUMNS = ("volume", "role", "state", "epoch", "set", ">changed", ">kept sets", "NBD")
_MEMBER_COLUMNS = (
    "volume", "member", "state", "received", "played", ">outstanding", ">differs", ">lag", ">RPO", ">rate", ">average",
    "last error",
)  # fmt: skip
_TROUBLES = frozenset({"disconnected", "diverged", "failed", "refused", "stale"})
"""What keeps a sender from its member, beside the state that the member has at the primary."""
_BILL_COLUMNS = ("in a bucket", "since", ">writes", ">reads", ">lists", ">deletes", ">sent", ">fetched")
_KINDS = ("gets", "lists", "deletes")


@click.command(short_help="Show roles, sets, members, lag and rates.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON with a schema_version; with --watch, a line each time."
)
@click.option("--watch", is_flag=True, help="Show it again every second until Ctrl-C.")
@click.option("--history", is_flag=True, help="Show the newest sets and passes of playback too, with their durations.")
@control_option
def status(*, client: ControlClient, as_json: bool, watch: bool, history: bool) -> None:
    """Show the volumes of a site: role, current set, members with their lag, what is outstanding, and problems.

    Exit code 1 when a volume cannot be reached: its process is not ready, or the volume cannot be opened.
    """
    if watch:
        _watch(client, as_json, history=history)
        return
    found = ask(client, "status")
    if as_json:
        click.echo(json.dumps(found, indent=2, sort_keys=True))
    else:
        from rich.console import Console

        console = Console()
        (console if console.is_terminal else Console(width=200)).print(render(found, history=history))
    if any(volume.get("problem") for volume in found["volumes"]):
        raise SystemExit(UNREACHABLE)


def _watch(client: ControlClient, as_json: bool, *, history: bool) -> None:
    from rich.live import Live

    try:
        if as_json:
            while True:
                click.echo(json.dumps(ask(client, "status"), sort_keys=True))
                time.sleep(WATCH_EVERY_S)
        with Live(render(ask(client, "status"), history=history), refresh_per_second=4) as live:
            while True:
                time.sleep(WATCH_EVERY_S)
                live.update(render(ask(client, "status"), history=history))
    except KeyboardInterrupt:
        return


class _Rows:
    """A table where the terminal is wide enough for it, else a paragraph for each row, so that nothing is cut off."""

    def __init__(self, columns: tuple[str, ...], rows: list[tuple[str, ...]], title: str | None = None) -> None:
        self._columns, self._rows, self._title = columns, rows, title

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.measure import Measurement
        from rich.text import Text

        table = new_table(*self._columns, title=self._title)
        for row in self._rows:
            table.add_row(*row)
        if Measurement.get(console, options.update(max_width=_ENDLESS), table).maximum <= options.max_width:
            yield table
            return
        names = [column.removeprefix(">") for column in self._columns]
        for row in self._rows:
            facts = [f"{name} {value}" for name, value in zip(names, row, strict=True) if value not in {"", "-"}]
            yield Text("; ".join(facts))


def render(found: dict[str, Any], *, history: bool = False) -> Group:
    """The status of a site as tables."""
    from rich.console import Group
    from rich.text import Text

    head = f"site {found['site']}, process {found['pid']}, version {found['version']}"
    parts: list[RenderableType] = [Text(head + (f", listens at {found['listen']}" if found["listen"] else ""))]
    parts.append(_Rows(_VOLUME_COLUMNS, [_volume_row(volume) for volume in found["volumes"]], title="volumes"))
    members = [(volume, member) for volume in found["volumes"] for member in volume.get("members", [])]
    if members:
        parts.append(_Rows(_MEMBER_COLUMNS, [(volume["name"], *_member_row(member)) for volume, member in members]))
    if history:
        parts += [table for volume in found["volumes"] for table in history_tables(volume)]
    paid = [volume for volume in found["volumes"] if volume.get("requests")]
    if paid:
        parts.append(_bill(paid))
    notes = [f"{volume['name']}: {line}" for volume in found["volumes"] for line in _notes(volume)]
    if found.get("allow_remote") and not found["encrypted"]:
        notes.append("allow_remote is set: links between sites, and NBD over TCP, are not encrypted")
    notes += [
        f"worker {worker['name']} is not ready: {worker['last_error'] or 'starting'}"
        for worker in found["workers"]
        if not worker["ready"]
    ]
    parts += [Text(note, style="yellow") for note in notes]
    return Group(*parts)


def _volume_row(volume: dict[str, Any]) -> tuple[str, ...]:
    from replkit.site.sizes import format_size

    changed = volume.get("changed_bytes")
    return (
        volume["name"],
        volume.get("role") or "-",
        "unreachable" if volume.get("problem") else volume.get("state", "-"),
        str(volume["epoch"]["count"]) if "epoch" in volume else "-",
        position_text(volume.get("position")),
        "-" if changed is None else format_size(changed),
        str(volume.get("kept_sets", "-")),
        volume.get("nbd") or "-",
    )


def _member_row(member: dict[str, Any]) -> tuple[str, ...]:
    from replkit.site.sizes import format_age, format_size

    state = member["state"]
    if state == "copying" and member.get("copied_bytes") is not None:
        state = f"copying, {format_size(member['copied_bytes'])} done"
    if member.get("sender_state") in _TROUBLES and member["sender_state"] != state:
        state = f"{state}, {member['sender_state']}"
    return (
        member["name"],
        state,
        position_text(member["received"]),
        position_text(member["played"]),
        f"{counted(member['outstanding_sets'], 'set')}, {format_size(member['outstanding_bytes'])}",
        "-" if member.get("differing_blocks") is None else counted(member["differing_blocks"], "block"),
        format_age(member["lag_s"]),
        format_age(member.get("rpo_s")),
        f"{format_size(member['rate_bytes_per_s'])}/s",
        "-" if member.get("average_bytes_per_s") is None else f"{format_size(member['average_bytes_per_s'])}/s",
        member["last_error"] or "",
    )


def _bill(volumes: list[dict[str, Any]]) -> _Rows:
    """What the requests and bytes of volumes in buckets were, because a bucket is paid by them."""
    from replkit.site.sizes import format_size

    rows = []
    for volume in volumes:
        for since, key in (("today (UTC)", "today"), ("it was made", "total")):
            spent = volume["requests"][key]
            counts = [spent.get("puts", 0) + spent.get("creates", 0), *(spent.get(k, 0) for k in _KINDS)]
            moved = [format_size(spent.get(kind, 0)) for kind in ("bytes_put", "bytes_got")]
            rows.append((volume["name"], since, *(f"{count:,}" for count in counts), *moved))
    return _Rows(_BILL_COLUMNS, rows)


def _role_notes(volume: dict[str, Any]) -> list[str]:
    """What a change of role does just now, or left to be done."""
    notes, resync, handover, fence = [], volume.get("resync"), volume.get("handover"), volume.get("fenced_by")
    if fence is not None:
        notes.append(
            f"takes no more writes: epoch {fence['count']} began elsewhere. Bring it up to date with: replkit resync"
        )
    if resync is not None:
        how = "compares hashes" if resync["compares"] else resync["phase"]
        error = f": {resync['error']}" if resync["error"] else ""
        fork = position_text(resync["fork_at"])
        notes.append(f"resyncs with {resync['peer']} from {fork} on, {how}, {resync['done']:.0%}{error}")
    if handover is not None:
        notes.append(f"hands its role over to {handover['member']}: {handover['phase']}")
    notes += [
        f"sets {left['first']} to {position_text(left['last'])} were received and not played; until failback, "
        f"read them with: replkit export {volume['name']} --left-behind; where they take room that is needed, delete "
        f"them with: replkit salvage delete {volume['name']} left-behind"
        for left in volume.get("left_behind", [])
    ]
    epochs = volume.get("epochs", [])
    if len(epochs) > 1:
        forks = ", ".join(f"{entry['count']} after {entry['fork_number']}" for entry in epochs[1:])
        notes.append(f"epochs began: {forks}")
    return notes


def _notes(volume: dict[str, Any]) -> list[str]:
    notes = [volume["problem"]] if volume.get("problem") else []
    notes += [f"drift: {line}" for line in volume.get("drift", [])]
    notes += _role_notes(volume)
    if volume.get("bucket") and not volume["bucket"]["fencing"]:
        notes.append("fencing is off, as its URL says: two sites that write this bucket at a time can destroy it")
    if volume.get("writes_suspended"):
        notes.append("writes are suspended until the save volume has room")
    return notes + list(volume.get("errors", []))
