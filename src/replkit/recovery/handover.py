"""A role is handed to a member without loss and without a copy: switchover, failback, reverse (FIG. 30, 33; R2, R7).

At the primary P, in ``root.handover``: *draining*, until its member M has played the last set that P cut, with the
writers waiting at the end; then one swap makes P a secondary in an epoch that is M's alone (*granted*). P calls M until
M is the primary and has P as a member. P is a secondary before M is a primary, so there are never two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from replkit.contracts.position import Epoch, Position
from replkit.errors import CutAbandonedError, NotFoundError, PeerError, WrongRoleError
from replkit.recovery.peer import Peer
from replkit.recovery.states import State, Step, require, state_of
from replkit.replication.branches import drop_branches, history_after, leads_on
from replkit.replication.cells import Base, Difference, Handover, Member, MemberProgress, MemberState, Root, sent_cell
from replkit.replication.directory import epoch_at
from replkit.replication.new_copy import find_member
from replkit.replication.primary import PrimaryReplica
from replkit.replication.promotion import next_epoch
from replkit.replication.root import load_struct
from replkit.replication.secondary import SecondaryReplica
from replkit.replication.set_reader import SetReader

PAUSE_S = 0.2
IDLE_PAUSE_S = 1.0


def begin_handover(primary: PrimaryReplica, member: str, id_: str, *, own_url: str = "", own_name: str = "") -> None:
    """Begin to hand the role over to a member that follows; a repeat with the same id changes nothing.

    ``own_url`` and ``own_name`` say how the new primary reaches this site, and what it calls it.
    """
    replica = primary.parts
    root = replica.root.get()
    if root.handover is not None and root.handover.id == id_:
        return
    require(replica.name, root, Step.HAND_OVER)
    found = find_member(root, member)
    if found is None:
        raise NotFoundError(f"{replica.name} has no member {member}")
    if found.state != "following":
        raise WrongRoleError(
            f"{replica.name}: member {member} is {found.state}, so it cannot take over", hint="wait until it follows"
        )
    handover = Handover(
        id=id_, member=member, phase="draining", peer=found.url, peer_volume=found.destination_volume,
        own_url=own_url, own_name=own_name,
    )  # fmt: skip
    replica.root.mutate(lambda now: msgspec.structs.replace(now, handover=handover))


def cancel_handover(primary: PrimaryReplica) -> None:
    """Give a handover up while it drains: the primary goes on, and writes with it. A granted one cannot be given up."""
    replica = primary.parts
    require(replica.name, replica.root.get(), Step.CANCEL)
    replica.root.mutate(lambda now: msgspec.structs.replace(now, handover=None))


class Draining:
    """The service of a primary that hands over: brings the member to the last set, stops the writers, grants the role.

    When ``step`` has granted it, ``is_granted`` is true: the site closes the primary and opens a secondary.
    """

    def __init__(self, primary: PrimaryReplica) -> None:
        self._primary, self._replica = primary, primary.parts
        self._is_holding = False
        self.is_granted = False

    def step(self) -> float:
        """Bring the handover a step on; seconds until the next call."""
        root = self._replica.root.get()
        if state_of(root) is not State.DRAINING or root.handover is None:
            self._let_go()
            return IDLE_PAUSE_S
        handover = root.handover
        member = find_member(root, handover.member)
        if member is None or member.state != "following":
            self._say(f"member {handover.member} does not follow any more: the handover is given up")
            cancel_handover(self._primary)
            return 0.0
        if not self._hold_writers(root, member):
            return PAUSE_S
        try:
            last = self._primary.cut()
        except CutAbandonedError as error:
            self._let_go()  # told by the cutter; the writers go on until there is room again
            self._say(f"the last set could not be cut: {error}")
            return IDLE_PAUSE_S
        if self._played(member) != last:
            return PAUSE_S
        return self._grant(handover, last)

    def _hold_writers(self, root: Root, member: Member) -> bool:
        """Let the writers wait once the member is almost in sync, while it is there to take the role."""
        if not self._is_connected(member):
            self._let_go()
            return False
        if not self._is_holding:
            if self._played(member).number < root.last.number - 1:
                return False
            self._primary.volume.suspend_writes()
            self._is_holding = True
        return True

    def close(self) -> None:
        """The service ends: writers that wait go on."""
        self._let_go()

    def _grant(self, handover: Handover, last: Position) -> float:
        primary, replica = self._primary, self._replica
        error = WrongRoleError(f"{replica.name} is handed over to {handover.member}", hint="write it there")
        primary.volume.refuse_writes(error)
        with primary.cutter.at_rest():
            if primary.volume.dirty_blocks or replica.root.get().last != last:  # a writer came in between after all
                primary.volume.refuse_writes(None)
                return 0.0
            members = self._others(handover)

            def change(root: Root) -> Root:
                return _granted(root, handover, last, next_epoch(replica, root), members)

            root = replica.root.mutate(change)
        self.is_granted = True
        self._let_go()
        replica.hooks.replkit_role_changed(volume=replica.name, role="secondary", epoch=root.epoch)
        return 0.0

    def _others(self, handover: Handover) -> tuple[Member, ...]:
        """The other members, each with the position from which the new primary goes on with it."""
        found: list[Member] = []
        for member in self._replica.root.get().members:
            if member.name == handover.member:
                continue
            stands = self._stands_at(member)
            if stands is None:
                self._say(f"member {member.name} is {member.state}: add it at {handover.member} when that is primary")
            else:
                state: MemberState = "paused" if member.state == "paused" else "following"
                found.append(msgspec.structs.replace(member, hold=stands, state=state))
        return tuple(found)

    def _stands_at(self, member: Member) -> int | None:
        """The number at which a member stands or was last seen; ``None`` where it needs more than what changed."""
        played, difference = self._played(member), member.difference
        if difference is not None:  # it is at the fork until it has all
            return None if difference.list_key or difference.snapshot else difference.fork.number
        has_copy = not member.needs_copy or (member.copy_snapshot is None and played.epoch.count > 0)
        if member.state == "following" or (member.state == "paused" and has_copy):
            return max(member.hold, played.number)
        return None

    def _is_connected(self, member: Member) -> bool:
        progress, _version = load_struct(self._replica.save, sent_cell(member.name), MemberProgress)
        return progress is not None and progress.state == "following"

    def _played(self, member: Member) -> Position:
        progress, _version = load_struct(self._replica.save, sent_cell(member.name), MemberProgress)
        played = progress.played_by(member, self._replica.root.get()) if progress is not None else None
        return played or Position(Epoch(0, ""), 0, "")

    def _let_go(self) -> None:
        if self._is_holding:
            self._is_holding = False
            self._primary.volume.resume_writes()

    def _say(self, text: str) -> None:
        self._replica.hooks.replkit_error(volume=self._replica.name, message=text, error=None)


class HandoverService:
    """The service of the secondary that granted its role: calls the member until that is the primary (R6, R7)."""

    def __init__(self, secondary: SecondaryReplica, peer: Callable[[str, str], Peer]) -> None:
        """``peer`` gives a client for the URL and the volume of the new primary."""
        self._replica = secondary.parts
        self._peer = peer
        self.last_error = ""

    def step(self) -> float:
        """Call once, if a handover is granted; seconds until the next call."""
        root = self._replica.root.get()
        handover = root.handover
        if handover is None or handover.phase != "granted" or root.role != "secondary":
            return IDLE_PAUSE_S
        back = Member(
            name=handover.own_name or "former-primary",
            url=handover.own_url,
            destination_volume=self._replica.name,
            state="following",
            hold=root.history[-1].first_number - 1,
        )
        position = root.base.position if root.base is not None else root.last
        try:
            answer = self._peer(handover.peer, handover.peer_volume).promote(handover, position, back, root.lineage)
        except PeerError as error:
            self.last_error = str(error)
            return PAUSE_S
        if answer.state != "done":
            return PAUSE_S
        self.last_error = ""
        self._replica.root.mutate(lambda now: msgspec.structs.replace(now, handover=None))
        return IDLE_PAUSE_S


def take_over(
    replica: PrimaryReplica | SecondaryReplica,
    *,
    epoch: Epoch,
    position: Position,
    request_id: str,
    members: tuple[Member, ...],
) -> Literal["promoted", "done"]:
    """At the member: become the primary of exactly the granted epoch, then take the members over without a copy.

    ``promoted`` until the volume was opened as a primary's and the call came again.
    """
    root, name = replica.root, replica.parts.name
    if isinstance(replica, SecondaryReplica):
        if root.role == "secondary" and root.last != position:
            raise WrongRoleError(f"{name} stands at {root.last}, not at {position}, where the role is handed over")
        replica.promote("received", epoch, request_id)
        return "promoted"
    if root.epoch != epoch:
        raise WrongRoleError(f"{name} is a primary in epoch {root.epoch.count}, not in the granted {epoch.count}")
    for member in members:
        if find_member(root, member.name) is None:
            _take_member(replica, member, position)
            if member.state == "paused":
                replica.members.set_paused(member.name, True)
    return "done"


def _take_member(primary: PrimaryReplica, member: Member, position: Position) -> None:
    """Go on with a member where it stands: by the sets after that, or what changed since, never by a full copy."""
    number = min(member.hold, position.number)
    where = position
    if number < position.number:
        where = Position(epoch_at(primary.root, number), number, primary.identity_of(number))
    url, volume = member.url, member.destination_volume
    reader = SetReader(primary.parts.save, lambda: primary.root, primary.volume.block_count)
    if leads_on(reader, primary.root, where):
        primary.members.add_following(member.name, url, volume, where)
    else:  # the sets are trimmed here, or lead over its place: their lists tell what it lacks
        copy_id = f"{member.name[:40]}-{primary.root.epoch.promotion[:8]}"
        primary.members.add_difference(member.name, url, volume, Difference(fork=where), copy_id)


def _granted(root: Root, handover: Handover, last: Position, epoch: Epoch, members: tuple[Member, ...]) -> Root:
    """The root of P, a secondary at ``last`` in an epoch that only M begins; what a failover left behind goes (R3)."""
    root = drop_branches(root)
    granted = msgspec.structs.replace(handover, phase="granted", epoch=epoch, members=members)
    return msgspec.structs.replace(
        root,
        role="secondary",
        epoch=epoch,
        history=history_after(root.history, last.number, epoch),
        base=Base(copy_id=handover.id, position=last),
        members=(),
        paused=False,
        handover=granted,
    )
