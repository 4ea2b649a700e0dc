"""``replkit s3``: what a bucket can do and has cost, and keys for what lies in it."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replkit.cli.output import emit, json_option, new_table, show_table

if TYPE_CHECKING:
    from replkit.objectstore.keys import KeyRing


@click.group(short_help="Look at buckets, and make keys for them.")
def s3() -> None:
    """Look at buckets, and make keys for them."""


@s3.command(short_help="Try what a bucket can do, and say what follows.")
@click.argument("url")
@click.option("--rounds", type=click.IntRange(min=4), default=10, show_default=True, help="Rounds of the race.")
@json_option
def check(url: str, rounds: int, as_json: bool) -> None:
    """Try what the store behind URL (s3://bucket/prefix?endpoint=…) can do, and say what follows for replkit.

    Writes some small objects and some of 4 MiB under the prefix, and deletes them. In each round 32 writers race for
    one key; some stores need seconds for a round. What was found is remembered in the bucket. Exit code 1 if the store
    cannot fence.
    """
    from replkit.backends.s3.extras import probe_extras
    from replkit.backends.s3.layers import open_store
    from replkit.backends.s3.probe import probe_store, save_report
    from replkit.backends.s3.store import S3ObjectStore
    from replkit.backends.s3.url import parse_url

    place = parse_url(url)
    with closing(open_store(place, writes=True, probes=False)) as store, closing(S3ObjectStore(place)) as bare:
        report = probe_store(bare, rounds=rounds)  # without limits: writers that wait for one another do not race
        if report.can_fence:
            save_report(store, report)
        extras = probe_extras(bare, f"probe/{os.urandom(8).hex()}")
    result = {
        "url": report.url,
        "can_fence": report.can_fence,
        "checks": [
            {name: getattr(one, name) for name in ("name", "passed", "needed", "follows", "detail")}
            for one in (*report.checks, *extras)
        ],
        "latency_ms": report.latency_ms,
    }
    emit(result, as_json, _render)
    if not report.can_fence:
        raise SystemExit(1)


def _render(result: dict[str, Any]) -> None:
    table = new_table("what", "result", "what follows", title=result["url"])
    for one in result["checks"]:
        bad = "FAILED" if one["needed"] else "no"
        table.add_row(one["name"], "yes" if one["passed"] else bad, one["detail"] or one["follows"])
    for name, value in result["latency_ms"].items():
        table.add_row(name, f"{value:.1f} ms", "")
    show_table(table)
    if result["can_fence"]:
        click.echo("Save volumes and volumes can be kept here.")
    else:
        click.echo("This store cannot fence. With ?fencing=off it serves one producer at a time, at your risk.")


@s3.command(short_help="Show the requests and bytes that a bucket was paid for.")
@click.argument("url")
@json_option
def usage(url: str, as_json: bool) -> None:
    """Show requests and bytes by kind, today (UTC) and in total, of all that opened URL with metered=yes for writing.

    They are saved once a minute, so that the last minute may be missing. What a daemon does is in "replkit status".
    """
    from replkit.backends.s3.layers import saved_usage
    from replkit.backends.s3.url import parse_url

    place = parse_url(url)
    emit({"url": place.name, **saved_usage(place).as_dict()}, as_json, _render_usage)


def _render_usage(result: dict[str, Any]) -> None:
    if not result["total"]:
        click.echo("Nothing was counted: nobody has written there with metered=yes.")
        return
    table = new_table("what", f"on {result['day']}", f"since {result['since']}", title=result["url"])
    for kind, count in result["total"].items():
        table.add_row(kind.replace("_", " "), f"{result['today'].get(kind, 0):,}", f"{count:,}")
    show_table(table)


@s3.command("scrub", short_help="Check all that lies at a place in a bucket.")
@click.argument("url")
@json_option
def scrub_bucket(url: str, as_json: bool) -> None:
    """Read all that the volume or save volume at URL has published, and verify it; exit code 1 if something is damaged.

    Needs no daemon, and may run beside one. Also lists objects that nothing names: a writer at work has some, and a
    crash leaves some until the next writer opens. Nothing is repaired: "replkit verify" sends again what differs.
    """
    from replkit.backends.s3.host import ThreadHost, ThreadRuntime
    from replkit.backends.s3.layers import open_store
    from replkit.backends.s3.url import parse_url
    from replkit.objectstore.scrubbing import scrub_place

    place = parse_url(url)
    found = scrub_place(lambda: open_store(place, writes=False), ThreadRuntime(), ThreadHost)
    emit({"url": place.name, **found._asdict()}, as_json, _render_scrub)
    if found.damage:
        raise SystemExit(1)


def _render_scrub(result: dict[str, Any]) -> None:
    click.echo(
        f"{result['url']}: {result['checked_blocks']:,} blocks, {result['checked_records']:,} records and cells, "
        f"{len(result['damage']):,} damaged, {len(result['unnamed']):,} objects that nothing names"
    )
    for line in (*result["damage"], *(f"nothing names {key}" for key in result["unnamed"])):
        click.echo(line)


@s3.group(short_help="Make and rotate keys for encrypted buckets.")
def keys() -> None:
    """Make and rotate key files for URLs with ?encrypt=file:///…

    Keep a copy of the file that does not depend on the bucket: without its keys nothing can be restored.
    """


_file = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@keys.command(short_help="Make a key file.")
@_file
@json_option
def new(file: Path, as_json: bool) -> None:
    """Make FILE with one new key, for its owner only. An existing file is left alone."""
    from replkit.backends.s3.keyfile import create_keys

    emit(_told(file, create_keys(file)), as_json, _render_keys)


@keys.command(short_help="Add a key that encrypts from now on.")
@_file
@json_option
def rotate(file: Path, as_json: bool) -> None:
    """Add a new key to FILE. New objects are encrypted with it; those that are there stay readable by the old ones.

    First copy the file to all other machines that open the bucket, then restart the daemons: keys are read when a
    bucket is opened.
    """
    from replkit.backends.s3.keyfile import rotate_keys

    emit(_told(file, rotate_keys(file)), as_json, _render_keys)


@keys.command("list", short_help="Show the ids of the keys of a file.")
@_file
@json_option
def list_keys(file: Path, as_json: bool) -> None:
    """Show the ids of the keys of FILE, oldest first, and check that each is whole. No secret is shown."""
    from replkit.backends.s3.keyfile import read_keys

    emit(_told(file, read_keys(file)), as_json, _render_keys)


def _told(file: Path, ring: KeyRing) -> dict[str, Any]:
    return {"file": str(file), "keys": ring.key_ids, "encrypts": ring.newest.key_id}


def _render_keys(result: dict[str, Any]) -> None:
    for key_id in result["keys"]:
        click.echo(f"{key_id}{'  encrypts' if key_id == result['encrypts'] else ''}")
    click.echo(f"Keep a copy of {result['file']} that does not depend on the bucket.")
