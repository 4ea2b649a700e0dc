"""The status of a volume, as ``replkit status --json`` shows it: the same names on both sides (R8).

Positions are objects of epoch and number; what is not durable is not claimed (invariant 13).
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from replkit.contracts.savevolume import SaveVolume
from replkit.replication.cells import DIFFERENCE, DifferenceProgress, Root
from replkit.replication.directory import epoch_at
from replkit.replication.primary import PrimaryReplica
from replkit.replication.promotion import RESTART
from replkit.replication.root import load_struct, read_root
from replkit.replication.secondary import SecondaryReplica
from replkit.replication.shared import SharedReplica
from replkit.site.bucketstate import bucket_fields
from replkit.site.remembering import spent_of
from replkit.snapshot.records import SnapshotRecord

Fields = dict[str, Any]


def primary_status(replica: PrimaryReplica, save: SaveVolume, spec: Fields) -> Fields:
    """A primary: what was cut, what is not yet, what each member has."""
    found: Fields = replica.status()
    root = read_root(save)
    cutter, stack, congestion = found["cutter"], found["volume_stack"], found["congestion"]
    table = {member.name: member for member in root.members}
    members = [
        _member(entry, table[entry["name"]].destination_volume, table[entry["name"]].copy_snapshot, root, cutter, spec)
        for entry in found["members"]
        if entry["name"] in table
    ]
    return {
        **_common(spec, root),
        "state": _primary_state(root, stack, found),
        "paused": found["paused"],
        "changed_blocks": cutter["changed_blocks"],
        "changed_bytes": cutter["changed_blocks"] * spec["block_size"],
        "cutting": cutter["cutting"],
        "cut_error": cutter["last_error"],
        "kept_sets": found["kept_sets"]["count"],
        "kept_bytes": found["kept_sets"]["bytes"],
        "writes_suspended": stack["writes_suspended"],
        "waits_for": stack["waits_for"],
        "given_up": congestion["given_up"],
        "save_free_bytes": congestion["free_bytes"],
        "was_clean": stack["was_clean"],
        "intent_regions": stack["intent_regions"],
        "members": members,
        "history": cutter["history"],
        "policy": found["policy"],
        "requests": spent_of(save),
    }


def member_progress(replica: PrimaryReplica) -> Fields:
    """What each member has acknowledged, as in the status, without the rest of it: who waits asks often."""
    root = replica.root
    found = {}
    for name, numbers in replica.progress().items():
        received, played = (None, None) if numbers is None else (_number(root, number) for number in numbers)
        found[name] = {"received": received, "played": played}
    return found


def secondary_status(replica: SecondaryReplica, save: SaveVolume, spec: Fields) -> Fields:
    """A secondary: what it received, what it played, what waits."""
    found: Fields = replica.status()
    root = read_root(save)
    player = found["player"]
    return {
        **_common(spec, root),
        "state": _secondary_state(root, found["state"], found["receiver"] is not None, found["outstanding_sets"]),
        "resync": _resync(root, save, spec),
        "received": _number(root, root.last.number),
        "played": _number(root, found["played"]) if found["state"] == "following" else None,
        "target": player["target"],
        "outstanding_sets": found["outstanding_sets"],
        "outstanding_bytes": sum(entry["bytes"] for entry in found["outstanding"]),
        "outstanding": found["outstanding"],
        "waiting_blocks": player["waiting_blocks"],
        "waits_for": player["waits_for"],
        "newest_set_age_s": found["newest_set_age_s"],
        "kept_sets": found["outstanding_sets"],
        "save_bytes": found["save_bytes"],
        "save_capacity_bytes": found["save_capacity_bytes"],
        "receiver": found["receiver"],
        "history": found["history"],
        "passes": player["history"],
        "members": [],
        "requests": spent_of(save),
    }


def shared_status(replica: SharedReplica, save: SaveVolume, spec: Fields) -> Fields:
    """A secondary that reads its primary's save volume: what is cut there is received here (S2)."""
    found: Fields = replica.status()
    root = read_root(save)
    player = found["player"]
    played: int | None = player["number"] if found["state"] == "following" else None
    follows = played is not None
    return {
        **_common(spec, root),
        "role": "secondary",
        "shared_with": spec["shared_with"],
        "state": _following_state(found["state"], True, 0 if played is None else root.last.number - played),
        "received": _number(root, root.last.number) if follows else None,
        "played": None if played is None else _number(root, played),
        "target": player["target"],
        "outstanding_sets": None if played is None else root.last.number - played,
        "waiting_blocks": player["waiting_blocks"],
        "waits_for": player["waits_for"],
        "copied_bytes": None if follows else found["copy_next_block"] * spec["block_size"],
        "passes": player["history"],
        "snapshots": [],
        "members": [],
    }


def snapshot_fields(record: SnapshotRecord) -> Fields:
    """A snapshot for people and programs."""
    stamp = record.stamp
    return {
        "name": record.name,
        "stamp": None if stamp is None else {"epoch": stamp.epoch.count, "number": stamp.number},
        "at_boundary": record.at_boundary,
        "created_s": record.created_s,
        "size_bytes": record.size_bytes,
        "held": record.held,
        "valid": record.valid,
    }


