"""``replkit compare``: two volumes, block for block."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from replkit.cli.output import emit, json_option


@click.command(short_help="Compare two volumes block for block.")
@click.argument("left")
@click.argument("right")
@click.option("--size", metavar="SIZE", help="Size, for a backend that does not know it.")
@click.option("--block-size", default="4096", show_default=True)
@json_option
def compare(left: str, right: str, size: str | None, block_size: str, as_json: bool) -> None:
    """Compare the volumes at the URLs LEFT and RIGHT; exit code 1 when they differ. Nothing is written."""
    from replkit.site.compare import compare_volumes
    from replkit.site.plugins import site_registry
    from replkit.site.sizes import parse_size

    registry = site_registry()
    options: dict[str, Any] = {"block_size": parse_size(block_size), "read_only": True}
    if size:
        options["size_bytes"] = parse_size(size)
    with registry.open_volume(left, **options) as a, registry.open_volume(right, **options) as b:
        found = compare_volumes(a, b)
    emit({**asdict(found), "equal": found.is_equal}, as_json, _render)
    if not found.is_equal:
        raise SystemExit(1)


def _render(result: dict[str, Any]) -> None:
    from replkit.site.sizes import format_size

    if result["equal"]:
        read = format_size(result["compared_bytes"])
        click.echo(f"equal: {result['block_count']} blocks, {read} read in {result['duration_s']:.1f} s")
    else:
        first = ", ".join(str(block) for block in result["differing"])
        click.echo(f"{result['differing_count']} of {result['block_count']} blocks differ: {first}")
