"""What a site knows of its replica, of either role: for other sites, and for the plans of its own commands."""

from __future__ import annotations

from replkit.blocks.bitmap import PagedBitmap
from replkit.recovery.peer import MemberInfo, PeerInfo
from replkit.recovery.states import state_of
from replkit.replication.cells import MemberProgress, sent_cell
from replkit.replication.difference import blocks_between
from replkit.replication.primary import PrimaryReplica
from replkit.replication.promotion import RESTART
from replkit.replication.root import load_struct
from replkit.replication.secondary import SecondaryReplica
from replkit.snapshot.snapped import SnappedVolume

AnyReplica = PrimaryReplica | SecondaryReplica


def snapped_of(replica: AnyReplica) -> SnappedVolume:
    """The layer of a replica that keeps its snapshots."""
    return replica.volume.snapped if isinstance(replica, PrimaryReplica) else replica.volume


def changed_after(replica: AnyReplica, number: int) -> PagedBitmap:
    """Blocks changed after position ``number``, uncut changes included; ``RecordMissingError`` where a list is gone."""
    save, root, count = replica.parts.save, replica.root, snapped_of(replica).block_count
    blocks = blocks_between(save, root, min(number, root.last.number), root.last.number, count)
    add_uncut(replica, blocks)
    return blocks


def add_uncut(replica: AnyReplica, blocks: PagedBitmap) -> None:
    """Add to ``blocks`` what a primary has in no set yet, those of a cut under way included."""
    if isinstance(replica, PrimaryReplica):
        log = replica.volume.changelog
        old = log.old
        blocks.update(log.current)
        if old is not None:
            blocks.update(old.changed)


def info_of(replica: AnyReplica) -> PeerInfo:
    """What a site says of its replica."""
    root, volume = replica.root, replica.volume
    played = root.last if isinstance(replica, PrimaryReplica) else None
    if isinstance(replica, SecondaryReplica) and root.is_at_boundary:
        played = replica.player.position
    restart = next(
        (each for each in root.snapshots if each.name.startswith(RESTART) and each.valid and each.at_boundary), None
    )
    members = []
    for member in root.members:
        progress, _version = load_struct(replica.parts.save, sent_cell(member.name), MemberProgress)
        members.append(
            MemberInfo(
                name=member.name,
                state=member.state,
                copy_id=member.copy_id,
                received=progress.received_by(member, root) if progress is not None else None,
                played=progress.played_by(member, root) if progress is not None else None,
            )
        )
    return PeerInfo(
        role=root.role,
        state=state_of(root).value,
        lineage=root.lineage,
        epoch=root.epoch,
        history=root.history,
        last=root.last,
        played=played,
        first_kept=root.first_kept,
        first_listed=root.first_listed,
        block_size=volume.block_size,
        size_bytes=volume.size_bytes,
        restart=restart.stamp if restart is not None else None,
        restart_snapshot=restart.name if restart is not None else "",
        members=tuple(members),
        fenced=root.fenced,
    )
