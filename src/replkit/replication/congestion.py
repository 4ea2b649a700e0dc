"""What happens at a primary whose save volume is full: suspend writes, or pull ahead (S4, invariant 11).

*block* suspends writes as soon as what is changed would not fit beside what is kept, until the trimmer made room.
*pull-ahead* never stalls production: the data of the sets that no member has played is given up, their block lists
stay, and the next set spans them. Where even an empty save volume could not hold the set, members become stale; a set
that no member needs is then cut without its data.
"""

from __future__ import annotations

import msgspec

from replkit.contracts.savevolume import Partition
from replkit.errors import RecordMissingError, ReplkitError
from replkit.replication.cells import Root, Span
from replkit.replication.directory import numbers_between, span_of, tag_of
from replkit.replication.logged import LoggedVolume
from replkit.replication.policy import Policy
from replkit.replication.replica import Replica
from replkit.replication.set_reader import SetReader
from replkit.replication.trimmer import members_floor

OVERHEAD = 1.1
"""Stored bytes a changed byte, at most: heads, block lists, alignment of records."""
RESUME_SHARE = 0.8
"""Writes go on when what is changed needs less than this share of the free room."""


class Congestion:
    """Watches the room for sets; called by the cutter, which is the one that needs it."""

    def __init__(self, replica: Replica, volume: LoggedVolume) -> None:
        self._replica = replica
        self._volume = volume
        self.is_blocking = False
        root = replica.root.get()
        if root.given_up is not None:  # after a restart: the next set must carry what was given up
            self._mark_given_up(root, root.given_up)
        stale = ", ".join(member.name for member in root.members if member.state == "stale")
        if stale:  # a crash may have come between the swap that made them so and its message
            self._say(f"members are stale: {stale}: bring them up to date with replica catch-up, or by a new copy")

    def step(self, policy: Policy) -> None:
        """Suspend or resume the writers, as room and policy say."""
        if not self.is_blocking and (policy.congestion != "block" or not self._is_needed()):
            return
        needed, free = self._needed_bytes(), self._free_bytes()
        if needed > free:
            self._replica.room_wish.is_made = True
        if not self.is_blocking and needed > free:
            self._block(needed, free)
            self._tell_left_behind()
        elif self.is_blocking and (policy.congestion != "block" or needed <= free * RESUME_SHARE):
            self._resume()
        elif self.is_blocking and needed > self._replica.save.capacity_bytes(Partition.SETS):
            self.mark_stale("what changed is more than the save volume holds")
            self._resume()

    def on_full(self, policy: Policy) -> None:
        """A set did not fit: make room, or stop the writers until there is some."""
        root = self._replica.root.get()
        unplayed = root.last.number >= root.first_kept
        if root.condemned or members_floor(self._replica.save, root) >= root.first_kept:  # the trimmer makes room
            self._replica.room_wish.is_made = True
            return
        if policy.congestion == "pull-ahead" and unplayed and root.members:
            self._give_up(root)
        elif not unplayed and self._needed_bytes() > self._replica.save.capacity_bytes(Partition.SETS):
            self.mark_stale("one delta set is more than the save volume holds")
        elif policy.congestion == "block" and not self.is_blocking:
            self._block(self._needed_bytes(), self._free_bytes())
        self._tell_left_behind()

    def mark_stale(self, reason: str) -> None:
        """Stop keeping sets for the members: each needs a resync or a new copy, said loudly."""

        def change(root: Root) -> Root:
            members = tuple(
                msgspec.structs.replace(member, state="stale") if member.state != "copying" else member
                for member in root.members
            )
            return msgspec.structs.replace(root, members=members)

        before = self._replica.root.get()
        try:
            after = self._replica.root.mutate(change)
        except ReplkitError as error:  # it may be done all the same, and nobody would hear of it later
            self._say(f"members may be stale: {reason}: {error}")
            raise
        if after != before:
            self._say(f"members are stale: {reason}")

    def status(self) -> dict[str, object]:
        """Whether writes wait, and for what (invariant 11)."""
        given_up = self._replica.root.get().given_up
        return {
            "writes_suspended": self.is_blocking,
            "given_up": None if given_up is None else [given_up.first, given_up.last],
            "free_bytes": self._free_bytes(),
            "capacity_bytes": self._replica.save.capacity_bytes(Partition.SETS),
        }

    def may_drop_data(self) -> bool:
        """Whether the set to be cut could never be stored, and no member needs it: only its block lists are kept."""
        if self._is_needed() or self._needed_bytes() <= self._replica.save.capacity_bytes(Partition.SETS):
            return False
        self._say("the next set is larger than the save volume; its data is not kept, as no secondary needs it")
        return True

    def _is_needed(self) -> bool:
        return any(member.needs_next_set for member in self._replica.root.get().members)

    def _needed_bytes(self) -> int:
        return int(self._volume.dirty_blocks * self._volume.block_size * OVERHEAD)

    def _free_bytes(self) -> int:
        save = self._replica.save
        return save.capacity_bytes(Partition.SETS) - save.used_bytes(Partition.SETS)

    def _block(self, needed: int, free: int) -> None:
        self.is_blocking = True
        self._volume.suspend_writes()
        self._say(f"writes are suspended: {needed} bytes are to be cut, {free} are free in the save volume")

    def _resume(self) -> None:
        self.is_blocking = False
        self._volume.resume_writes()

    def _give_up(self, root: Root) -> None:
        """Change log first, as a block too many does no harm; root, so that no sender names the data; then deletion.

        Invariant 2: an error that comes before all is marked must leave nothing given up, or the next set would span
        the sets without their blocks.
        """
        numbers = numbers_between(root, root.first_kept, root.last.number)
        first = root.given_up.first if root.given_up else span_of(root, root.first_kept).first
        given_up = Span(first, root.last.number)
        self._mark_given_up(root, given_up)
        condemned = (*root.condemned, *(tag_of(root, number) for number in numbers))

        def change(now: Root) -> Root:
            return msgspec.structs.replace(
                now, given_up=given_up, first_kept=given_up.last + 1, condemned=tuple(dict.fromkeys(condemned))
            )

        self._replica.root.mutate(change)
        self._say(f"sets {given_up.first} to {given_up.last} were given up; the next set spans them (pull-ahead)")

    def _mark_given_up(self, root: Root, given_up: Span) -> None:
        reader = SetReader(self._replica.save, self._replica.root.get, self._volume.block_count)
        for number in numbers_between(root, given_up.first, given_up.last):
            try:
                self._volume.mark_changed((piece.start, piece.count) for piece in reader.block_list(number))
            except RecordMissingError as error:
                self.mark_stale(f"the block list of set {number}, which was given up, is gone: {error}")

    def _tell_left_behind(self) -> None:
        """Nobody but a command may delete it (invariant 10), so whoever could give it is told (invariant 11)."""
        for branch in self._replica.root.get().branches:
            self._say(
                f"sets {branch.first} to {branch.last}, which a failover --now left behind, take room that a cut "
                "needs: read them, then delete them"
            )

    def _say(self, message: str) -> None:
        self._replica.hooks.replkit_error(volume=self._replica.name, message=message, error=None)
