"""A volume leaves its own history for the peer's: salvage first, then one swap of the root (FIG. 28, 29; R4, R6).

What it is afterwards: a secondary that stands at the fork but for the blocks of its list, and says so (invariant 6).
A crash before the swap leaves a fenced primary with a salvage that the next try takes again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
from xxhash import xxh3_64

from replkit.blocks.bitmap import PagedBitmap
from replkit.contracts.position import Position
from replkit.errors import DivergedError, FencedError, InconsistentError, NotFoundError, RecordMissingError
from replkit.recovery.history import Relation, relation
from replkit.recovery.peer import PeerInfo
from replkit.recovery.salvage import LIST
from replkit.recovery.states import Step, require
from replkit.replication.branches import cut_back, drop_branches, tags_after
from replkit.replication.cells import Base, Resync, Root
from replkit.replication.difference import blocks_between, get_list, has_list, put_list
from replkit.replication.primary import PrimaryReplica
from replkit.replication.replica import Replica
from replkit.replication.secondary import SecondaryReplica
from replkit.replication.set_reader import SetReader
from replkit.replication.snapshot_names import SALVAGE_SNAPSHOT
from replkit.snapshot.snapped import SnappedVolume

ID_STEM: Final = 10
"""So many characters of a resync's id tell from where to whom it goes; the others are random."""


@dataclass(frozen=True, kw_only=True)
class Return:
    """To whom a replica returns, and as what.

    ``fork`` is what ``settle_fork`` found; ``url`` and ``volume`` are the new primary's, ``own_url`` is where it can
    send to, ``member`` the name of this replica there. To ``rewind`` is to end at the fork.
    """

    info: PeerInfo
    fork: Position
    url: str
    volume: str
    member: str
    own_url: str
    rewind: bool = False


class _Mine(NamedTuple):
    """Blocks that this side changed after the fork, ``None`` where that is not known; ``coarse`` are only in doubt.

    Where it ``is_at_fork`` it needs only the sets after that. Else it has a list, if an empty one: a volume that was
    made smaller after the fork lacks blocks that its own list cannot name, and a list says them by its size.
    """

    blocks: PagedBitmap | None
    coarse: PagedBitmap | None = None
    is_at_fork: bool = False


def demote(primary: PrimaryReplica, back: Return) -> Resync:
    """Make an old primary a secondary that asks for a resync; durable on return. Then close it and open it again.

    Errors: ``FencedError`` when the peer's epoch is the one that is over (the peer is to resync), ``DivergedError``
    when it has the same count by another promotion (writes end here even so), ``WrongRoleError``.
    """
    replica = primary.parts
    root = replica.root.get()
    found = relation(root.epoch, back.info.epoch)
    if found is Relation.NEWER and root.handover is not None:  # it has nothing to hand over any more (invariant 8)
        primary.fence(back.info.epoch)
        root = replica.root.get()
    require(replica.name, root, Step.DEMOTE)
    if found is Relation.DIVERGED:  # invariant 8: who meets the other stops first
        primary.fence(back.info.epoch)
    check_winner(replica.name, root, back.info, back.url)
    # Writes end durably before anything else, in this opening and every one after it.
    if not (primary.fence(back.info.epoch) or primary.fence_copy(back.info.last) or root.fenced is not None):
        raise FencedError(
            f"{replica.name}: {back.url} is primary in the same epoch, at a position of this very history",
            hint="it is a copy of this site: decide that one of the two goes on (a new epoch), then resync the other",
        )
    _check_restart_point(replica.name, back)
    with primary.cutter.at_rest():
        root = replica.root.get()
        snapped, log = primary.volume.snapped, primary.volume.changelog
        mine = blocks_after(replica, root, back.fork.number, snapped.block_count)
        if mine is not None:
            mine.update(log.current)
        clean = not log.current and log.old is None
        is_at_fork = clean and root.last.number == back.fork.number and _has_size_of(replica, root, snapped)
        changed = _Mine(mine, _common(log.coarse, mine), is_at_fork)
        return _leave(replica, snapped, back, changed, root.last if clean else None)


