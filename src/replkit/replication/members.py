"""The members of a primary: adding, removing, preparing and ending their new copies (C1, T6).

The hold of a new member is durable in the root before its snapshot is cut; the snapshot is stamped with the set that
was cut with it. A crash anywhere between leaves a member without a snapshot, which the next step gives it.
"""

from __future__ import annotations

from contextlib import suppress

import msgspec

from replkit.contracts.position import Position
from replkit.errors import (
    CutAbandonedError,
    InvalidArgumentError,
    NotFoundError,
    WrongRoleError,
)
from replkit.replication.cells import FOLLOWS, Difference, Member, MemberProgress, MemberState, Root, sent_cell
from replkit.replication.cutter import Cutter
from replkit.replication.difference import blocks_between, delete_list
from replkit.replication.directory import is_trimmed_after, set_after
from replkit.replication.leftovers import Leftovers
from replkit.replication.logged import LoggedVolume
from replkit.replication.new_copy import add_member, change_member, find_member
from replkit.replication.replica import Replica
from replkit.replication.root import load_struct
from replkit.replication.shared_cells import SharedCopy, copied_cell
from replkit.replication.snapshot_names import COMPARED
from replkit.snapshot.records import SnapshotRecord

PAUSE_S = 0.5
COPY_SNAPSHOT = "copy."
"""Names of the snapshots that new copies are made from begin so; users cannot take such a name."""


