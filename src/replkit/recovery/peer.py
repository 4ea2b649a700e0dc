"""The other site, as a typed client over calls: what recovery asks of it (R4, R6, R7, R9)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import msgspec

from replkit.blocks.bitmap import PagedBitmap
from replkit.contracts.buffers import Buffer
from replkit.contracts.position import Epoch, HistoryEntry, Position
from replkit.deltaset.chunk import MAX_CHUNK_BYTES
from replkit.errors import ProtocolError, RecordMissingError, RefusedError
from replkit.recovery.history import ForkPoint, epoch_of, fork_point
from replkit.recovery.salvage import LIST
from replkit.replication.branches import FORK_IDENTITY, cut_back
from replkit.replication.cells import Handover, Member, Resync, Role, Root

Call = Callable[[str, dict[str, Any], Buffer], tuple[dict[str, Any], Buffer]]
"""Carries ``(name, arguments, payload)`` to the other site: a ``CallClient.call``, or the service itself."""
IDENTITIES_A_CALL = 1000
WEIGH_BLOCKS = 1 << 26
Answer = TypeVar("Answer")


class MemberInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a site says of one of its members."""

    name: str
    state: str
    copy_id: str = ""
    received: Position | None = None
    played: Position | None = None


class PeerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a site says of its replica."""

    role: Role
    state: str
    lineage: str
    epoch: Epoch
    history: tuple[HistoryEntry, ...]
    last: Position
    played: Position | None
    first_kept: int
    first_listed: int
    block_size: int
    size_bytes: int
    restart: Position | None = None
    restart_snapshot: str = ""
    members: tuple[MemberInfo, ...] = ()
    fenced: Epoch | None = None

    @property
    def block_count(self) -> int:
        """Blocks of its volume."""
        return -(-self.size_bytes // self.block_size)


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """How a member gets what it lacks: by a ``difference``, or, ``following``, by the sets alone."""

    how: Literal["difference", "following"]


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot made for a comparison, the position with which it is stamped, and how many blocks it has."""

    snapshot: str
    stamp: Position
    block_count: int


class Promoted(msgspec.Struct, frozen=True, kw_only=True):
    """``promoted``: ask again, the volume is being opened; ``done``: it is the primary, and has its members."""

    state: Literal["promoted", "done"]


