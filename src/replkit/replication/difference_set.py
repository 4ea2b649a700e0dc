"""What a difference is at the replica that takes it in: changes of its root, and the records of one set (R4)."""

from __future__ import annotations

import msgspec

from replkit.contracts.savevolume import SaveVolume
from replkit.deltaset.chunk import record_checksum
from replkit.deltaset.header import SetDigest, SetHeader, decode_block_list, encode_header
from replkit.deltaset.keys import chunk_key, header_key, list_key, parse_set_tag
from replkit.deltaset.pieces import data_blocks
from replkit.rcp import messages as m
from replkit.replication.branches import UNKNOWN_IDENTITY, cut_back, tags_after
from replkit.replication.cells import Base, CopyInfo, DifferenceProgress, Root, Span
from replkit.replication.directory import add_set, insert_set
from replkit.replication.replica import Replica
from replkit.replication.set_writer import put_header

MAX_IDENTITIES = 400_000
CHECKSUM_BYTES = 64
"""The first bytes of a chunk record, in which its checksums are."""


def refuse_difference(root: Root, body: m.CopyBegin) -> str:
    """Why a difference cannot be taken in by a replica with this root; empty when it can."""
    base, resync, running = body.base, root.resync, root.inconsistent
    fault = ""
    if base is None or body.stamp.number < base.number or (body.stamp == base and resync is None):
        fault = "it does not lead forward"
    elif body.lineage != root.lineage:
        fault = f"it is of lineage {body.lineage}, this volume of {root.lineage}"
    elif resync is not None:
        if body.copy_id != resync.id and not body.copy_id.startswith(f"{resync.id}."):
            fault = f"resync {resync.id} was asked for"
        elif base != resync.fork:
            fault = f"this volume left its history at {resync.fork}"
    elif running is not None:
        if running.base != base:
            fault = "an unfinished copy must be finished first"
    elif root.base is None:
        fault = "there was never a copy here"
    elif base != root.last:
        fault = f"this volume stands at {root.last} ({root.last.identity})"
    return fault


def begin_difference(root: Root, progress: DifferenceProgress) -> Root:
    """The root while a difference arrives at a replica that is at no boundary, or will be at none: sets go after it.

    Sets after the base that it had are not named any more, and are swept.
    """
    stamp, resync = progress.stamp, root.resync
    back = cut_back(root, progress.base)
    return msgspec.structs.replace(
        back,
        last=stamp,
        resync=None if resync is None else msgspec.structs.replace(
            resync, phase="receiving", stamp=stamp, in_place=progress.in_place, error=""
        ),
        inconsistent=CopyInfo(copy_id=progress.copy_id, stamp=stamp, base=progress.base)
        if progress.in_place
        else None,
    )  # fmt: skip


def end_difference(root: Root, progress: DifferenceProgress) -> Root:
    """The root with the difference taken in: its set is named, and the volume stands at a boundary."""
    base, stamp = progress.base, progress.stamp
    span, writer = Span(base.number + 1, stamp.number), parse_set_tag(progress.tag)[1]
    copied = root.base.copy_id if root.base is not None else progress.copy_id
    if stamp == base:
        return _done(root, Base(copy_id=progress.copy_id, position=base, difference=progress.copy_id))
    if progress.in_place:
        condemned = (*root.condemned, *tags_after(cut_back(root, base), root.first_kept - 1))
        named = msgspec.structs.replace(
            insert_set(root, span, writer), first_kept=stamp.number + 1, condemned=tuple(dict.fromkeys(condemned))
        )
        return _done(named, Base(copy_id=progress.copy_id, position=stamp, difference=progress.copy_id))
    at = root.base.position if root.base is not None else base
    if root.is_at_boundary:
        until = root.base.until if root.base is not None else 0
        done = Base(copy_id=copied, position=at, difference=progress.copy_id, until=until)
        return _done(add_set(root, span, writer, stamp), done)
    done = Base(copy_id=copied, position=at, difference=progress.copy_id, until=stamp.number)
    return _done(insert_set(root, span, writer), done)


def staged_tag(root: Root, progress: DifferenceProgress | None) -> str:
    """The tag of the records of an unfinished difference that still leads on from here; empty when there is none."""
    if progress is None:
        return ""
    if root.inconsistent is not None:
        is_of_it = root.inconsistent.copy_id == progress.copy_id
    elif root.resync is not None:
        is_of_it = root.resync.stamp == progress.stamp
    else:
        is_done = root.base is None or root.base.difference == progress.copy_id
        is_of_it = not is_done and root.last == progress.base
    return progress.tag if is_of_it else ""


def difference_header(replica: Replica, progress: DifferenceProgress, volume_size_bytes: int) -> SetHeader:
    """The header of the set that the chunks of a difference are; it counts the blocks that have come."""
    save, tag, resync = replica.save, progress.tag, replica.root.get().resync
    compared = resync is not None and resync.exact
    number, writer = parse_set_tag(tag)
    digest = SetDigest()
    block_count = data_count = 0
    for index in range(progress.chunks):
        if not progress.in_place:
            digest.update(record_checksum(save.get(chunk_key(tag, index), 0, CHECKSUM_BYTES)))
        pieces = decode_block_list(save.get(list_key(tag, index)), -(-volume_size_bytes // replica.volume.block_size))
        block_count += sum(piece.count for piece in pieces)
        data_count += data_blocks(pieces)
    inner = number - progress.base.number - 1
    if inner > MAX_IDENTITIES:
        inner = 0
    return SetHeader(
        lineage=replica.root.get().lineage,
        epoch=progress.stamp.epoch,
        first_number=number - inner,
        number=number,
        base_identity=UNKNOWN_IDENTITY if compared else progress.base.identity,
        identities=(*(UNKNOWN_IDENTITY,) * inner, progress.stamp.identity),
        volume_size_bytes=volume_size_bytes,
        block_size=replica.volume.block_size,
        block_count=block_count,
        data_bytes=data_count * replica.volume.block_size,
        chunk_count=progress.chunks,
        list_count=progress.chunks,
        created_s=replica.runtime.now(),
        writer=writer,
        digest=digest.hexdigest(),
    )


def put_difference_header(save: SaveVolume, tag: str, header: SetHeader) -> None:
    """Make the set of a difference whole. What was put before a crash is put again, as nothing names it yet."""
    save.delete([header_key(tag)])
    put_header(save, tag, encode_header(header))


def drop_from(save: SaveVolume, progress: DifferenceProgress) -> None:
    """Delete what is there of a difference beyond what is durable of it."""
    for prefix, part in ((f"sets/{progress.tag}/", "/"), (f"lists/{progress.tag}/blocks-", "-")):
        save.delete([key for key in save.list(prefix) if int(key.rpartition(part)[2], 16) >= progress.chunks])


def _done(root: Root, base: Base) -> Root:
    return msgspec.structs.replace(root, base=base, resync=None, inconsistent=None)