def step_back(secondary: SecondaryReplica, back: Return) -> Resync | None:
    """Take a secondary that went beyond the fork back to it; ``None`` where it has played nothing beyond.

    Sets that it received beyond the fork and did not play are only forgotten. Receiving and playback end here: close it
    and open it again.
    """
    replica = secondary.parts
    require(replica.name, replica.root.get(), Step.STEP_BACK)
    check_winner(replica.name, replica.root.get(), back.info, back.url)
    _check_restart_point(replica.name, back)
    with secondary.changing_role():
        secondary.player.stop_after_pass(stopping=True)
        while not secondary.player.is_at_rest:
            if secondary.player.step() > 0:
                raise InconsistentError(
                    f"{replica.name}: the playback pass cannot be finished: {secondary.player.waits_for}",
                    hint="try again",
                )
        root, here = replica.root.get(), secondary.player.position
        if here.number <= back.fork.number:
            replica.root.mutate(lambda now: _adopt(now, back))
            return None
        mine = blocks_after(replica, root, back.fork.number, secondary.volume.block_count, here.number)
        return _leave(replica, secondary.volume, back, _Mine(mine), here)


def redirect(secondary: SecondaryReplica, back: Return) -> Resync:
    """Resync with another primary while a resync is under way: a second failover (R6). The salvage stays.

    What the first one wrote in place is not known block by block, so hashes are compared then; so are they where they
    were before, as what equals the first primary at its snapshot need not equal the second one at the fork.
    """
    replica = secondary.parts
    root = replica.root.get()
    require(replica.name, root, Step.REDIRECT)
    old = root.resync
    if old is None:
        raise InconsistentError(f"{replica.name}: no resync is under way")
    check_winner(replica.name, root, back.info, back.url)
    with secondary.changing_role():
        secondary.player.stop_after_pass(stopping=True)
        block_count = secondary.volume.block_count
        mine = mine_of_resync(replica, root, old, back.fork.number, block_count)
        has_doubts = mine is not None and old.coarse_key
        changed = _Mine(mine, get_list(replica.save, old.coarse_key, block_count) if has_doubts else None)
        new = _resync(back, changed, old.salvage, resync_id(root, back, old.id))
        _keep_lists(replica, new, changed)
        replica.root.mutate(lambda now: _as_secondary(now, back, new))
        return new


def mine_of_resync(replica: Replica, root: Root, old: Resync, fork: int, block_count: int) -> PagedBitmap | None:
    """The blocks in which a volume in a resync may differ from a position at or before its fork; ``None``: unknown."""
    if old.in_place or old.compares or old.exact or root.inconsistent is not None:
        return None
    mine = blocks_after(replica, root, fork, block_count, old.fork.number)
    if mine is not None and old.mine_key:
        mine.update(get_list(replica.save, old.mine_key, block_count))
    return mine


def under_way(root: Root, back: Return) -> Resync | None:
    """The resync that does already what is asked for, and goes on: the command given again changes nothing."""
    old = root.resync
    if old is None or root.epoch != back.info.epoch or old.fork != back.fork:
        return None
    is_same = (old.peer, old.peer_volume, old.member, old.own_url) == (back.url, back.volume, back.member, back.own_url)
    return old if is_same and old.rewind == back.rewind else None


def blocks_after(
    replica: Replica, root: Root, number: int, block_count: int, last: int | None = None
) -> PagedBitmap | None:
    """Blocks of the sets after ``number`` (up to ``last``), from their lists; ``None`` where one is gone or damaged."""
    try:
        return blocks_between(replica.save, root, number, root.last.number if last is None else last, block_count)
    except RecordMissingError:
        return None


def resync_id(root: Root, back: Return, before: str = "") -> str:
    """The same for a try after a crash, another for any other resync, also of another site that stands at the same."""
    epoch, last = back.info.epoch, root.last
    text = f"{before}/{last.epoch.promotion}/{last.number}/{last.identity}/{root.epoch.promotion}/{epoch.promotion}"
    return xxh3_64(f"{text}/{back.fork.number}/{back.rewind}/{back.member}/{back.own_url}".encode()).hexdigest()


def check_winner(name: str, root: Root, info: PeerInfo, url: str) -> None:
    """``FencedError`` where the site at ``url`` is not one whose history this one could return to.

    ``DivergedError`` where its epoch has the count of the one here, and was begun by another promotion: neither is
    over, so the position here would fall under an equal count (invariant 5). A new epoch there is the decision
    (invariant 8).
    """
    found = relation(root.epoch, info.epoch)
    if found is Relation.OLDER:
        raise FencedError(
            f"{name}: epoch {root.epoch.count} here is higher than {info.epoch.count} of {url}",
            hint="the other site is to resync with this one",
        )
    if info.role != "primary":
        hint = "name the site of the primary with --from"
        raise FencedError(f"{name}: {url} is a {info.role}, not the primary", hint=hint)
    if found is Relation.DIVERGED:
        raise DivergedError(
            f"{name}: two promotions have epoch {root.epoch.count}: the one that is known here, and that of {url}",
            hint="decide for the other site first: give failover there, which begins a new epoch; then resync this one",
        )


