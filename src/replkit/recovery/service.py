"""What a site answers to another one: the other end of ``Peer`` (R4, R6, R7, R9).

Every call may come twice, after a crash of either side too: what it asks for is done once. Arguments come from
outside and are checked before they are believed (invariant 12).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from replkit.blocks.bitmap import PagedBitmap
from replkit.contracts.buffers import Buffer
from replkit.contracts.position import Position
from replkit.contracts.savevolume import Partition
from replkit.deltaset.keys import parse_set_tag
from replkit.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    RecordMissingError,
    RefusedError,
    WrongRoleError,
)
from replkit.recovery.arguments import (
    LISTS_SHARE,
    MAX_BLOCKS_A_CALL,
    MAX_COMPARISONS,
    MAX_HASHED_BLOCKS,
    MAX_HASHED_BYTES,
    MAX_READ_BYTES,
    MAX_RECORD_BYTES,
    MIN_RANGE_BYTES,
    RECORD,
    RECORD_PIECE_BYTES,
    Begin,
    Fenced,
    HandOver,
    Numbers,
    OneMember,
    Promote,
    Range,
    Record,
    SetRecord,
    bounded,
    check_lineage,
    typed,
)  # fmt: skip
from replkit.recovery.facts import AnyReplica, changed_after, info_of, snapped_of
from replkit.recovery.handover import begin_handover, take_over
from replkit.recovery.hashes import block_hashes, range_hashes
from replkit.recovery.peer import IDENTITIES_A_CALL, WEIGH_BLOCKS
from replkit.recovery.refetch import tag_in
from replkit.recovery.salvage import LIST
from replkit.recovery.states import State, state_of
from replkit.replication.branches import FORK_IDENTITY, identity_of, leads_on
from replkit.replication.cells import Difference
from replkit.replication.difference import check_list_record, has_list
from replkit.replication.directory import is_trimmed_after, is_unlisted_after, tag_of
from replkit.replication.primary import PrimaryReplica
from replkit.replication.promotion import RESTART
from replkit.replication.set_reader import SetReader
from replkit.replication.snapshot_names import COMPARED
from replkit.snapshot.records import SnapshotRecord, find_record


class PeerService:
    """Answers calls for the volumes that ``lookup`` knows; it raises ``NotFoundError`` for all others.

    ``lookup`` gives the replica as its root is now: after a promotion the site opens the volume anew. ``own_url`` and
    ``own_name`` are where a new primary reaches this site, and what it calls it, when a member asks for the role.
    """

    def __init__(self, lookup: Callable[[str], AnyReplica], *, own_url: str = "", own_name: str = "") -> None:
        self._lookup, self._own_url, self._own_name = lookup, own_url, own_name
        self._calls: dict[str, Callable[[AnyReplica, dict[str, Any], Buffer], tuple[dict[str, Any], Buffer]]] = {
            "info": self._info,
            "identities": self._identities,
            "block-list": self._block_list,
            "weigh": self._weigh,
            "hashes": self._hashes,
            "block-hashes": self._block_hashes,
            "read": self._read,
            "set-record": self._set_record,
            "resync-list": self._resync_list,
            "resync-prepare": self._resync_prepare,
            "resync-begin": self._resync_begin,
            "promote": self._promote,
            "handover-begin": self._handover_begin,
            "handover-status": self._handover_status,
            "fence": self._fence,
            "pull": self._pull,
        }

    @property
    def names(self) -> frozenset[str]:
        """The calls that it answers."""
        return frozenset(self._calls)

    def handle(self, name: str, arguments: dict[str, Any], payload: Buffer = b"") -> tuple[dict[str, Any], Buffer]:
        """Carry a call out; the handler of a ``CallServer``."""
        call = self._calls.get(name)
        if call is None:
            raise NotFoundError(f"there is no call {name!r}", hint="the other site may run a newer version")
        volume = arguments.get("volume")
        if not isinstance(volume, str):
            raise InvalidArgumentError(f"{name}: no volume is named")
        return call(self._lookup(volume), {key: arguments[key] for key in arguments if key != "volume"}, payload)

    # -- questions --

    def _info(self, replica: AnyReplica, _arguments: dict[str, Any], _payload: Buffer) -> tuple[dict[str, Any], Buffer]:
        return msgspec.to_builtins(info_of(replica)), b""

    def _identities(self, replica: AnyReplica, raw: dict[str, Any], _payload: Buffer) -> tuple[dict[str, Any], Buffer]:
        numbers = typed("identities", raw, Numbers)
        if numbers.last - numbers.first >= IDENTITIES_A_CALL:
            raise InvalidArgumentError(f"identities: more than {IDENTITIES_A_CALL} are asked for")
        save, root, blocks = replica.parts.save, replica.root, snapped_of(replica).block_count
        return {
            "identities": [identity_of(save, root, each, blocks) for each in range(numbers.first, numbers.last + 1)]
        }, b""

    def _block_list(self, replica: AnyReplica, raw: dict[str, Any], _payload: Buffer) -> tuple[dict[str, Any], Buffer]:
        asked = typed("block-list", raw, Range)
        wanted = bounded("block-list", asked, snapped_of(replica).block_count, MAX_BLOCKS_A_CALL)
        blocks = changed_after(replica, asked.after)
        part = PagedBitmap(asked.count)
        for run in blocks.runs(wanted.start, wanted.stop):
            part.set_run(run.start - asked.start, run.count)
        return {"blocks": part.count()}, part.to_bytes()

    def _weigh(self, replica: AnyReplica, raw: dict[str, Any], payload: Buffer) -> tuple[dict[str, Any], Buffer]:
        asked, snapped = typed("weigh", raw, Range), snapped_of(replica)
        if asked.count > WEIGH_BLOCKS:
            raise InvalidArgumentError(f"weigh: more than {WEIGH_BLOCKS} blocks are asked for")
        blocks = PagedBitmap.from_bytes(asked.count, bytes(payload))
        volume = snapped.open_snapshot(asked.snapshot) if asked.snapshot else snapped
        stop = min(asked.start + asked.count, volume.block_count)
        data = 0
        for start, count in volume.in_use_between(asked.start, stop) if asked.start < stop else ():
            data += sum(run.count for run in blocks.runs(start - asked.start, start - asked.start + count))
        return {"bytes": data * snapped.block_size}, b""

    def _hashes(self, replica: AnyReplica, raw: dict[str, Any], payload: Buffer) -> tuple[dict[str, Any], Buffer]:
        """Of all ranges of a part of a snapshot, or of those in the map that is the payload."""
        asked, snapped = typed("hashes", raw, Range), snapped_of(replica)
        if asked.range_blocks * snapped.block_size < MIN_RANGE_BYTES:
            raise InvalidArgumentError(f"hashes: a range is at least {MIN_RANGE_BYTES} bytes")
        if isinstance(replica, PrimaryReplica):
            replica.members.leftovers.touch(asked.snapshot)
        bounded("hashes", asked, snapped.block_count, max(1, MAX_HASHED_BYTES // snapped.block_size))
        ranges = None
        if memoryview(payload).nbytes:
            ranges = PagedBitmap.from_bytes(-(-asked.count // asked.range_blocks), bytes(payload))
        volume = snapped.open_snapshot(asked.snapshot)
        return {}, range_hashes(volume, asked.start, asked.count, asked.range_blocks, ranges)

    def _block_hashes(self, replica: AnyReplica, raw: dict[str, Any], payload: Buffer) -> tuple[dict[str, Any], Buffer]:
        asked, snapped = typed("block-hashes", raw, Range), snapped_of(replica)
        if asked.count > min(MAX_HASHED_BLOCKS, MAX_HASHED_BYTES // snapped.block_size):
            raise InvalidArgumentError(f"block-hashes: {asked.count} blocks are asked for at once")
        if isinstance(replica, PrimaryReplica):
            replica.members.leftovers.touch(asked.snapshot)
        blocks = PagedBitmap.from_bytes(asked.count, bytes(payload))
        return {}, block_hashes(snapped.open_snapshot(asked.snapshot), asked.start, blocks)

    def _read(self, replica: AnyReplica, raw: dict[str, Any], _payload: Buffer) -> tuple[dict[str, Any], Buffer]:
        asked, snapped = typed("read", raw, Range), snapped_of(replica)
        snapshot = snapped.open_snapshot(asked.snapshot)
        if asked.count * snapped.block_size > MAX_READ_BYTES or asked.start + asked.count > snapshot.block_count:
            raise InvalidArgumentError(f"read: {asked.count} blocks from {asked.start} are too many")
        buffer = bytearray(asked.count * snapped.block_size)
        snapshot.read_into(asked.start, buffer)
        return {}, buffer

    def _set_record(self, replica: AnyReplica, raw: dict[str, Any], _payload: Buffer) -> tuple[dict[str, Any], Buffer]:
        """A record of a set that is named here, for a site where it is damaged (D3)."""
        asked, root = typed("set-record", raw, SetRecord), replica.root
        tag = tag_in(asked.key)
        number = parse_set_tag(tag)[0] if tag else -1
        if not root.first_listed <= number <= root.last.number or tag_of(root, number) != tag:
            raise RefusedError(f"no set here has a record {asked.key!r}, or it was trimmed", code="record-missing")
        record = replica.parts.save.get(asked.key)
        return {"size": len(record)}, record[asked.start : asked.start + RECORD_PIECE_BYTES]

    # -- resync --

    def _resync_list(self, replica: AnyReplica, raw: dict[str, Any], payload: Buffer) -> tuple[dict[str, Any], Buffer]:
        """Keep one record of the list of the side that returns; a record that is there is there whole, and as sent."""
        asked, primary = typed("resync-list", raw, Record), _primary(replica)
        save = primary.parts.save
        if not RECORD.fullmatch(asked.name) or memoryview(payload).nbytes > MAX_RECORD_BYTES:
            raise InvalidArgumentError(f"resync-list: no record of a list is called {asked.name!r}")
        check_list_record(asked.name, payload, f"list {asked.id} from another site")
        room = save.capacity_bytes(Partition.LISTS) * LISTS_SHARE - save.used_bytes(Partition.LISTS)
        if memoryview(payload).nbytes > room:
            raise RefusedError(f"there is no room for list {asked.id}", code="no-room", hint="try again later")
        primary.members.leftovers.touch(LIST + asked.id)
        if asked.name == "head":
            if len(save.list(f"{LIST}{asked.id}/")) < asked.pages:  # a crash here took some that were not synced
                raise RefusedError(f"pages of list {asked.id} are missing", code="list-missing", hint="send it again")
            save.sync()  # without a head there is no list, so the pages are durable first
        try:
            save.put(f"{LIST}{asked.id}/{asked.name}", [payload])
        except AlreadyExistsError:
            if bytes(save.get(f"{LIST}{asked.id}/{asked.name}")) != bytes(payload):
                raise
        if asked.name == "head":
            save.sync()
        return {}, b""

    def _resync_prepare(
        self, replica: AnyReplica, raw: dict[str, Any], _payload: Buffer
    ) -> tuple[dict[str, Any], Buffer]:
        primary, name = _primary(replica), COMPARED + typed("resync-prepare", raw, Record).id

        def is_there() -> bool:
            found = find_named(primary, name)
            if found is not None and found.valid and found.at_boundary:
                return True
            if found is not None:  # left by a crash, or invalidated; one that is just being made would look like it
                primary.delete_snapshot(name)
            if sum(each.name.startswith(COMPARED) for each in primary.snapshots()) >= MAX_COMPARISONS:
                raise RefusedError(f"{MAX_COMPARISONS} comparisons are under way", code="busy", hint="try again later")
            return False

        primary.cutter.cut_unless(is_there, name)
        found = find_record(primary.snapshots(), name)
        primary.members.leftovers.touch(name)
        blocks = -(-found.size_bytes // primary.volume.block_size)
        return {"snapshot": name, "stamp": msgspec.to_builtins(found.stamp), "block_count": blocks}, b""

    def _resync_begin(
        self, replica: AnyReplica, raw: dict[str, Any], _payload: Buffer
    ) -> tuple[dict[str, Any], Buffer]:
        """Make the side that returns a member: by a difference, or by the sets alone where it lacks nothing else."""
        asked, primary = typed("resync-begin", raw, Begin), _primary(replica)
        check_lineage("resync-begin", replica.parts.name, asked, replica.root)
        root, key = primary.root, f"{LIST}{asked.list_id}" if asked.list_id else ""
        known = {primary.identity_of(asked.fork.number), asked.fork.identity} - {"", FORK_IDENTITY}
        if asked.fork.number > root.last.number or len(known) > 1:
            raise RefusedError(f"position {asked.fork} is not in the history that ends at {root.last}", code="diverged")
        member = next((each for each in root.members if each.name == asked.member), None)
        if member is not None and is_copy_of(member.copy_id, asked.id):
            return {"how": "difference"}, b""
        if key and not has_list(primary.parts.save, key):
            raise RefusedError(f"the list of resync {asked.id} is not here", code="list-missing", hint="send it again")
        compared = next((each for each in primary.snapshots() if each.name == asked.snapshot and each.valid), None)
        if asked.snapshot and compared is None:
            raise RefusedError(f"snapshot {asked.snapshot} is gone", code="snapshot-gone", hint="compare again")
        if asked.rewind:
            snapshot = _restart_point(primary, asked.fork)
            if is_trimmed_after(root, asked.fork.number) and is_unlisted_after(root, asked.fork.number):
                raise RefusedError(
                    f"what changed after {asked.fork} is trimmed, so nothing leads on from there",
                    code="no-restart-point", hint="resync instead",
                )  # fmt: skip
            difference = Difference(
                fork=asked.fork, list_key=key, exact=True, exact_at=asked.fork.number, snapshot=snapshot
            )
        elif not key and not asked.exact and not asked.snapshot and _leads_on(primary, asked.fork):
            # invariant 5: not after a comparison, as blocks in doubt may equal that snapshot and not the fork
            primary.members.add_following(asked.member, asked.url, asked.destination, asked.fork)
            return {"how": "following"}, b""
        else:
            if not asked.exact:
                _check_lists(primary, asked.fork.number)
            at = compared.stamp.number if compared is not None and compared.stamp is not None else None
            difference = Difference(
                fork=asked.fork, list_key=key, exact=asked.exact, exact_at=at, snapshot=asked.snapshot
            )
        primary.members.add_difference(asked.member, asked.url, asked.destination, difference, asked.id)
        return {"how": "difference"}, b""

    def _pull(self, replica: AnyReplica, raw: dict[str, Any], _payload: Buffer) -> tuple[dict[str, Any], Buffer]:
        _primary(replica).members.catch_up(typed("pull", raw, OneMember).member)
        return {}, b""

    # -- roles --

    def _promote(self, replica: AnyReplica, raw: dict[str, Any], _payload: Buffer) -> tuple[dict[str, Any], Buffer]:
        asked = typed("promote", raw, Promote)
        check_lineage("promote", replica.parts.name, asked, replica.root)
        state = take_over(
            replica,
            epoch=asked.epoch,
            position=asked.position,
            request_id=asked.id,
            members=(asked.back, *asked.members),
        )
        return {"state": state}, b""

    def _handover_begin(
        self, replica: AnyReplica, raw: dict[str, Any], _payload: Buffer
    ) -> tuple[dict[str, Any], Buffer]:
        asked = typed("handover-begin", raw, HandOver)
        if isinstance(replica, PrimaryReplica):
            begin_handover(replica, asked.member, asked.id, own_url=self._own_url, own_name=self._own_name)
        return {"state": state_of(replica.root).value}, b""

    def _handover_status(
        self, replica: AnyReplica, _arguments: dict[str, Any], _payload: Buffer
    ) -> tuple[dict[str, Any], Buffer]:
        return {"state": state_of(replica.root).value}, b""

    def _fence(self, replica: AnyReplica, raw: dict[str, Any], _payload: Buffer) -> tuple[dict[str, Any], Buffer]:
        asked = typed("fence", raw, Fenced)
        check_lineage("fence", replica.parts.name, asked, replica.root)
        fenced = replica.fence(asked.epoch)
        return {"fenced": fenced or state_of(replica.root) is State.FENCED}, b""


def _check_lists(primary: PrimaryReplica, number: int) -> None:
    """``RefusedError`` where what changed after a position is not known any more: the lists are trimmed, or damaged."""
    try:
        changed_after(primary, number)
    except RecordMissingError as error:
        raise RefusedError(str(error.message), code="list-trimmed", hint="compare hashes") from error


def is_copy_of(copy_id: str, id_: str) -> bool:
    """Whether a copy is the one that resync ``id_`` asked for; one begun again has a suffix."""
    return copy_id == id_ or copy_id.startswith(f"{id_}.")


def _primary(replica: AnyReplica) -> PrimaryReplica:
    """The replica as a primary that takes members: one that is fenced or hands over does not."""
    state = state_of(replica.root)
    if not isinstance(replica, PrimaryReplica) or state is not State.PRIMARY:
        raise WrongRoleError(f"{replica.parts.name} is a {state.value} here", hint="ask the primary")
    return replica


def find_named(primary: PrimaryReplica, name: str) -> SnapshotRecord | None:
    """The record of a snapshot, valid or not."""
    return next((each for each in primary.snapshots() if each.name == name), None)


def _leads_on(primary: PrimaryReplica, fork: Position) -> bool:
    parts = primary.parts
    return leads_on(SetReader(parts.save, lambda: primary.root, primary.volume.block_count), primary.root, fork)


def _restart_point(primary: PrimaryReplica, fork: Position) -> str:
    for record in primary.snapshots():
        if record.name.startswith(RESTART) and record.valid and record.at_boundary and record.stamp == fork:
            return record.name
    raise RefusedError(
        f"{primary.parts.name} has no restart point at {fork}", code="no-restart-point", hint="resync instead"
    )
