"""Members on demand: they stay at a boundary and get a newer one when they ask (C5, FIG. 36-38; P7).

The source compares what the member has with the newest version. Here what is kept decides: the sets after it, else the
lists of what changed after it, else only a full copy is left, which is made only where it is allowed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from replkit.blocks.bitmap import PagedBitmap
from replkit.contracts.position import Position
from replkit.errors import InvalidArgumentError, NotFoundError, RefusedError, WrongRoleError
from replkit.recovery.salvage import LIST
from replkit.recovery.states import State, state_of
from replkit.replication.cells import Difference, Member, MemberProgress, sent_cell
from replkit.replication.difference import put_list
from replkit.replication.directory import is_trimmed_after, is_unlisted_after, span_of
from replkit.replication.new_copy import find_member
from replkit.replication.primary import PrimaryReplica
from replkit.replication.root import load_struct
from replkit.snapshot.differential import differential
from replkit.snapshot.records import SnapshotRecord

How = Literal["nothing", "sets", "difference", "copy"]


class PullRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of the call ``pull``: which version the member has, and which it wants (``None``: the newest)."""

    member: Annotated[str, Meta(min_length=1, max_length=64)]
    have: Position | None
    want: Annotated[int, Meta(ge=0, le=1 << 48)] | None = None
    allow_copy: bool = False


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """How the member gets it, and the number of the position at which it will stand, or a newer one."""

    how: How
    number: int


def answer_pull(primary: PrimaryReplica, raw: dict[str, Any]) -> Pulled:
    """Let a member have a newer version, by as little as does; a repeated call joins what is under way.

    Raises:
        RefusedError: ``too-old`` where only a full copy is left, ``not-kept`` where the version is not there any more,
            ``diverged`` where what the member has was never here.
        WrongRoleError: the member follows, or is paused.
    """
    try:
        asked = msgspec.convert(raw, PullRequest)
    except msgspec.ValidationError as error:
        raise InvalidArgumentError(f"pull: {error}") from error
    member, root = _on_demand(primary, asked.member), primary.root
    target = root.last.number if asked.want is None else asked.want
    if target > root.last.number or span_of(root, target).last != target:
        raise NotFoundError(f"{primary.parts.name} has no position {target}; the newest is {root.last}")
    if member.state == "copying":
        return Pulled(how="difference" if member.difference else "copy", number=target if asked.want else 0)
    have = asked.have
    if have is None:
        return _copy(primary, asked, target)
    known = primary.identity_of(have.number)
    if have.number > root.last.number or (known and have.identity and known != have.identity):
        raise RefusedError(f"{have} is not in the history that ends at {root.last}", code="diverged")
    if target <= have.number:
        return Pulled(how="nothing", number=have.number)
    if not is_trimmed_after(root, have.number):
        primary.members.send_until(asked.member, max(target, member.until or 0))
        return Pulled(how="sets", number=target)
    if is_unlisted_after(root, have.number):
        return _copy(primary, asked, target)
    snapshot = "" if asked.want is None else _snapshot_at(primary, target)
    primary.members.send_difference(asked.member, Difference(fork=have, snapshot=snapshot))
    return Pulled(how="difference", number=target)


def copy_between(primary: PrimaryReplica, name: str, older: str, newer: str) -> dict[str, Any]:
    """Bring a member on demand that equals the snapshot ``older`` to ``newer``, by what differs (P7, FIG. 34, 35).

    ``InvalidArgumentError`` unless ``older`` is older; ``WrongRoleError`` unless the member stands just at ``older``.
    """
    member, snapped = _on_demand(primary, name), primary.volume.snapped
    found = differential(snapped, older, newer)
    base, stamp = (_stamp(snapped.snapshot(each)) for each in (older, newer))
    progress, _version = load_struct(primary.parts.save, sent_cell(name), MemberProgress)
    at = progress.played_by(member, primary.root) if progress is not None else None
    if member.state != "following" or at != base:
        where = f"is {member.state}" if member.state != "following" else f"stands at {at}"
        raise WrongRoleError(
            f"secondary {name} {where}, snapshot {older} is {base}",
            hint=f"bring it there first, at its site: replkit pull --at {base.number}",
        )
    blocks = PagedBitmap(primary.volume.block_count)
    for start, count in (*found.data, *found.discards):
        blocks.set_run(start, min(count, blocks.block_count - start))
    id_ = f"copy-{primary.parts.runtime.random_bytes(8).hex()}"
    put_list(primary.parts.save, f"{LIST}{id_}", blocks)
    difference = Difference(fork=base, list_key=f"{LIST}{id_}", exact=True, exact_at=stamp.number, snapshot=newer)
    primary.members.send_difference(name, difference)
    return {
        "member": name,
        "from": older,
        "to": newer,
        "number": stamp.number,
        "data_blocks": sum(count for _, count in found.data),
        "discard_blocks": sum(count for _, count in found.discards),
    }


def _copy(primary: PrimaryReplica, asked: PullRequest, target: int) -> Pulled:
    if asked.want is not None and target != primary.root.last.number:
        raise RefusedError(f"position {target} is not kept for {asked.member}", code="not-kept")
    if not asked.allow_copy:
        raise RefusedError(
            f"what changed after {asked.have} is known no more: only a full copy is left", code="too-old",
            hint="allow it with --allow-full-copy",
        )  # fmt: skip
    primary.members.copy_again(asked.member)
    return Pulled(how="copy", number=target)


def _on_demand(primary: PrimaryReplica, name: str) -> Member:
    state = state_of(primary.root)
    if state is not State.PRIMARY:
        raise WrongRoleError(f"{primary.parts.name} is a {state.value} here", hint="ask the primary")
    member = find_member(primary.root, name)
    if member is None:
        raise NotFoundError(f"{primary.parts.name} has no secondary {name!r}")
    if not member.on_demand or member.state == "paused":
        raise WrongRoleError(
            f"secondary {name} {'is paused' if member.on_demand else 'follows by itself'}: it is not updated on demand",
            hint="resume it" if member.on_demand else "add it with: replkit replica add --on-demand",
        )
    return member


def _snapshot_at(primary: PrimaryReplica, number: int) -> str:
    for record in primary.snapshots():
        if record.valid and record.at_boundary and record.stamp is not None and record.stamp.number == number:
            return record.name
    if number == primary.root.last.number:
        return ""  # one is made, a little newer
    raise RefusedError(
        f"position {number} is not kept: its sets are trimmed and no snapshot is there", code="not-kept",
        hint="ask for the newest one",
    )  # fmt: skip


def _stamp(record: SnapshotRecord) -> Position:
    if record.stamp is None or not record.at_boundary or not record.valid:
        raise InvalidArgumentError(f"snapshot {record.name} is at no boundary, or invalid")
    return record.stamp