class Peer:
    """One volume at another site. Every call may be repeated; ``RefusedError`` is its no, anything else the link's."""

    def __init__(self, call: Call, volume: str) -> None:
        self._call, self.volume = call, volume

    def info(self) -> PeerInfo:
        """Role, history, members: no change."""
        return self._ask("info", PeerInfo)

    def identities(self, first: int, last: int) -> list[str]:
        """The identities of positions ``first`` to ``last``, empty where they are not known there."""
        found: list[str] = []
        while first <= last:
            stop = min(last, first + IDENTITIES_A_CALL - 1)
            result, _payload = self._call("identities", self._with({"first": first, "last": stop}), b"")
            found += _convert(result.get("identities"), list[str], "identities")
            first = stop + 1
        return found

    def changed(self, after: int, start: int, count: int) -> PagedBitmap:
        """Blocks ``[start, start + count)`` that the peer changed after position ``after``, uncut changes included.

        Numbered from ``start``. ``RecordMissingError`` when the list is trimmed there.
        """
        arguments = self._with({"after": after, "start": start, "count": count})
        try:
            _result, payload = self._call("block-list", arguments, b"")
        except RefusedError as error:
            if error.code == "record-missing":
                raise RecordMissingError(str(error), hint=error.hint) from error
            raise
        return PagedBitmap.from_bytes(count, bytes(payload))

    def weigh(self, blocks: PagedBitmap, snapshot: str = "") -> int:
        """Bytes of those blocks that hold data there, live or in a snapshot: the others are sent as discards."""
        total = 0
        for start in range(0, blocks.block_count, WEIGH_BLOCKS):
            count = min(WEIGH_BLOCKS, blocks.block_count - start)
            part = PagedBitmap(count)
            for run in blocks.runs(start, start + count):
                part.set_run(run.start - start, run.count)
            if part:
                arguments = self._with({"start": start, "count": count, "snapshot": snapshot})
                total += int(self._call("weigh", arguments, part.to_bytes())[0].get("bytes", 0))
        return total

    def hashes(
        self, snapshot: str, start: int, count: int, range_blocks: int, ranges: PagedBitmap | None = None
    ) -> bytes:
        """XXH3-128 of the ranges of ``range_blocks`` blocks of a snapshot there; only of those in ``ranges``, if given.

        Bit ``i`` is the range that begins at block ``start + i * range_blocks``.
        """
        arguments = self._with({"snapshot": snapshot, "start": start, "count": count, "range_blocks": range_blocks})
        return bytes(self._call("hashes", arguments, ranges.to_bytes() if ranges is not None else b"")[1])

    def block_hashes(self, snapshot: str, start: int, blocks: PagedBitmap) -> bytes:
        """XXH3-128 of single blocks of a snapshot there: of those in ``blocks``, which is numbered from ``start``."""
        arguments = self._with({"snapshot": snapshot, "start": start, "count": blocks.block_count})
        return bytes(self._call("block-hashes", arguments, blocks.to_bytes())[1])

    def read(self, snapshot: str, start: int, count: int) -> bytes:
        """Blocks of a snapshot there."""
        return bytes(self._call("read", self._with({"snapshot": snapshot, "start": start, "count": count}), b"")[1])

    def put_list_record(self, id_: str, name: str, record: Buffer, pages: int) -> None:
        """One record of this side's list of blocks; ``head`` comes last, and is refused when a page is missing."""
        self._call("resync-list", self._with({"id": id_, "name": name, "pages": pages}), record)

    def prepare(self, id_: str) -> Prepared:
        """Have a snapshot made for a comparison."""
        return self._ask("resync-prepare", Prepared, id=id_)

    def begin(self, resync: Resync, own_volume: str, lineage: str) -> Begun:
        """Become a member there: by a difference, or by the sets alone."""
        return self._ask(
            "resync-begin",
            Begun,
            id=resync.id,
            lineage=lineage,
            member=resync.member,
            url=resync.own_url,
            destination=own_volume,
            fork=resync.fork,
            list_id=list_id(resync),
            exact=resync.exact,
            snapshot=resync.snapshot,
            rewind=resync.rewind,
        )

    def fence(self, epoch: Epoch, lineage: str) -> bool:
        """Tell of a higher epoch of a lineage; whether the peer takes no more writes in a lower one."""
        result, _payload = self._call("fence", self._with({"epoch": epoch, "lineage": lineage}), b"")
        return bool(result.get("fenced"))

    def promote(self, handover: Handover, position: Position, back: Member, lineage: str) -> Promoted:
        """Give the role away: begin exactly the granted epoch at exactly ``position``, with ``back`` as a member."""
        return self._ask(
            "promote", Promoted, id=handover.id, lineage=lineage, epoch=handover.epoch, position=position, back=back,
            members=handover.members,
        )  # fmt: skip

    def ask_handover(self, id_: str, member: str) -> str:
        """Ask the primary there to hand its role over to its member; the state of that."""
        return str(self._call("handover-begin", self._with({"id": id_, "member": member}), b"")[0].get("state", ""))

    def handover_status(self) -> str:
        """The state of the replica there, in a word."""
        return str(self._call("handover-status", self._with({}), b"")[0].get("state", ""))

    def pull(self, member: str) -> None:
        """Ask to be brought up to date as a stale member."""
        self._call("pull", self._with({"member": member}), b"")

    def set_record(self, key: str) -> bytes:
        """A record of a delta set as it is there, unverified; ``RecordMissingError`` where it has no whole one."""
        record = bytearray()
        while True:
            try:
                result, payload = self._call("set-record", self._with({"key": key, "start": len(record)}), b"")
            except RefusedError as error:
                raise RecordMissingError(f"{key} is not to be had from the other site: {error.message}") from error
            record += payload
            if not payload or len(record) >= int(result.get("size", 0)):
                return bytes(record)
            if len(record) > MAX_CHUNK_BYTES:
                raise ProtocolError(f"{key} is longer there than a record can be")

    def _with(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"volume": self.volume, **msgspec.to_builtins(arguments)}

    def _ask(self, name: str, kind: type[Answer], **arguments: Any) -> Answer:
        result, _payload = self._call(name, self._with(arguments), b"")
        answer: Answer = _convert(result, kind, name)
        return answer


def _convert(value: Any, kind: Any, name: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"the answer to {name} makes no sense: {error}") from error


def settle_fork(root: Root, identity_of: Callable[[int], str], peer: Peer, info: PeerInfo) -> Position:
    """The fork point as a position both sides vouch for: the last at which the identities are equal.

    Histories alone say too much where a save volume was rolled back or a site cloned: then two different sets have
    one epoch and number. Positions that a side does not list any more are taken on the word of the histories; where
    neither does, the fork has the identity ``FORK_IDENTITY``.
    """
    root = standing_root(root)
    fork: ForkPoint = fork_point(root.history, root.last, info.history, info.last)
    last = fork.number
    while last >= 0:
        first = max(0, last - IDENTITIES_A_CALL + 1)
        theirs = peer.identities(first, last)
        if len(theirs) != last - first + 1:
            raise ProtocolError(f"{len(theirs)} identities of positions {first} to {last}")
        for number in range(last, first - 1, -1):
            mine = root.last.identity if number == root.last.number else identity_of(number)
            its = theirs[number - first]
            known = {mine, its} - {"", FORK_IDENTITY}
            if len(known) < 2:
                return Position(epoch_of(info.history, number), number, known.pop() if known else FORK_IDENTITY)
        last = first - 1
    return Position(info.history[0].epoch, 0, FORK_IDENTITY)


def standing_root(root: Root) -> Root:
    """The root with the position at which the volume stands as its newest: in a resync, the fork that it left from.

    What arrives of a difference, and the sets after it, are named already, but do not count before all of it is there.
    """
    return root if root.resync is None else cut_back(root, root.resync.fork)


def list_id(resync: Resync) -> str:
    """By what name the list of a resync goes to the peer; a list made by another comparison has another name."""
    return resync.list_key.removeprefix(LIST)
