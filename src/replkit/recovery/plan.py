"""What a change of role would do, said before it is done: blocks, bytes, sets and seconds (invariant 10; R1-R7, R9).

A plan changes nothing. Its id names what it rests on: roles, epochs, the fork and what is held. Before a command is
carried out ``check`` compares it with a plan made just then, and refuses when that changed, or more would be lost or
undone than was said. Sets that are sent, received or played meanwhile do not make it stale.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from xxhash import xxh3_64

from replkit.blocks.bitmap import PagedBitmap
from replkit.contracts.position import Position
from replkit.errors import CorruptRecordError, InconsistentError, NotFoundError, PlanStaleError, RecordMissingError
from replkit.recovery.demotion import blocks_after, check_winner, mine_of_resync
from replkit.recovery.facts import AnyReplica, add_uncut, snapped_of
from replkit.recovery.peer import Peer, PeerInfo, settle_fork, standing_root
from replkit.recovery.states import state_of
from replkit.replication.branches import identity_of
from replkit.replication.cells import MemberProgress, Root, sent_cell
from replkit.replication.directory import numbers_between, span_of
from replkit.replication.new_copy import find_member
from replkit.replication.primary import PrimaryReplica
from replkit.replication.promotion import Mode
from replkit.replication.received import received_sets
from replkit.replication.replica import Replica
from replkit.replication.root import load_struct
from replkit.replication.secondary import SecondaryReplica
from replkit.replication.set_reader import SetReader

Kind = Literal["failover", "switchover", "resync", "rewind"]
"""Failback and reverse are switchovers; a resync of the old primary comes before a failback."""
Way = Literal["nothing", "sets", "difference", "comparison"]
ASK_BLOCKS = 1 << 26
"""Blocks asked for in one call."""
ONE_MORE_SET = 1
"""What a primary that is still up may cut between the plan and the failover."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What would happen. ``None`` is what cannot be known, as the other site cannot be reached.

    ``lost_sets`` were cut elsewhere and never came here; ``undone_blocks`` and ``undone_sets`` are changes of this
    volume that go out of it (into a salvage, or a branch), from ``undone_from_s`` on; ``kept_to_s`` is when the newest
    set that stays was cut. ``way`` is how what is lacking comes: by ``sets`` alone, as a ``difference``, or after a
    ``comparison`` of hashes, where it is not known before what differs.
    """

    kind: Kind
    volume: str
    id: str
    state: str
    epoch: int
    position: Position
    peer_state: str = ""
    peer_epoch: int | None = None
    fork: Position | None = None
    held: tuple[str, ...] = ()
    way: Way = "nothing"
    play_sets: int = 0
    lost_sets: int | None = None
    lost_s: float | None = None
    undone_blocks: int | None = 0
    undone_sets: int = 0
    undone_from_s: float | None = None
    kept_to_s: float | None = None
    send_blocks: int | None = 0
    send_bytes: int | None = 0
    detail: str = ""


def plan_failover(secondary: SecondaryReplica, mode: Mode = "received", primary: PeerInfo | None = None) -> Plan:
    """What promoting a secondary keeps and loses (FIG. 31, 32); ``primary`` is what the old one says, if it can."""
    parts, root = secondary.parts, secondary.root
    if not root.is_at_boundary:
        raise InconsistentError(f"{parts.name} stands at no boundary: it cannot be promoted", hint="wait for its copy")
    played = secondary.player.position
    kept = root.last if mode == "received" else played
    kept_s = created_s(parts, root, kept.number)
    beyond = range(kept.number + 1, root.last.number + 1)
    lost = None
    if primary is not None and primary.lineage == root.lineage:
        lost = max(0, primary.last.number - root.last.number)
    return _finish(
        Plan(
            kind="failover", volume=parts.name, id="", state=state_of(root).value, epoch=root.epoch.count,
            position=kept, peer_state=primary.state if primary else "", held=_held(secondary),
            peer_epoch=primary.epoch.count if primary else None, kept_to_s=kept_s,
            play_sets=kept.number - played.number, lost_sets=lost,
            lost_s=None if kept_s is None else max(0.0, parts.runtime.now() - kept_s),
            undone_sets=len(beyond), undone_blocks=_blocks(secondary, kept.number, root.last.number),
            undone_from_s=kept_s if beyond else None, detail=mode,
        ),
        root, primary,
    )  # fmt: skip


def plan_switchover(primary: PrimaryReplica, member: str) -> Plan:
    """What handing the role to a member sends before; nothing is lost, undone or copied (FIG. 30, 33)."""
    parts, root = primary.parts, primary.root
    found = find_member(root, member)
    if found is None:
        raise NotFoundError(f"{parts.name} has no member {member}")
    progress, _version = load_struct(parts.save, sent_cell(member), MemberProgress)
    received = progress.received_by(found, root) if progress is not None else None
    first = received.number + 1 if received is not None else root.last.number + 1
    dirty = primary.volume.dirty_blocks
    reader = SetReader(parts.save, lambda: root, primary.volume.block_count)
    headers = [reader.header(each) for each in numbers_between(root, max(first, root.first_kept), root.last.number)]
    return _finish(
        Plan(
            kind="switchover", volume=parts.name, id="", state=state_of(root).value, epoch=root.epoch.count,
            position=root.last, peer_state=found.state, held=_held(primary), lost_sets=0, lost_s=0.0,
            way="sets" if headers or dirty else "nothing", kept_to_s=parts.runtime.now(),
            send_blocks=sum(each.block_count for each in headers) + dirty,
            send_bytes=sum(each.data_bytes for each in headers) + dirty * primary.volume.block_size,
            detail=member,
        ),
        root, None,
    )  # fmt: skip


def plan_return(replica: AnyReplica, peer: Peer, *, rewind: bool = False) -> Plan:
    """What a resync with the primary at ``peer``, or a rewind to its restart point, undoes here and sends (FIG. 28).

    Where the command would be refused, so is the plan: ``FencedError``, ``DivergedError``.
    """
    parts, root, info = replica.parts, replica.root, peer.info()
    check_winner(parts.name, root, info, "the other site")
    count = snapped_of(replica).block_count
    fork = settle_fork(root, lambda number: identity_of(parts.save, root, number, count), peer, info)
    here = (
        replica.player.position
        if isinstance(replica, SecondaryReplica) and root.is_at_boundary
        else standing_root(root).last
    )
    mine = _mine(replica, root, fork.number, max(here.number, fork.number))
    theirs = None if rewind else _theirs(peer, fork.number, count)
    union = _union(mine, PagedBitmap(count) if rewind else theirs)
    way: Way = "comparison" if union is None else "difference" if union else "nothing"
    if mine is not None and not mine and not rewind and fork.number + 1 >= info.first_kept:
        way = "sets" if union else "nothing"
    sets = max(0, here.number - fork.number)
    fork_s = created_s(parts, root, fork.number)
    return _finish(
        Plan(
            kind="rewind" if rewind else "resync", volume=parts.name, id="", state=state_of(root).value,
            epoch=root.epoch.count, position=fork if rewind else info.last, peer_state=info.state,
            peer_epoch=info.epoch.count, fork=fork, held=_held(replica), way=way, lost_sets=0,
            undone_sets=sets, undone_blocks=None if mine is None else mine.count(),
            undone_from_s=fork_s if mine is None or mine else None, kept_to_s=fork_s,
            send_blocks=None if union is None else union.count(),
            send_bytes=None if union is None else peer.weigh(union, info.restart_snapshot if rewind else ""),
        ),
        root, info,
    )  # fmt: skip


def check(plan: Plan, now: Plan) -> None:
    """``PlanStaleError`` when ``now``, made just before, rests on something else or does more harm than was said."""
    if plan.id != now.id:
        names = ("kind", "volume", "state", "epoch", "peer_state", "peer_epoch", "fork", "held", "detail")
        changed = [name for name in names if getattr(plan, name) != getattr(now, name)]
        raise PlanStaleError(
            f"the plan to {plan.kind} {plan.volume} is stale: {', '.join(changed) or 'an epoch'} changed since",
            hint="make a new plan",
        )
    slack = ONE_MORE_SET if plan.kind == "failover" else 0
    for name, more in (("lost_sets", slack), ("undone_sets", 0), ("undone_blocks", 0)):
        said, is_now = getattr(plan, name), getattr(now, name)
        if said is None:  # it was said that nobody knows
            continue
        if is_now is None or is_now > said + more:
            what = f"{name.replace('_', ' ')} would be {is_now}, not {said}"
            raise PlanStaleError(f"the plan to {plan.kind} {plan.volume} is stale: {what}", hint="make a new plan")


def created_s(parts: Replica, root: Root, number: int) -> float | None:
    """When the set that reaches a position was cut, wall clock; ``None`` where nothing of it is known any more."""
    for entry in received_sets(parts) if root.role == "secondary" else ():
        if entry.number == number:
            return entry.created_s
    if not root.first_listed <= number <= root.last.number:
        return None
    try:
        return SetReader(parts.save, lambda: root, 1 << 48).header(span_of(root, number).last).created_s
    except (CorruptRecordError, RecordMissingError):
        return None


def _played(replica: AnyReplica) -> Position | None:
    """Where a secondary stands that is at a boundary."""
    return replica.player.position if isinstance(replica, SecondaryReplica) and replica.root.is_at_boundary else None


def _mine(replica: AnyReplica, root: Root, fork: int, last: int) -> PagedBitmap | None:
    """What changed here after the fork, as a demotion would list it."""
    count, resync = snapped_of(replica).block_count, root.resync
    if resync is not None:
        return mine_of_resync(replica.parts, root, resync, fork, count)
    blocks = blocks_after(replica.parts, root, fork, count, last)
    if blocks is not None:
        add_uncut(replica, blocks)
    return blocks


def _theirs(peer: Peer, fork: int, count: int) -> PagedBitmap | None:
    blocks = PagedBitmap(count)
    try:
        for start in range(0, count, ASK_BLOCKS):
            for run in peer.changed(fork, start, min(ASK_BLOCKS, count - start)).runs():
                blocks.set_run(start + run.start, run.count)
    except RecordMissingError:
        return None
    return blocks


def _union(left: PagedBitmap | None, right: PagedBitmap | None) -> PagedBitmap | None:
    if left is None or right is None:
        return None
    both = left.copy()
    both.update(right)
    return both


def _blocks(replica: AnyReplica, after: int, last: int) -> int | None:
    blocks = blocks_after(replica.parts, replica.root, after, snapped_of(replica).block_count, last)
    return None if blocks is None else blocks.count()


def _held(replica: AnyReplica) -> tuple[str, ...]:
    """Names of the held snapshots that keep something of the past: restart points, salvages, a user's."""
    return tuple(
        sorted(each.name for each in replica.root.snapshots if each.held and not each.name.startswith("view."))
    )


def _finish(plan: Plan, root: Root, info: PeerInfo | None) -> Plan:
    """The plan with its id: what must not change before it is carried out."""
    peer = "" if info is None else f"{info.lineage}/{info.epoch.count}/{info.epoch.promotion}/{info.role}"
    fork = "" if plan.fork is None else f"{plan.fork.number}/{plan.fork.identity}"
    text = "\0".join((
        plan.kind, plan.volume, plan.state, plan.detail, root.lineage, str(root.epoch.count), root.epoch.promotion,
        peer, plan.peer_state, fork, *plan.held,
    ))  # fmt: skip
    return msgspec.structs.replace(plan, id=xxh3_64(text.encode()).hexdigest())