def _common(spec: Fields, root: Root) -> Fields:
    return {
        "name": spec["name"],
        "role": root.role,
        "url": spec["url"],
        "nbd": spec["nbd"],
        "size_bytes": spec["size_bytes"],
        "block_size": spec["block_size"],
        "bucket": bucket_fields(spec),
        "lineage": root.lineage,
        "position": {**_number(root, root.last.number), "identity": root.last.identity},
        "epoch": {"count": root.epoch.count, "promotion": root.epoch.promotion},
        "epochs": [
            {
                "count": entry.epoch.count,
                "promotion": entry.epoch.promotion,
                "first_number": entry.first_number,
                "fork_number": entry.first_number - 1,
            }
            for entry in root.history
        ],
        "promoted": None
        if root.restart is None
        else {
            "position": {**_number(root, root.restart.number), "identity": root.restart.identity},
            "snapshot": f"{RESTART}{root.epoch.count}",
            "request": root.request,
        },
        "left_behind": [
            {"first": branch.first, "last": {"epoch": branch.last.epoch.count, "number": branch.last.number}}
            for branch in root.branches
        ],
        "fenced_by": None if root.fenced is None else {"count": root.fenced.count, "promotion": root.fenced.promotion},
        "resync": None if root.resync is None else msgspec.to_builtins(root.resync),
        "handover": None if root.handover is None else msgspec.to_builtins(root.handover),
        "snapshots": [snapshot_fields(record) for record in root.snapshots],
    }


def _secondary_state(root: Root, state: str, is_connected: bool, outstanding_sets: int) -> str:
    """One word for people; up to date is who has played all that it received and would receive more at once."""
    if root.role != "secondary":
        return "becoming primary"
    if root.inconsistent is not None or (root.resync is not None and root.resync.in_place):
        return "inconsistent"
    if state == "following" and root.handover is not None:
        return "handing over"
    return _following_state(state, is_connected, outstanding_sets)


def _following_state(state: str, is_connected: bool, outstanding_sets: int) -> str:
    if state != "following":
        return state if state in {"resyncing", "empty"} else "inconsistent"
    return "up-to-date" if is_connected and not outstanding_sets else "outdated"


def _resync(root: Root, save: SaveVolume, spec: Fields) -> Fields | None:
    """What a resync asked for, and how far it is (R4, R8)."""
    if root.resync is None:
        return None
    progress, _version = load_struct(save, DIFFERENCE, DifferenceProgress)
    done = progress.next_block if progress is not None else 0
    total = -(-spec["size_bytes"] // spec["block_size"])
    fork = _number(root, root.resync.fork.number)
    return {
        **msgspec.to_builtins(root.resync),
        "fork_at": fork,
        "next_block": done,
        "done": min(1.0, done / max(1, total)),
    }


def _primary_state(root: Root, stack: Fields, found: Fields) -> str:
    """One word for people; the first that is true."""
    if root.role != "primary":
        return "becoming secondary"
    if root.fenced is not None:
        return "diverged" if root.fenced.count == root.epoch.count else "fenced"
    if root.handover is not None:
        return "handing over"
    return "suspended" if stack["writes_suspended"] else "paused" if found["paused"] else "serving"


def _number(root: Root, number: int) -> Fields:
    return {"epoch": epoch_at(root, number).count, "number": number}


def _member(  # noqa: PLR0917 - the parts of which a line of the table is made
    entry: Fields, volume: str, copy_snapshot: str | None, root: Root, cutter: Fields, spec: Fields
) -> Fields:
    """One member. Before its copy is complete it has nothing that could be relied on."""
    has_base = entry["state"] != "copying"
    received = entry["received"]
    return {
        "name": entry["name"],
        "url": entry["url"],
        "destination_volume": volume,
        "state": entry["state"],
        "sender_state": entry["sender_state"],
        "received": _number(root, received) if has_base else None,
        "played": _number(root, entry["played"]) if has_base else None,
        "outstanding_sets": entry["outstanding_sets"],
        "outstanding_bytes": sum(one["stored_bytes"] for one in cutter["history"] if one["number"] > received),
        "differing_blocks": _differing(cutter, received) if has_base else None,
        "lag_s": entry["lag_s"] if has_base else None,
        "rpo_s": _rpo_s(cutter, entry) if has_base else None,
        "rate_bytes_per_s": entry["rate_bytes_per_s"],
        "average_bytes_per_s": None,
        "sent_bytes": entry["sent_bytes"],
        "copied_bytes": None if has_base else entry["copy_next_block"] * spec["block_size"],
        "copy_total_bytes": None if has_base else spec["size_bytes"],
        "copy_snapshot": copy_snapshot,
        "last_error": entry["last_error"],
        "updated_s": entry["updated_s"],
    }


def _differing(cutter: Fields, received: int) -> int:
    """At most so many blocks are another content there: those of sets that it lacks, and of the one not cut yet."""
    lacking = [int(one["blocks"]) for one in cutter["history"] if one["number"] > received]
    return int(cutter["changed_blocks"]) + sum(lacking)


def _rpo_s(cutter: Fields, entry: Fields) -> float | None:
    """How many seconds of writes would be lost if the primary were lost now."""
    if entry["outstanding_sets"]:
        lag_s: float | None = entry["lag_s"]
        return lag_s
    if not cutter["changed_blocks"]:
        return 0.0
    return max(0.0, time.time() - cutter["history"][-1]["created_s"]) if cutter["history"] else None


def add_figures(status: Fields, figures: Fields) -> None:
    """Put newer figures of the sender's process into a primary's status."""
    for member in status.get("members", []):
        newer = figures.get(member["name"])
        if newer is None:
            continue
        for name in ("sent_bytes", "rate_bytes_per_s", "average_bytes_per_s", "last_error"):
            member[name] = newer.get(name, member[name])
        member["sender_state"] = newer.get("state", member["sender_state"])
        if member["copied_bytes"] is not None:
            member["copied_bytes"] = newer["copy_next_block"] * status["block_size"]
