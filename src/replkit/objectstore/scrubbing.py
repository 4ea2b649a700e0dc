"""Scrub of a place in a bucket: every block and record that is published against its checksum, and what nothing names.

Needs no daemon and changes nothing but the hold of a reader. What is damaged is named, not repaired: a daemon's
``verify`` sends again what differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from replkit.contracts.registry import SaveVolumeOptions
from replkit.contracts.runtime import Runtime
from replkit.contracts.scrub import scrub, scrub_volume
from replkit.errors import CorruptRecordError, NotFoundError, RecordMissingError
from replkit.objectstore.bundle import bundle_key
from replkit.objectstore.cells import CellStore
from replkit.objectstore.host import Host
from replkit.objectstore.journal import CELL as JOURNAL
from replkit.objectstore.journal import OWN_PREFIX, Journal
from replkit.objectstore.published import apply_entry
from replkit.objectstore.recordindex import RecordIndex
from replkit.objectstore.savereader import ObjectSaveReader
from replkit.objectstore.store import ObjectStore
from replkit.objectstore.volume import ObjectVolume
from replkit.objectstore.volume_format import ROOT_MAGIC, SEQUENCE_BITS, ObjectKind, Root, object_key
from replkit.objectstore.volume_root import KINDS, ROOT, read_root


class Scrubbed(NamedTuple):
    """What a scrub found. ``unnamed`` objects are a writer's at work, or left by a crash until the next one opens."""

    checked_blocks: int
    checked_records: int
    """With cells."""
    damage: list[str]
    unnamed: list[str]


def scrub_place(open_store: Callable[[], ObjectStore], runtime: Runtime, open_host: Callable[[], Host]) -> Scrubbed:
    """Scrub the volume and the save volume, whichever is there; ``NotFoundError`` if neither is."""
    damage: list[str] = []
    unnamed: list[str] = []
    blocks = _scrub_volume(open_store, runtime, damage, unnamed)
    records = _scrub_save(open_store, open_host, damage, unnamed)
    if blocks is None and records is None:
        raise NotFoundError("there is neither a volume nor a save volume", hint="a URL ends in /volume or /save")
    return Scrubbed(blocks or 0, records or 0, damage, sorted(unnamed))


def _scrub_volume(
    open_store: Callable[[], ObjectStore], runtime: Runtime, damage: list[str], unnamed: list[str]
) -> int | None:
    store = open_store()
    if not _has_volume(store, runtime):
        store.close()
        return None
    try:
        volume = ObjectVolume.open(store, runtime=runtime, read_only=True)
    except (CorruptRecordError, RecordMissingError) as error:
        store.close()
        damage.append(f"volume: {error.message}")
        return 0
    try:
        listed = [info.key for kind in KINDS for info in store.list(f"{kind}/")]
        root, _ = read_root(CellStore(store, "", runtime.random_bytes), store.url)  # after the listing
        unnamed += [key for key in listed if not _may_be_named(key, root)]
        checked = 0

        def count(blocks: int) -> None:
            nonlocal checked
            checked = blocks

        try:
            damage += [f"block {block}: {why}" for block, why in scrub_volume(volume, count)]
        except (CorruptRecordError, RecordMissingError) as error:  # of the map: what it tells is not known
            damage.append(f"map, after {checked} blocks: {error.message}")
        return checked
    finally:
        volume.close()


def _has_volume(store: ObjectStore, runtime: Runtime) -> bool:
    """Whether the cell ``root`` is that of a volume; in a save volume it is the replica's.

    A volume whose root is damaged counts as one, except beside a save volume that can say what the cell is.
    """
    try:
        root = CellStore(store, "", runtime.random_bytes).load(ROOT).value
        journal = CellStore(store, OWN_PREFIX, runtime.random_bytes).load(JOURNAL).version
    except CorruptRecordError:
        return True
    return bool(root) and (root.startswith(ROOT_MAGIC) or not journal)


def _may_be_named(key: str, root: Root) -> bool:
    """Whether the object is one that ``root`` counts: of a writer that it knows, below what that one published."""
    try:
        kind, writer, group, sequence = key.split("/")
        generation, tag = int(writer.partition("-")[0], 16), writer.partition("-")[2]
        number = generation << SEQUENCE_BITS | int(group, 16) << 12 | int(sequence, 16)
    except ValueError:
        return False
    row = root.writers.get(generation)
    kinds: dict[str, ObjectKind] = {one: one for one in KINDS}
    if row is None or row.tag != tag or kind not in kinds or object_key(kinds[kind], number, tag) != key:
        return False
    at = number & ((1 << SEQUENCE_BITS) - 1)
    ends = [entry.first_sequence for entry in root.unclean if entry.generation == generation]
    if generation == root.generation:
        ends.append(root.next_sequence)
    return all(at < end for end in ends)


def _scrub_save(
    open_store: Callable[[], ObjectStore], open_host: Callable[[], Host], damage: list[str], unnamed: list[str]
) -> int | None:
    store, host = open_store(), open_host()
    try:
        reader = ObjectSaveReader(store, SaveVolumeOptions(producer=False), host)
    except NotFoundError:
        host.close()
        store.close()
        return None
    checked = 0

    def count(done: int, _total: int) -> None:
        nonlocal checked
        checked = done

    try:
        listed = [info.key for folder in ("bundles/", "index/") for info in store.list(folder)]
        named = _named_by_journal(store, host)
        unnamed += [key for key in listed if key not in named]
        damage += scrub(reader, count)
        return checked
    finally:
        reader.close()


def _named_by_journal(store: ObjectStore, host: Host) -> set[str]:
    journal, index = Journal(store, host.random_bytes), RecordIndex()
    journal.load()
    for entry in journal.changes_since(-1)[1]:
        apply_entry(index, entry)
    named = {bundle_key(place.bundle) for _, place in index.items()}
    if journal.value.checkpoint is not None:
        named.add(journal.value.checkpoint.key)
    return named