class MemberKeeper:
    """Keeps the member table of one primary."""

    def __init__(self, replica: Replica, volume: LoggedVolume, cutter: Cutter) -> None:
        self._replica, self._volume, self._cutter = replica, volume, cutter
        self.leftovers = Leftovers(replica, volume.snapped)

    def add(
        self, name: str, url: str, destination_volume: str, *, shared: bool = False, on_demand: bool = False
    ) -> None:
        """A new member, from a new copy; its hold is durable on return, its snapshot comes with the next step."""
        root = self._replica.root.get()
        member = Member(
            name=name,
            url=url,
            destination_volume=destination_volume,
            state="copying",
            hold=root.last.number,
            copy_id=self._new_copy_id(name),
            shared=shared,
            on_demand=on_demand,
        )
        self._replica.root.mutate(lambda now: add_member(now, member))

    def add_difference(
        self, name: str, url: str, destination_volume: str, difference: Difference, copy_id: str
    ) -> None:
        """A member that stands at ``difference.fork`` but for its list; one of this name is replaced (R4).

        ``copy_id`` names what the member asked for, so that a repeated call changes nothing. The snapshot of the copy
        is named by it, so where another member has the same, this one's gets a suffix.
        """
        root = self._replica.root.get()
        old = find_member(root, name)
        if old is not None and old.difference is not None and old.difference.id == copy_id:
            return
        if old is not None and (old.copy_id == copy_id or old.copy_id.startswith(f"{copy_id}.")):
            return  # done already
        if difference.fork.number > root.last.number:
            raise InvalidArgumentError(f"the fork {difference.fork} is beyond {root.last}, the newest position here")
        is_taken = any(each.copy_id == copy_id for each in root.members if each.name != name)
        suffix = f".{self._replica.runtime.random_bytes(4).hex()}" if is_taken else ""
        member = Member(
            name=name,
            url=url,
            destination_volume=destination_volume,
            state="copying",
            hold=root.last.number if not difference.snapshot else difference.fork.number,
            copy_id=copy_id[:50] + suffix if suffix else copy_id,
            difference=msgspec.structs.replace(difference, id=copy_id),
        )
        self._replica.root.mutate(lambda now: add_member(_without(now, name), member))
        if old is not None:
            self._drop_snapshot(old)

    def add_following(self, name: str, url: str, destination_volume: str, position: Position) -> None:
        """A member that stands at ``position`` of this history: it gets no copy, only the sets after it (R2, R5).

        One of this name is replaced. ``RecordMissingError`` when the sets after the position are not all kept.
        """
        root = self._replica.root.get()
        old = find_member(root, name)
        if position.number > root.last.number:
            raise InvalidArgumentError(f"{position} is beyond {root.last}, the newest position here")
        set_after(root, position.number)
        if old is not None and not old.needs_copy and (old.url, old.hold) == (url, position.number):
            return
        member = Member(
            name=name,
            url=url,
            destination_volume=destination_volume,
            state="following",
            hold=position.number,
            copy_id=f"{FOLLOWS}{self._new_copy_id(name)}",
        )
        self._replica.root.mutate(lambda now: add_member(_without(now, name), member))
        if old is not None:
            self._drop_snapshot(old)

    def catch_up(self, name: str) -> None:
        """Bring a member to the newest position by what changed since, from block lists; no full copy (T6).

        For one that is stale, and for one that follows and cannot go on by sets, as one is larger than its save volume.
        A difference that does not fit there goes into its volume in place, which stands at no boundary until then.

        ``RecordMissingError`` when the lists are trimmed or damaged: then only ``copy_again`` is left.
        ``WrongRoleError`` when the member lacks nothing, is paused, or never had its copy whole.
        """
        member, root = self._find(name), self._replica.root.get()
        progress, _version = load_struct(self._replica.save, sent_cell(name), MemberProgress)
        at = progress.received if progress is not None and progress.copied == member.copy_id else None
        is_behind = at is not None and member.state == "following" and at.number < root.last.number
        if member.shared or at is None or not (member.state == "stale" or is_behind):
            raise WrongRoleError(
                f"{name} is {member.state} and cannot catch up by what changed", hint="make a full new copy of it"
            )
        blocks_between(self._replica.save, root, at.number, root.last.number, self._volume.block_count)
        copy_id = self._new_copy_id(name)
        difference = Difference(fork=at, id=copy_id)
        self._change(
            name, state="copying", hold=root.last.number, copy_id=copy_id, difference=difference,
            copy_snapshot=None, copy_stamp=None,
        )  # fmt: skip

    def send_until(self, name: str, number: int) -> None:
        """Send sets up to position ``number`` to a member on demand; they are kept until it has played them (C5)."""
        self._find(name)
        self._change(name, until=number)

    def send_difference(self, name: str, difference: Difference) -> None:
        """Bring a member on demand on by a difference from where it stands (C5, P7)."""
        copy_id = self._new_copy_id(name)
        self._change(
            name, state="copying", hold=self._replica.root.get().last.number, copy_id=copy_id, until=None,
            difference=msgspec.structs.replace(difference, id=copy_id), copy_snapshot=None, copy_stamp=None,
        )  # fmt: skip

    def readdress(self, name: str, url: str) -> None:
        """Reach a member by another URL from now on; what it has stays, also a copy under way (T6).

        That it is the same replica is checked by its sender, which compares what both stand at.
        """
        member = self._find(name)
        if member.shared:
            raise InvalidArgumentError(f"{name} reads this save volume itself, nothing is sent to it")
        self._change(name, url=url)

    def remove(self, name: str) -> None:
        """Forget a member and what is kept for it; its volume stays where it is, at a boundary."""
        member = self._find(name)

        self._replica.root.mutate(lambda root: _without(root, name))
        self._drop_snapshot(member)

    def copy_again(self, name: str) -> None:
        """A full new copy for a member that is stale or diverged; what it has is replaced."""
        member = self._find(name)
        hold, copy_id = self._replica.root.get().last.number, self._new_copy_id(name)
        self._change(
            name, state="copying", hold=hold, copy_id=copy_id, difference=None, copy_snapshot=None, copy_stamp=None,
            until=None,
        )  # fmt: skip
        self._drop_snapshot(member)

    def set_paused(self, name: str, paused: bool) -> None:
        """Stop sending to a member, or go on; its sets are kept meanwhile.

        Whether its copy was finished is told by the root, and not by what the member says of itself: one that went back
        to an older state would be given the rest of its copy from another snapshot (invariant 6).
        """
        member = self._find(name)
        if member.state == "stale" or (member.state == "paused") == paused:  # stale: only a new copy ends that
            return
        has_copy = not member.needs_copy or (member.copy_snapshot is None and member.copy_stamp is not None)
        state: MemberState = "paused" if paused else ("following" if has_copy else "copying")
        self._change(name, state=state)

    def step(self) -> float:
        """Give members what their new copies need, and end those that are done; seconds until the next call."""
        self._collect()
        self.leftovers.step()
        for member in self._replica.root.get().members:
            if member.state != "copying":
                continue
            if member.copy_snapshot is None or not self._is_valid(member.copy_snapshot):
                self._prepare(member)
            elif self._is_copied(member):
                self._finish(member)
        return PAUSE_S

    def _prepare(self, member: Member) -> None:
        if member.copy_snapshot is not None:  # invalidated: what was copied of it is worth nothing
            self._begin_again(member)
            member = self._find(member.name)
        named = self._record(member.difference.snapshot) if member.difference is not None else None
        if named is not None and named.valid and named.stamp is not None:  # a rewind: it is there already
            self._change(member.name, copy_snapshot=named.name, copy_stamp=named.stamp)
            return
        if self._cutter.is_backing_off:  # there was no room a moment ago: a cut freezes applications, and writes
            return
        snapshot = f"{COPY_SNAPSHOT}{member.copy_id}"
        self._delete_snapshot(snapshot)  # a crash came between the cut and the swap below
        try:
            stamp = self._cutter.cut(snapshot)
        except CutAbandonedError:  # said by the cutter; tried again with the next step
            return
        self._change(member.name, copy_snapshot=snapshot, copy_stamp=stamp)

    def _begin_again(self, member: Member) -> None:
        difference = member.difference
        if difference is None:
            self.copy_again(member.name)
            return
        suffix = self._replica.runtime.random_bytes(4).hex()
        self._change(
            member.name, hold=self._replica.root.get().last.number, copy_id=f"{difference.id[:50]}.{suffix}",
            copy_snapshot=None, copy_stamp=None,
        )  # fmt: skip
        self._drop_snapshot(member)

    def _finish(self, member: Member) -> None:
        stamp = member.copy_stamp
        hold = max(member.hold, stamp.number if stamp is not None else 0)
        if stamp is not None and not member.on_demand and is_trimmed_after(self._replica.root.get(), stamp.number):
            # nobody held the sets after a snapshot that was there before the member was: it gets what changed since
            copy_id = self._new_copy_id(member.name)
            self._change(
                member.name, hold=self._replica.root.get().last.number, copy_id=copy_id, copy_snapshot=None,
                copy_stamp=None, difference=Difference(fork=stamp, id=copy_id),
            )  # fmt: skip
        else:
            self._change(member.name, state="following", hold=hold, copy_snapshot=None, difference=None)
        self._drop_snapshot(member)
        if member.difference is not None and member.difference.list_key:
            delete_list(self._replica.save, member.difference.list_key)

    def _is_copied(self, member: Member) -> bool:
        if member.shared:
            copy, _version = load_struct(self._replica.save, copied_cell(member.name), SharedCopy)
            return copy is not None and copy.done and copy.copy_id == member.copy_id
        progress, _version = load_struct(self._replica.save, sent_cell(member.name), MemberProgress)
        return progress is not None and progress.copied == member.copy_id

    def _drop_snapshot(self, member: Member) -> None:
        name = member.copy_snapshot or ""
        if name.startswith((COPY_SNAPSHOT, COMPARED)):  # not a restart point
            self._delete_snapshot(name)

    def _collect(self) -> None:
        """Delete snapshots of copies that no member is waiting for: a crash came after the swap that let go of them."""
        records = self._volume.snapped.snapshots()  # before the members: a copy that begins now has none among them
        members = self._replica.root.get().members
        needed = {f"{COPY_SNAPSHOT}{member.copy_id}" for member in members if member.state != "following"}
        needed |= {member.copy_snapshot for member in members if member.copy_snapshot is not None}
        for record in records:
            if record.name.startswith(COPY_SNAPSHOT) and not record.held and record.name not in needed:
                self._delete_snapshot(record.name)

    def _delete_snapshot(self, name: str) -> None:
        if self._record(name) is None:
            return
        with suppress(NotFoundError):  # a command and the step of this service may both see that it has to go
            self._volume.snapped.delete_snapshot(name)

    def _record(self, name: str) -> SnapshotRecord | None:
        return next((record for record in self._volume.snapped.snapshots() if record.name == name), None)

    def _is_valid(self, name: str) -> bool:
        record = self._record(name)
        return record is not None and record.valid

    def _change(self, name: str, **changes: object) -> None:
        self._replica.root.mutate(lambda root: change_member(root, name, **changes))

    def _find(self, name: str) -> Member:
        member = find_member(self._replica.root.get(), name)
        if member is None:
            raise NotFoundError(f"{self._replica.name} has no member {name}")
        return member

    def _new_copy_id(self, name: str) -> str:
        return f"{name[:40]}-{self._replica.runtime.random_bytes(4).hex()}"


def _without(root: Root, name: str) -> Root:
    return msgspec.structs.replace(root, members=tuple(each for each in root.members if each.name != name))