def _check_restart_point(name: str, back: Return) -> None:
    if back.rewind and back.info.restart != back.fork:
        raise NotFoundError(f"{name}: {back.url} has no restart point at {back.fork}", hint="resync instead")


def _leave(replica: Replica, snapped: SnappedVolume, back: Return, mine: _Mine, stamp: Position | None) -> Resync:
    id_ = _id_of_try(replica, snapped, resync_id(replica.root.get(), back)[:ID_STEM], stamp)
    name = f"{SALVAGE_SNAPSHOT}{id_}"
    record = next((each for each in snapped.snapshots() if each.name == name), None)
    if record is not None and not record.valid:
        snapped.delete_snapshot(name)
    if record is None or not record.valid:
        snapped.create_snapshot(name, stamp, held=True)
    resync = _resync(back, mine, name, id_)
    _keep_lists(replica, resync, mine)
    replica.root.mutate(lambda now: _as_secondary(now, back, resync))
    replica.hooks.replkit_role_changed(volume=replica.name, role="secondary", epoch=back.info.epoch)
    return resync


def _id_of_try(replica: Replica, snapped: SnappedVolume, stem: str, stamp: Position | None) -> str:
    """The id of the try that a crash ended, told by its salvage; else one that no other resync ever had.

    The peer believes that it knows a list by its id (invariant 9), and a machine that was rolled back to an older state
    and was written since returns from the same position with other blocks. A secondary may have played on since that
    try: then its salvage shows less than is to be kept. A fenced primary wrote nothing, whatever it is stamped.
    """
    for record in snapped.snapshots():
        is_same = stamp is None or record.stamp is None or record.stamp == stamp
        if is_same and record.name.startswith(f"{SALVAGE_SNAPSHOT}{stem}"):
            return record.name.removeprefix(SALVAGE_SNAPSHOT)
    return stem + replica.runtime.random_bytes(3).hex()


def _resync(back: Return, mine: _Mine, salvage: str, id_: str) -> Resync:
    key = "" if mine.blocks is None or mine.is_at_fork else LIST + id_
    return Resync(
        id=id_,
        peer=back.url,
        peer_volume=back.volume,
        member=back.member,
        own_url=back.own_url,
        fork=back.fork,
        list_key=key,
        mine_key=key,
        coarse_key=f"{LIST}{id_}.coarse" if mine.coarse else "",
        salvage=salvage,
        rewind=back.rewind,
        compares=mine.blocks is None,
    )


def _keep_lists(replica: Replica, resync: Resync, mine: _Mine) -> None:
    """A list made by a try before a crash is of the same blocks: no write came since.

    The first is that of the salvage, and is kept though it is empty: then it is known that nothing had been written.
    """
    for key, blocks in ((LIST + resync.id, mine.blocks), (resync.coarse_key, mine.coarse)):
        if key and blocks is not None and not has_list(replica.save, key):
            put_list(replica.save, key, blocks)


def _has_size_of(replica: Replica, root: Root, snapped: SnappedVolume) -> bool:
    """Whether the volume has the size that it had in its newest set."""
    reader = SetReader(replica.save, lambda: root, snapped.block_count)
    try:
        return bool(root.last.number) and reader.header(root.last.number).volume_size_bytes == snapped.size_bytes
    except RecordMissingError:
        return False


def _common(left: PagedBitmap, right: PagedBitmap | None) -> PagedBitmap | None:
    if right is None:
        return None
    only_left, both = left.copy(), left.copy()
    only_left.subtract(right)
    both.subtract(only_left)
    return both


def _forget_after(root: Root, fork: Position) -> Root:
    return msgspec.structs.replace(cut_back(root, fork), condemned=(*root.condemned, *tags_after(root, fork.number)))


def _adopt(root: Root, back: Return) -> Root:
    """A secondary in the history of the new primary, where it stands; a handover that was granted is over."""
    if root.last.number > back.fork.number:
        root = _forget_after(root, back.fork)
    return msgspec.structs.replace(root, epoch=back.info.epoch, history=back.info.history, handover=None, fenced=None)


def _as_secondary(root: Root, back: Return, resync: Resync) -> Root:
    root = _forget_after(drop_branches(root), back.fork)
    return msgspec.structs.replace(
        root,
        role="secondary",
        lineage=back.info.lineage,
        epoch=back.info.epoch,
        history=back.info.history,
        base=Base(copy_id=resync.id, position=back.fork),
        resync=resync,
        members=(),
        paused=False,  # of what it sent: it begins to send as a primary of another epoch, if ever
        inconsistent=None,
        fenced=None,
        handover=None,
    )
