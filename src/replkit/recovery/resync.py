"""The side that returns, after its root says so: asks the new primary to make it a member (FIG. 28, 29; R4-R6).

The difference itself comes over replication, like a new copy; what is here gets it to begin, and looks whether it was
forgotten. Everything durable is in ``root.resync``, so a crash anywhere goes on by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from xxhash import xxh3_64

from replkit.contracts.position import Position
from replkit.errors import PeerError, ProtocolError, RefusedError, SnapshotInvalidError, WrongRoleError
from replkit.recovery.comparison import Comparison, Later, when_waited_for
from replkit.recovery.peer import Peer, PeerInfo, Prepared, list_id
from replkit.recovery.salvage import LIST
from replkit.recovery.states import Step, require
from replkit.replication.cells import Resync, Root
from replkit.replication.difference import get_list, put_list
from replkit.replication.secondary import SecondaryReplica

PAUSE_S: Final = 0.5
LOOK_EVERY_S: Final = 2.0
"""How often a resync that is under way asks whether the primary still knows of it."""


class ResyncDriver:
    """The service of a secondary in a resync.

    ``peer`` gives a client for a URL and a volume there; ``later`` calls it while hashes are made here.
    """

    def __init__(
        self, secondary: SecondaryReplica, peer: Callable[[str, str], Peer], later: Later = when_waited_for
    ) -> None:
        self._secondary, self._replica = secondary, secondary.parts
        self._open_peer, self._later = peer, later
        self._peer: Peer | None = None
        self._sent: set[str] = set()
        self._compared: Comparison | None = None
        self._look_at_s = 0.0

    def step(self) -> float:
        """A bounded piece of what is to be done next; seconds until the next call."""
        resync = self._replica.root.get().resync
        if resync is None:
            self._peer, self._compared = None, None
            return LOOK_EVERY_S
        try:
            if self._peer is None:
                self._peer = self._open_peer(resync.peer, resync.peer_volume)
            if resync.phase == "receiving":
                return self._look(resync, self._peer)
            if resync.compares or (resync.coarse_key and not resync.snapshot):
                return self._compare(resync, self._peer)
            return self._ask(resync, self._peer)
        except PeerError as error:
            if not isinstance(error, RefusedError):
                self._peer = None  # a broken link: call again over a new one
            self._sent.clear()  # the peer may have lost what it had not synced
            self._say(str(error))
            return PAUSE_S

    def status(self) -> dict[str, object]:
        """How far the resync is (R8)."""
        resync = self._replica.root.get().resync
        return {} if resync is None else {
            "id": resync.id, "peer": resync.peer, "fork": str(resync.fork), "phase": resync.phase,
            "compares": resync.compares, "compared_blocks": self._compared.next_block if self._compared else 0,
            "salvage": resync.salvage, "in_place": resync.in_place, "rewind": resync.rewind, "error": resync.error,
        }  # fmt: skip

    def _ask(self, resync: Resync, peer: Peer) -> float:
        """Give the peer the list, then have it make this volume a member."""
        if resync.list_key:
            self._send_list(resync, peer)
        try:
            begun = peer.begin(resync, self._replica.name, self._replica.root.get().lineage)
        except RefusedError as error:
            if error.code in {"snapshot-gone", "list-trimmed"}:
                self._compare_again(resync, whole=error.code == "list-trimmed")
            elif error.code == "no-restart-point":  # deleted since: the newest position is reached all the same
                self._compare_again(resync, rewind=False)
            raise
        if begun.how == "following":
            require(self._replica.name, self._replica.root.get(), Step.ARRIVED)
            self._change(resync, lambda root: msgspec.structs.replace(root, resync=None))
            return 0.0
        require(self._replica.name, self._replica.root.get(), Step.ASKED)
        self._change(resync, lambda root: _with_resync(root, phase="receiving", error=""))
        self._look_at_s = self._replica.runtime.monotonic() + LOOK_EVERY_S
        return PAUSE_S

    def _send_list(self, resync: Resync, peer: Peer) -> None:
        keys = self._replica.save.list(f"{resync.list_key}/")  # the head sorts last
        for key in keys:
            if key not in self._sent:
                record = self._replica.save.get(key)
                peer.put_list_record(list_id(resync), key.rpartition("/")[2], record, len(keys) - 1)
                self._sent.add(key)

    def _look(self, resync: Resync, peer: Peer) -> float:
        """The primary may have lost the member: removed, or its save volume rolled back. Then ask again."""
        now = self._replica.runtime.monotonic()
        if now < self._look_at_s:
            return PAUSE_S
        self._look_at_s = now + LOOK_EVERY_S
        info = peer.info()
        if info.role != "primary":
            raise ProtocolError(f"{resync.peer} is no primary any more: resync with the new one")
        if not _knows(info, resync):
            self._sent.clear()
            self._change(resync, lambda root: _with_resync(root, phase="asking"))
        elif resync.error:
            self._change(resync, lambda root: _with_resync(root, error=""))
        return PAUSE_S

    def _compare(self, resync: Resync, peer: Peer) -> float:
        """Find by hashes what differs from a snapshot of the peer (FIG. 28, R4).

        Of the whole volume where the list of this side is gone, else of the blocks that are only in doubt. What equals
        the peer's at a snapshot need not be sent for this difference or a later one, as what changed after it is.
        """
        save, volume = self._replica.save, self._secondary.volume
        if self._compared is None:
            prepared = self._prepare(resync, peer)
            if prepared is None:
                return 0.0
            coarse = None if resync.compares else get_list(save, resync.coarse_key, volume.block_count)
            self._compared = Comparison(prepared, volume.block_count, coarse, self._later)
        compared = self._compared
        try:
            if compared.advance(volume, peer):
                return 0.0
        except (RefusedError, SnapshotInvalidError):
            self._compared = None  # the snapshot is gone: begin with a new one
            raise
        differs = compared.differs
        if compared.blocks is not None:
            differs = get_list(save, resync.mine_key, volume.block_count)
            differs.subtract(compared.blocks)
            differs.update(compared.differs)
        key = f"{LIST}{resync.id}-{compared.stamp.number}"
        put_list(save, key, differs)  # an empty one too: it says by its size which blocks are not here
        self._compared = None
        self._change(
            resync,
            lambda root: _with_resync(
                root, compares=False, exact=resync.compares, snapshot=compared.snapshot, list_key=key
            ),
        )
        return 0.0

    def _prepare(self, resync: Resync, peer: Peer) -> Prepared | None:
        """The snapshot to compare with; for a rewind the restart point, ``None`` when that is gone."""
        if not resync.rewind:
            return peer.prepare(resync.id)
        info = peer.info()
        if info.restart == resync.fork:
            return Prepared(snapshot=info.restart_snapshot, stamp=resync.fork, block_count=info.block_count)
        self._compare_again(resync, rewind=False)
        return None

    def _compare_again(self, resync: Resync, *, whole: bool = False, rewind: bool | None = None) -> None:
        """What was compared counts no more; ``whole`` because the list of the peer is gone."""
        self._sent.clear()
        whole = whole or resync.exact or resync.compares
        rewinds = resync.rewind if rewind is None else rewind
        self._change(
            resync,
            lambda root: _with_resync(
                root, compares=whole, exact=False, snapshot="", list_key=resync.mine_key, rewind=rewinds
            ),
        )

    def _change(self, resync: Resync, change: Callable[[Root], Root]) -> None:
        """Change the root if this resync is still the one under way: the receiver may have ended it."""

        def guarded(root: Root) -> Root:
            return change(root) if root.resync is not None and root.resync.id == resync.id else root

        self._replica.root.mutate(guarded)

    def _say(self, text: str) -> None:
        resync = self._replica.root.get().resync
        if resync is not None and resync.error != text[:500]:
            self._change(resync, lambda root: _with_resync(root, error=text[:500]))
            self._replica.hooks.replkit_error(volume=self._replica.name, message=f"resync: {text}", error=None)


def join(secondary: SecondaryReplica, peer: Peer, *, member: str, own_url: str, at: Position) -> None:
    """Have a primary send its sets to a secondary that stands in its history: no block of it is in doubt.

    ``RefusedError`` when it does not, or when the sets after it and their lists are gone there.
    """
    asks = f"{at.identity}/{at.number}/{member}/{own_url}"  # members that stand at the same ask at the same time
    request = Resync(
        id=f"join-{xxh3_64(asks.encode()).hexdigest()}", peer="", peer_volume=peer.volume, member=member,
        own_url=own_url, fork=at, list_key="",
    )  # fmt: skip
    peer.begin(request, secondary.parts.name, secondary.root.lineage)


def full_copy(secondary: SecondaryReplica) -> None:
    """Give a resync up for a full new copy, which must have been asked for: the primary's ``copy_again`` makes it (R5).

    The volume keeps standing at no boundary until that copy is done; the salvage stays.
    """
    replica = secondary.parts
    root = replica.root.get()
    if root.resync is None:
        raise WrongRoleError(f"{replica.name}: no resync is under way", hint="ask the primary for a new copy of it")
    replica.root.mutate(lambda now: msgspec.structs.replace(now, resync=None, base=None))


def _with_resync(root: Root, **changes: object) -> Root:
    resync = root.resync
    return root if resync is None else msgspec.structs.replace(root, resync=msgspec.structs.replace(resync, **changes))


def _knows(info: PeerInfo, resync: Resync) -> bool:
    return any(
        each.name == resync.member and (each.copy_id == resync.id or each.copy_id.startswith(f"{resync.id}."))
        for each in info.members
    )
