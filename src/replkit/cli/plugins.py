"""``replkit plugins``: which URL schemes are there, who brought them, and the project of a new one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from replkit.cli.newplugin.writing import KINDS
from replkit.cli.output import emit, json_option, new_table, show_table


@click.group(invoke_without_command=True, short_help="List URL schemes and the plugins that brought them; begin one.")
@json_option
@click.pass_context
def plugins(context: click.Context, as_json: bool) -> None:
    """List the URL schemes of all installed plugins; one that cannot be loaded is shown with its problem."""
    if context.invoked_subcommand is not None:
        return
    from replkit.site.plugins import site_registry

    listing = [asdict(scheme) for scheme in site_registry().schemes()]
    emit({"schemes": listing}, as_json, _render)


def _render(result: dict[str, Any]) -> None:
    table = new_table("scheme", "opens", "plugin", "problem")
    for scheme in result["schemes"]:
        table.add_row(scheme["scheme"], ", ".join(scheme["kinds"]), scheme["origin"], scheme["problem"])
    show_table(table)


@plugins.command(short_help="Write the project of a new plugin.")
@click.argument("name")
@click.option("--kind", type=click.Choice(list(KINDS)), default="volume", show_default=True, help="What it opens.")
@click.option(
    "--dir", "folder", metavar="FOLDER", type=click.Path(path_type=Path), help="Where; by default ./replkit-NAME."
)
@json_option
def new(name: str, kind: str, folder: Path | None, as_json: bool) -> None:
    """Write the project of a plugin that opens NAME: URLs: pyproject with its entry point, source, tests, README.

    What is written works and passes the conformance suite and the scenarios of the simulator as it is, so that its
    author replaces the bodies of methods and keeps the tests green. The folder must not exist.
    """
    from replkit.cli.newplugin.writing import check_name, write_project
    from replkit.site.plugins import site_registry

    check_name(name, kind, {scheme.scheme: scheme.kinds for scheme in site_registry().schemes()})
    folder = folder or Path(f"replkit-{name}")
    written = write_project(name, kind, folder)
    emit({"name": name, "kind": kind, "folder": str(folder), "files": written}, as_json, _render_new)


def _render_new(result: dict[str, Any]) -> None:
    for place in result["files"]:
        click.echo(f"wrote {result['folder']}/{place}")
    click.echo(
        f"\nNext, in {result['folder']}:\n"
        "  python -m venv .venv\n"
        "  .venv/bin/pip install -e '.[testing]'\n"
        f"  .venv/bin/replkit plugins          # lists the scheme {result['name']}\n"
        "  .venv/bin/pytest                   # passes as it is: replace the bodies, and keep it so"
    )
