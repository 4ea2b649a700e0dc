"""The trimmer: deletes the data of sets that nobody needs any more, and keeps their block lists longer (S1, inv. 7).

Deletion has two steps: a swap of the root condemns the sets and moves ``first_kept``, then their records go. A crash in
between leaves condemned tags in the root, which the next step deletes; nothing condemned is ever named again.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from replkit.contracts.position import Position
from replkit.contracts.savevolume import Partition, SaveVolume
from replkit.deltaset.keys import parse_set_tag
from replkit.errors import InvalidArgumentError
from replkit.replication.branches import is_in_branch
from replkit.replication.cells import Member, MemberProgress, Playing, Root, sent_cell
from replkit.replication.directory import forget_before, numbers_between, span_of, tag_of
from replkit.replication.policy import load_policy
from replkit.replication.reads import floor_of_reads
from replkit.replication.replica import Replica
from replkit.replication.root import load_struct
from replkit.replication.set_writer import delete_set
from replkit.replication.shared_cells import SharedCopy, copied_cell, played_cell
from replkit.replication.snapshot_names import COMPARED

SETS_A_STEP = 32
WAIT_SETS = 2
WAIT_BYTES = 128 << 20
"""Where each swap costs requests, so many sets and bytes of them may wait for the swap that publishes the next set."""
PAUSE_S = 0.5
LISTS_SHARE = 0.5
"""Block lists are kept until this share of their partition is used."""
SAY_EACH_S = 600.0


Condemning = Callable[[], Callable[[Root], Root]]
"""Asked at the moment: how a root changes that condemns what may be condemned now."""


def nothing_condemned() -> Callable[[Root], Root]:
    """Where nobody waits for a swap."""
    return lambda root: root


class Trimmer:
    """Trims one save volume.

    ``floor`` gives the number up to which every consumer is done with the sets. ``kept`` gives the one after which a
    policy keeps them besides, or ``None``: as long as there is room, since the past must not stop the present (S4).
    With ``waits``, where each swap costs requests, both of its swaps are left to the one that publishes the next set,
    unless there is much to delete or room is wished for: one set more stays for as long.
    """

    def __init__(
        self,
        replica: Replica,
        floor: Callable[[], int],
        kept: Callable[[], int | None] = lambda: None,
        *,
        waits: bool = False,
    ) -> None:
        self._replica = replica
        self._floor = floor
        self._kept = kept
        self._waits = waits
        self._said_s: float | None = None

    def step(self) -> float:
        """Delete what is condemned, and condemn a few sets more; seconds until the next call."""
        root, may_wait = self._replica.root.get(), self._may_wait()
        fresh = [tag for tag in root.condemned if tag not in self._replica.unsaved.deleted]
        if fresh or (root.condemned and not may_wait):
            self._delete_condemned(root, fresh, may_wait=may_wait)
            return 0.0
        needed, wish = self._floor(), self._replica.room_wish
        floor = min(needed, self._kept_floor(root))
        if floor >= root.first_kept and not (may_wait and floor - root.first_kept < WAIT_SETS):
            self._replica.root.mutate(self._condemn(root, floor))
            return 0.0
        if wish.is_made and needed >= root.first_kept:
            wish.is_made = False
            self._replica.root.mutate(self._condemn(root, numbers_between(root, root.first_kept, needed)[0]))
            self._say_let_go(root)
            return 0.0
        wish.is_made = False
        if self._trim_lists(root, floor):
            return 0.0
        return PAUSE_S

    def _may_wait(self) -> bool:
        if not self._waits or not self._replica.pays or self._replica.room_wish.is_made:
            return False
        return self._replica.save.used_bytes(Partition.SETS) <= WAIT_BYTES

    def condemning(self) -> Callable[[Root], Root]:
        """For a swap that comes at once: how it condemns what may be condemned now, if that has waited for it."""
        root = self._replica.root.get()
        if not self._may_wait() or not root.is_at_boundary:
            return nothing_condemned()
        floor = min(self._floor(), self._kept_floor(root))
        return self._condemn(root, floor) if floor >= root.first_kept else nothing_condemned()

    def _kept_floor(self, root: Root) -> int:
        by_number = root.last.number - load_policy(self._replica.save).keep_sets
        by_time = self._kept()
        return by_number if by_time is None else min(by_number, by_time)

    def _say_let_go(self, root: Root) -> None:
        now_s = self._replica.runtime.monotonic()
        if self._said_s is None or now_s - self._said_s >= SAY_EACH_S:
            self._said_s = now_s
            message = f"the save volume is full: set {root.first_kept}, which the policy would keep, was let go"
            self._replica.hooks.replkit_error(volume=self._replica.name, message=message, error=None)

    @staticmethod
    def _condemn(root: Root, floor: int) -> Callable[[Root], Root]:
        """How the root changes; a set that spans beyond the floor stays."""
        done = [number for number in numbers_between(root, root.first_kept, floor) if number <= floor][:SETS_A_STEP]
        first_kept = done[-1] + 1 if done else floor + 1
        tags = tuple(tag_of(root, number) for number in done)

        def change(now: Root) -> Root:
            if now.first_kept != root.first_kept:  # another swap was first
                return now
            return msgspec.structs.replace(now, first_kept=first_kept, condemned=(*now.condemned, *tags))

        return change

    def _delete_condemned(self, root: Root, fresh: list[str], *, may_wait: bool) -> None:
        save, unsaved = self._replica.save, self._replica.unsaved
        for tag in fresh:
            save.delete(save.list(f"sets/{tag}/"))
        unsaved.deleted = unsaved.deleted.union(fresh)
        if may_wait:
            return
        gone = frozenset(root.condemned)
        save.sync()  # a deleted record may come back until then
        self._replica.root.mutate(lambda now: forget_deleted(now, gone))
        unsaved.deleted -= gone

    def _trim_lists(self, root: Root, floor: int) -> bool:
        save = self._replica.save
        if save.used_bytes(Partition.LISTS) < save.capacity_bytes(Partition.LISTS) * LISTS_SHARE:
            return False
        last = min(floor, root.first_kept - 1, root.last.number - 1)
        if root.given_up is not None:
            last = min(last, root.given_up.first - 1)
        forks = [member.difference.fork.number for member in root.members if member.difference is not None]
        compared = [each.stamp.number for each in root.snapshots if each.name.startswith(COMPARED) and each.stamp]
        last = min([last, *forks, *compared])  # a member gets its difference by the lists after its fork
        numbers = [number for number in numbers_between(root, root.first_listed, last) if number <= last][:SETS_A_STEP]
        if not numbers:
            return False
        tags = [tag_of(root, number) for number in numbers]
        self._replica.root.mutate(lambda now: forget_before(now, numbers[-1] + 1))
        for tag in tags:
            save.delete(save.list(f"lists/{tag}/"))
        return True


def forget_deleted(root: Root, gone: frozenset[str]) -> Root:
    """The root without these condemned tags, whose records are deleted durably."""
    return msgspec.structs.replace(root, condemned=tuple(tag for tag in root.condemned if tag not in gone))


def members_floor(save: SaveVolume, root: Root) -> int:
    """The number that every member of a primary is done with; stale members do not count (invariant 7)."""
    floor = root.last.number
    for member in root.members:
        if member.state != "stale":
            done = min(played_number(save, root, member), floor_of_reads(save, member))
            if member.on_demand and (member.until is None or member.until <= done):
                continue
            floor = min(floor, max(member.hold, done))
    return floor


def played_number(save: SaveVolume, root: Root, member: Member) -> int:
    """What a member has played of the copy that it has now; 0 before its copy is done."""
    position: Position | None = None
    if member.shared:
        playing, _version = load_struct(save, played_cell(member.name), Playing)
        copy, _version = load_struct(save, copied_cell(member.name), SharedCopy)
        if playing is not None and playing.copy_id == member.copy_id:
            position = playing.position
        elif copy is not None and copy.done and copy.copy_id == member.copy_id:
            position = copy.stamp  # no set was played after the copy yet
    else:
        progress, _version = load_struct(save, sent_cell(member.name), MemberProgress)
        position = progress.played_by(member, root) if progress is not None else None
    return position.number if position is not None else 0


def sweep(replica: Replica, *keep_tags: str) -> None:
    """Delete the records of sets that no root names: left by a crash, or of the volume before a new copy.

    ``keep_tags`` are of what is being received.
    """
    root, save = replica.root.get(), replica.save
    tags = {key.split("/")[1] for prefix in ("sets/", "lists/") for key in save.list(prefix)}
    for tag in sorted(tags):
        try:
            number, _writer = parse_set_tag(tag)
        except InvalidArgumentError:  # records of snapshots
            continue
        if tag not in keep_tags and not is_named(root, number, tag) and not is_in_branch(root, tag):
            delete_set(save, tag)


def is_named(root: Root, number: int, tag: str) -> bool:
    """Whether the root names this set: it was committed, and its lists at least are kept."""
    if not root.first_listed <= number <= root.last.number or not root.writers:
        return False
    return (
        number >= root.writers[0].first_number and span_of(root, number).last == number and tag_of(root, number) == tag
    )
