"""``replkit config``: check a file, and apply it to a running site."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replkit.cli.connection import ask, control_option
from replkit.cli.output import emit, json_option

if TYPE_CHECKING:
    from replkit.site.control import ControlClient


@click.group(short_help="Check or apply a configuration.")
def config() -> None:
    """The configuration seeds each volume once; after that, what is in force changes by commands only."""


@config.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def check(path: Path, as_json: bool) -> None:
    """Check the file PATH; every fault is shown with its place."""
    from replkit.errors import ConfigError
    from replkit.site.config import load_config

    try:
        found = load_config(path)
    except ConfigError as error:
        if not as_json or not error.faults:
            raise
        emit({"ok": False, "faults": [{"path": p, "what": w} for p, w in error.faults]}, True, lambda _: None)
        raise SystemExit(error.exit_code) from error
    result = {"ok": True, "faults": [], "site": found.site, "volumes": sorted(found.volumes)}
    emit(
        result, as_json, lambda r: click.echo(f"{path}: site {r['site']} with {len(r['volumes'])} volume(s), no fault")
    )


@config.command()
@click.option("--remove-members", is_flag=True, help="Remove secondaries that the file does not name.")
@json_option
@control_option
def apply(client: ControlClient, remove_members: bool, as_json: bool) -> None:
    """Let the daemon read its file again and bring policy and members to what it says; never a role."""
    emit(ask(client, "config-apply", remove_members=remove_members), as_json, _render)


def _render(result: dict[str, Any]) -> None:
    lines = [f"{volume}: {line}" for volume, changes in sorted(result["changed"].items()) for line in changes]
    click.echo("\n".join(lines) or "nothing had to be changed")
    if result["needs_restart"]:
        click.echo(f"needs a restart of the daemon: {', '.join(result['needs_restart'])}")
