"""Roles as an operator changes them: failover, switchover, resync, handing over (R1-R4, R7), in both workers."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from replkit.contracts.position import Epoch, Position
from replkit.errors import (
    ControlError,
    DivergedError,
    InvalidArgumentError,
    NotFoundError,
    PeerError,
    RefusedError,
    ReplkitError,
    WrongRoleError,
)
from replkit.recovery.demotion import Return, demote, redirect, step_back, under_way
from replkit.recovery.facts import AnyReplica
from replkit.recovery.handover import begin_handover, cancel_handover
from replkit.recovery.peer import Peer, settle_fork
from replkit.recovery.resync import full_copy, join
from replkit.recovery.states import state_of
from replkit.replication.branches import identity_of
from replkit.replication.cells import Resync
from replkit.replication.primary import PrimaryReplica
from replkit.replication.promotion import RESTART, Mode
from replkit.replication.secondary import SecondaryReplica
from replkit.site.calls import PeerLinks
from replkit.site.control import Arguments
from replkit.site.held import HeldReplica
from replkit.site.names import check_name

_log = logging.getLogger(__name__)
FULL_COPY = "full-copy"
"""The call with which a side that returns asks for a new copy of all."""
FENCE_WAIT_S = 2.0
"""How long a failover waits for old primaries that it can reach to stop their writes."""


class Returning:
    """Changes roles of the volumes of one worker.

    Args:
        links: clients of other sites.
        own_url: where other sites reach this one; empty where it does not listen.
        site: name of this site; what a new primary calls it as a member.
        peers: names and URLs of the sites that the configuration knows.
    """

    def __init__(self, links: PeerLinks, own_url: str, site: str, peers: Mapping[str, str]) -> None:
        self._links, self._own_url, self._site, self._peers = links, own_url, site, peers

    # -- at a secondary --

    def failover(self, held: HeldReplica, arguments: Arguments) -> dict[str, Any]:
        """Make a secondary the primary (R1, R3). Old primaries in reach are told, so that they stop writing."""
        began_s = time.monotonic()
        replica = held.replica
        mode: Mode = "now" if arguments.get("now") else "received"
        request_id = str(arguments.get("request") or uuid.uuid4().hex)
        position = replica.promote(mode, request_id=request_id, force=bool(arguments.get("force")))
        epoch = replica.root.epoch
        self._fence_others(held.name, epoch, replica.root.lineage)
        return {
            "volume": held.name,
            "role": "primary",
            "position": {**position_fields(position), "epoch": epoch.count},
            "restart_point": {"snapshot": f"{RESTART}{epoch.count}", **position_fields(position)},
            "duration_s": time.monotonic() - began_s,
            "nbd": held.spec["nbd"],
        }

    def switchover(self, held: HeldReplica, arguments: Arguments) -> dict[str, Any]:
        """Ask the primary to hand its role over to this secondary, which loses nothing (R2)."""
        volume = str(arguments.get("source_volume") or held.name)
        source = arguments.get("source") or held.source_site
        url = self.url_of(source) if source in self._peers else self.primary_of(source, volume)
        peer = self._links.peer(url, volume)
        member = str(arguments.get("member") or self._site)
        id_ = str(arguments.get("request") or uuid.uuid4().hex)
        try:
            state = peer.ask_handover(id_, member)
        except RefusedError:
            raise
        except PeerError as error:
            raise ControlError(
                f"{held.name}: the primary at {url} cannot be reached: {error}",
                hint=f"a switchover needs both; when the primary is lost: replkit failover {held.name}",
            ) from error
        return {"volume": held.name, "id": id_, "primary": url, "state": state}

    def _fence_others(self, volume: str, epoch: Epoch, lineage: str) -> None:
        """Tell every known site of the new epoch; those that do not answer learn of it when they send (R9)."""

        def tell(url: str) -> None:
            try:
                self._links.peer(url, volume).fence(epoch, lineage)
            except ReplkitError:
                return  # out of reach, or without such a volume

        told = [threading.Thread(target=tell, args=(url,), daemon=True) for url in self._peers.values()]
        for thread in told:
            thread.start()
        deadline_s = time.monotonic() + FENCE_WAIT_S
        for thread in told:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    # -- at a primary --

    def go_on(self, primary: PrimaryReplica, name: str, nbd: str | None, arguments: Arguments) -> dict[str, Any]:
        """Stay the primary though another one was met: go on in a new epoch; the other is to resync (R9)."""
        began_s = time.monotonic()
        position = primary.begin_epoch(str(arguments.get("request") or uuid.uuid4().hex))
        epoch = primary.root.epoch
        self._fence_others(name, epoch, primary.root.lineage)
        return {
            "volume": name,
            "role": "primary",
            "position": {**position_fields(position), "epoch": epoch.count},
            "restart_point": None,
            "duration_s": time.monotonic() - began_s,
            "nbd": nbd,
        }

    def hand_over(self, primary: PrimaryReplica, arguments: Arguments) -> dict[str, Any]:
        """Begin to hand the role over to a member (R2, R7)."""
        member = _member_of(primary, arguments.get("member"))
        if not self._own_url:
            raise WrongRoleError("this site has no address for the new primary", hint="set listen in its configuration")
        id_ = str(arguments.get("id") or arguments.get("request") or uuid.uuid4().hex)
        begin_handover(primary, member, id_, own_url=self._own_url, own_name=self._site)
        return {"id": id_, "member": member, "state": state_of(primary.root).value}

    def cancel(self, primary: PrimaryReplica) -> dict[str, Any]:
        """Give a handover up that drains."""
        cancel_handover(primary)
        return {"state": state_of(primary.root).value}

    # -- at either --

    def resync(
        self, replica: AnyReplica, name: str, arguments: Arguments, reopen: Callable[[], SecondaryReplica] | None
    ) -> dict[str, Any]:
        """Leave the own history for that of the new primary, and ask it for what differs (R4).

        ``reopen`` opens a secondary anew after it stepped back; a primary is moved by the daemon.
        """
        volume = str(arguments.get("source_volume") or name)
        url = self.primary_of(arguments.get("source"), volume)
        if not self._own_url:
            raise WrongRoleError("this site has no address to send to", hint="set listen in its configuration")
        peer = self.reached(name, url, volume)
        if arguments.get("allow_full_copy") and isinstance(replica, SecondaryReplica) and replica.root.resync:
            return self._copy_fully(replica, name, peer, url)
        back = self.look(replica, peer, url, volume, rewind=bool(arguments.get("rewind")))
        made = under_way(replica.root, back)
        if made is not None:
            return _resync_fields(name, url, back.fork, made)
        try:
            made = _leave(replica, back)
        except DivergedError:  # invariant 8: the other one has been met, too, and a command there decides
            with suppress(ReplkitError):
                peer.fence(replica.root.epoch, replica.root.lineage)
            raise
        if made is None and reopen is not None:
            again = reopen()
            join(again, peer, member=self._site, own_url=self._own_url, at=again.root.last)
        elif reopen is not None:
            reopen()
        return _resync_fields(name, url, back.fork, made)

    def _copy_fully(self, secondary: SecondaryReplica, name: str, peer: Peer, url: str) -> dict[str, Any]:
        """Give a resync up that cannot go on, for a new copy of all that is in use; the salvage stays (R5)."""
        resync = secondary.root.resync
        if resync is None:
            raise WrongRoleError(f"{name}: no resync is under way", hint="begin one: replkit resync")
        full_copy(secondary)  # first: a member that is copied again must not take in the rest of a difference
        self._links.caller(url).call(
            FULL_COPY,
            {"volume": peer.volume, "member": resync.member, "url": resync.own_url, "destination": name,
             "lineage": secondary.root.lineage},
        )  # fmt: skip
        return {
            "volume": name, "id": resync.id, "primary": url, "fork": position_fields(resync.fork),
            "salvage": resync.salvage, "compares": False, "full_copy": True,
        }  # fmt: skip

    def copy_to(self, primary: PrimaryReplica, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """A call of a side that returns: make a full new copy there, as its operator allowed it."""
        name, url, volume = (str(arguments.get(key, "")) for key in ("member", "url", "destination"))
        if arguments.get("lineage") != primary.root.lineage:
            raise WrongRoleError(f"{volume} at {url} is a replica of another volume than {primary.parts.name}")
        known = any(member.name == check_name(name, "replica") for member in primary.root.members)
        if known:
            primary.copy_again(name)
        else:
            primary.add_member(name, url, check_name(volume, "volume"))
        return {"member": name}

    def look(self, replica: AnyReplica, peer: Peer, url: str, volume: str, *, rewind: bool = False) -> Return:
        """Where the two histories part, and who is to be asked; changes nothing."""
        info = peer.info()
        parts = replica.parts
        identity = partial(identity_of, parts.save, replica.root, block_count=parts.volume.block_count)
        fork = settle_fork(replica.root, identity, peer, info)
        return Return(
            info=info, fork=fork, url=url, volume=volume, member=self._site, own_url=self._own_url, rewind=rewind
        )

    def reached(self, name: str, url: str, volume: str) -> Peer:
        """The site at a URL, which answers; ``ControlError`` with what to do where it does not."""
        peer = self._links.peer(url, volume)
        try:
            peer.info()
        except RefusedError:
            raise
        except PeerError as error:
            raise ControlError(
                f"{name}: the site at {url} cannot be reached: {error}",
                hint="start it, or name the site of the new primary with --from",
            ) from error
        return peer

    def primary_of(self, source: Any, volume: str) -> str:
        """The URL of ``source``; where none is named, of the peer that says that it is the primary."""
        if source or len(self._peers) == 1:
            return self.url_of(source)
        found: list[tuple[int, str]] = []
        for url in self._peers.values():
            try:
                info = self._links.peer(url, volume).info()
            except ReplkitError as error:
                _log.info("%s cannot say whether it is the primary of %s: %s", url, volume, error)
                continue
            if info.role == "primary" and info.fenced is None:
                found.append((info.epoch.count, url))
        newest = [url for count, url in found if count == max(found)[0]]
        if len(newest) != 1:
            known = ", ".join(sorted(self._peers)) or "none"
            raise NotFoundError(
                f"{len(newest)} peers say that they are the primary of {volume}", hint=f"name one with --from: {known}"
            )
        return newest[0]

    def url_of(self, name: Any) -> str:
        """The URL of a peer by its name, or as given; the only peer where none is named."""
        if not name and len(self._peers) == 1:
            return next(iter(self._peers.values()))
        if name in self._peers:
            return self._peers[str(name)]
        if isinstance(name, str) and ":" in name:
            return name
        known = ", ".join(sorted(self._peers)) or "none"
        raise NotFoundError(f"no peer is called {name!r}" if name else "no peer is named", hint=f"known: {known}")


def _member_of(primary: PrimaryReplica, member: Any) -> str:
    """The member that is meant; the only one where none is named."""
    members = [each.name for each in primary.root.members]
    if member is None and len(members) == 1:
        return members[0]
    if member is None:
        raise InvalidArgumentError(
            "it is not clear which member is meant", hint=f"name one of: {', '.join(members) or 'none'}"
        )
    return str(member)


def position_fields(position: Position) -> dict[str, Any]:
    """A position for people and programs."""
    return {"epoch": position.epoch.count, "number": position.number, "identity": position.identity}


def _resync_fields(name: str, url: str, fork: Position, made: Resync | None) -> dict[str, Any]:
    return {
        "volume": name,
        "id": None if made is None else made.id,
        "primary": url,
        "fork": position_fields(fork),
        "salvage": None if made is None else made.salvage,
        "compares": made is not None and made.compares,
        "full_copy": False,
    }


def _leave(replica: AnyReplica, back: Return) -> Resync | None:
    if isinstance(replica, PrimaryReplica):
        return demote(replica, back)
    return step_back(replica, back) if replica.root.resync is None else redirect(replica, back)
