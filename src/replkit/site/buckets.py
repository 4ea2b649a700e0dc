"""Volumes of a site that are kept in a bucket: how they are listed there, and whose they are.

Beside its volumes a bucket holds ``_volumes/<name>`` for each: a small object that tells ``replkit adopt`` what there
is, and which site had it open last. A site does not open a volume of its own bucket that another site has promoted; it
stops its writes instead (R9).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec

from replkit.contracts.registry import Registry
from replkit.errors import CorruptRecordError, NotFoundError, RecordMissingError, ReplkitError, WrongRoleError
from replkit.objectstore.store import ObjectStore
from replkit.replication.cells import Root
from replkit.replication.primary import PrimaryReplica
from replkit.replication.root import read_root
from replkit.site.calls import PeerLinks
from replkit.site.plugins import site_registry
from replkit.site.runtime import SiteRuntime

ENTRIES = "_volumes/"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A volume in a bucket. ``source`` is its name at its primary; ``place`` the part of the keys after the prefix."""

    format: int = 1
    place: str
    source: str
    site: str
    size_bytes: int
    block_size: int
    capacity_bytes: int


# --- what is there ---


def below(url: str, *parts: str) -> str:
    """The URL of a place below the place of ``url``, with its options."""
    split = urlsplit(url)
    return urlunsplit(split._replace(path="/".join([split.path.rstrip("/"), *parts])))


def place_below(catalogue: str, url: str) -> str:
    """Which part of ``url`` comes after the place of the catalogue, without its last name: the entry's."""
    top, path = urlsplit(catalogue).path.strip("/"), urlsplit(url).path.strip("/")
    return path.removeprefix(top).strip("/").rpartition("/")[0]


def open_bucket(url: str) -> ObjectStore:
    """The object store that an ``s3:`` URL names, encrypted if it says so; ``UnsupportedError`` without boto3."""
    from replkit.backends.s3.layers import open_store  # noqa: PLC0415 - only where there is a bucket
    from replkit.backends.s3.url import parse_url  # noqa: PLC0415 - as above

    return open_store(parse_url(url), writes=False)


def list_entries(store: ObjectStore) -> list[Entry]:
    """The volumes that are listed in a bucket, by name."""
    return [read_entry(store, key) for key in sorted(info.key for info in store.list(ENTRIES))]


def read_entry(store: ObjectStore, key: str) -> Entry:
    """One of them; ``RecordMissingError`` where it is not listed."""
    try:
        return msgspec.json.decode(store.get(key), type=Entry)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptRecordError(f"{store.url}: {key} is no entry of a volume: {error}") from error


def write_entry(store: ObjectStore, entry: Entry) -> None:
    """List a volume, or say who has it open now. To repeat it is harmless."""
    store.put(ENTRIES + entry.place, [msgspec.json.encode(entry)])


def entry_of(spec: Mapping[str, Any], site: str) -> Entry:
    """The entry of a volume as its worker is told."""
    return Entry(
        place=place_below(spec["catalogue"], spec["save_url"]), source=spec["bucket_of"] or spec["name"], site=site,
        size_bytes=spec["size_bytes"], block_size=spec["block_size"], capacity_bytes=spec["save_capacity_bytes"],
    )  # fmt: skip


# --- whose it is ---


def promoted_elsewhere(registry: Registry, catalogue: str, save_url: str, site: str) -> tuple[str, Root] | None:
    """The site that made a primary of a volume in this bucket, with its root; ``None`` where none but ours did."""
    store = open_bucket(catalogue)
    try:
        entry = read_entry(store, ENTRIES + place_below(catalogue, save_url))
    except RecordMissingError:
        return None
    finally:
        store.close()
    if entry.site == site:
        return None
    try:
        with registry.open_save_volume(save_url, producer=False) as save:
            root = read_root(save)
    except NotFoundError:
        return None
    return (entry.site, root) if root.role == "primary" else None


def enter_bucket(registry: Registry, spec: Mapping[str, Any]) -> None:
    """Before a volume in a bucket is written: list it; ``WrongRoleError`` where another site has promoted it.

    Then its old primary here learns that its epoch is over, and refuses its users' writes (R9, invariant 8).
    """
    site = spec["site"]
    other = promoted_elsewhere(registry, spec["catalogue"], spec["save_url"], site)
    if other is not None:
        who, root = other
        if spec["bucket_of"]:
            links = PeerLinks(registry, SiteRuntime())
            try:
                links.peer(spec["own_url"], spec["bucket_of"]).fence(root.epoch, root.lineage)
            finally:
                links.close()
        raise WrongRoleError(
            f"{spec['name']}: site {who} made a primary of it, with epoch {root.epoch.count}",
            hint="bring this site up to date from there, with: replkit resync",
        )
    store = open_bucket(spec["catalogue"])
    try:
        key, entry = ENTRIES + place_below(spec["catalogue"], spec["save_url"]), entry_of(spec, site)
        if not _is_listed(store, key, entry):
            write_entry(store, entry)
    finally:
        store.close()


def _is_listed(store: ObjectStore, key: str, entry: Entry) -> bool:
    try:
        return read_entry(store, key) == entry
    except ReplkitError:
        return False


def follow_from_bucket(primary: PrimaryReplica, member: Mapping[str, Any]) -> bool:
    """Make a member of a secondary in a bucket that stands in the primary's own history: it needs no copy (R5).

    So a bucket that was served elsewhere goes on from where it is. False where it must be copied.
    """
    try:
        with site_registry().open_save_volume(member["save_url"], producer=False) as save:
            there = read_root(save)
        here = primary.root
        if there.role != "secondary" or not there.is_at_boundary or there.lineage != here.lineage:
            return False
        if there.last.number > here.last.number or primary.identity_of(there.last.number) != there.last.identity:
            return False
        primary.members.add_following(member["name"], member["url"], member["destination_volume"], there.last)
    except (NotFoundError, RecordMissingError):  # a new bucket, or the sets after its position are not kept
        return False
    return True
