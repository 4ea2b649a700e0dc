"""``replkit adopt``: with only a bucket and a new machine, see what is there, bring it back, serve it."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from replkit.cli.output import emit, json_option, moment, new_table, position_text, show_table, time_text
from replkit.cli.restore import copy_onto, refuse_existing
from replkit.errors import AlreadyExistsError, ReplkitError


@click.command(short_help="Use a bucket whose site is lost, from another machine.")
@click.argument("url")
@click.option("--endpoint", metavar="URL", help="Where the store is, if it is not Amazon's.")
@click.option("--region", metavar="NAME", help="Its region.")
@click.option("--volume", metavar="NAME", help="Which volume (default: all, or the only one).")
@click.option("--at", metavar="TIME|POSITION", help='As 1:17, 2026-03-01T12:00:00Z or "2h ago" (else: newest).')
@click.option("--restore", is_flag=True, help="Write that boundary to the volume at --to.")
@click.option("--to", "target", metavar="URL", help="Where to, as file:///srv/disk.img.")
@click.option("--export", is_flag=True, help="Serve that boundary over NBD, read-only, until Ctrl-C.")
@click.option("--nbd", "address", metavar="ADDRESS", help="Where, as unix:/path or host:port.")
@click.option("--cache", metavar="URL", help="With --export: a local cache of 4 GiB (sparse), as file:///var/cache/r.")
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="Write a site for replkit serve.")
@click.option("--site", default="adopted", show_default=True, help="Name of that site; not that of the lost one.")
@click.option("--listen", default="tcp://127.0.0.1:7077", show_default=True, help="Its address.")
@click.option("--force", is_flag=True, help="Overwrite the target of --restore, or the file of --config.")
@json_option
def adopt(
    *, url: str, endpoint: str | None, region: str | None, volume: str | None, at: str | None, restore: bool,
    target: str | None, export: bool, address: str | None, cache: str | None, config_path: Path | None, site: str,
    listen: str, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """See what the bucket at URL (s3://bucket/prefix) holds: volumes, roles, history, boundaries with their times.

    Nothing in the bucket changes. With --restore a boundary is written to a new volume, with --export it is served
    straight from the bucket, before anything was downloaded. To make a primary of it here, write a site with --config,
    then run "replkit serve" and "replkit failover".
    """
    if restore + export + (config_path is not None) > 1:
        raise click.UsageError("choose one of --restore, --export and --config")
    if restore != (target is not None) or export != (address is not None):
        raise click.UsageError("write --restore --to URL, or --export --nbd ADDRESS")
    options = urlencode({k: v for k, v in (("endpoint", endpoint), ("region", region)) if v}, safe=":/")
    url = f"{url}{'&' if '?' in url else '?'}{options}" if options else url
    if config_path is not None:
        _write_config(url, config_path, site=site, listen=listen, force=force, as_json=as_json)
    elif target is not None:
        _restore(url, volume, at, target, force=force, as_json=as_json)
    elif address is not None:
        _export(url, volume, at, address, cache)
    else:
        _list(url, volume, as_json=as_json)


def _list(url: str, volume: str | None, *, as_json: bool) -> None:
    from replkit.site.adopting import Adopted, find_entries, pick_entry
    from replkit.site.plugins import site_registry

    entries, found, registry = find_entries(url), list[dict[str, Any]](), site_registry()
    for entry in [pick_entry(entries, volume)] if volume else entries:
        try:
            opened = Adopted(registry, url, entry)
        except ReplkitError as error:
            found.append({"volume": entry.place, "site": entry.site, "problem": str(error)})
            continue
        try:
            found.append(opened.describe())
        finally:
            opened.close()
    emit({"url": url, "volumes": found}, as_json, _show)


def _show(result: dict[str, Any]) -> None:
    from replkit.site.sizes import format_size

    for one in result["volumes"]:
        if "problem" in one:
            click.echo(f"{one['volume']}: {one['problem']}")
            continue
        epochs = ", ".join(f"{entry['count']} from {entry['first_number']} on" for entry in one["epochs"])
        size = format_size(one["size_bytes"])
        click.echo(f"{one['volume']}: {one['role']} of {size}, last open at site {one['site']}")
        table = new_table("position", "time", "kept as")
        for moment_ in one["boundaries"]:
            kept = "snapshot" if moment_["snapshot"] else "set"
            table.add_row(position_text(moment_["position"]), time_text(moment_["created_s"]), kept)
        show_table(table)
        click.echo(f"history: epoch {epochs or '-'}")
    click.echo('bring one back with: replkit adopt URL --at "…" --restore --to file:///…')


def _restore(url: str, volume: str | None, at: str | None, target: str, *, force: bool, as_json: bool) -> None:
    from replkit.site.adopting import adopted
    from replkit.site.plugins import site_registry

    if not force:
        refuse_existing(target)
    with adopted(site_registry(), url, volume) as opened:
        boundary = opened.open_boundary(moment(at))
        blocks = copy_onto(boundary, target)
        position = boundary.position
        result = {
            "volume": opened.entry.place,
            "position": {"epoch": position.epoch.count, "number": position.number, "identity": position.identity},
            "target": target,
            "size_bytes": boundary.size_bytes,
            "copied_bytes": blocks * boundary.block_size,
        }
        boundary.close()
    emit(result, as_json, lambda r: click.echo(f"{target} holds {r['volume']} at {position_text(r['position'])}"))


def _export(url: str, volume: str | None, at: str | None, address: str, cache: str | None) -> None:
    from replkit.site.adopting import adopted
    from replkit.site.exporting import nbd_uri
    from replkit.site.nbd import Export, NbdServer
    from replkit.site.plugins import site_registry
    from replkit.site.signals import end_on_signals

    ended = threading.Event()
    end_on_signals(ended, signal.SIGTERM, signal.SIGINT)
    with adopted(site_registry(), url, volume, cache) as opened:
        boundary = opened.open_boundary(moment(at))
        server = NbdServer({opened.entry.source: Export(volume=boundary, read_only=True)}, address)
        server.start()
        try:
            click.echo(
                f"{opened.entry.source} at {boundary.position} is served read-only at "
                f"{nbd_uri(server.address, opened.entry.source)} until Ctrl-C"
            )
            ended.wait()
        finally:
            server.stop()
            boundary.close()


def _write_config(url: str, path: Path, *, site: str, listen: str, force: bool, as_json: bool) -> None:
    from replkit.site.adopting import find_entries, site_text
    from replkit.site.config import parse_config

    if path.exists() and not force:
        raise AlreadyExistsError(f"{path} exists", hint="name another file, or overwrite it with --force")
    text = site_text(url, find_entries(url), site=site, listen=listen, folder=str(path.absolute().parent))
    config = parse_config(text, str(path))
    path.write_text(text)
    result = {"config": str(path), "site": site, "volumes": sorted(config.volumes)}
    emit(result, as_json, lambda r: click.echo(f"{path} has {', '.join(r['volumes'])}: replkit serve --config {path}"))
