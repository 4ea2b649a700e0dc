"""Plans of changes of role, and the salvages that they leave: what both kinds of worker answer about them (inv. 10)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from replkit.errors import InvalidArgumentError, NotFoundError, PeerError, ReplkitError, WrongRoleError
from replkit.recovery.facts import AnyReplica, snapped_of
from replkit.recovery.leftbehind import delete_left_behind
from replkit.recovery.peer import PeerInfo
from replkit.recovery.plan import Plan, check, plan_failover, plan_return, plan_switchover
from replkit.recovery.salvage import delete_salvage, list_salvages, salvage_blocks
from replkit.replication.cells import MemberProgress, sent_cell
from replkit.replication.primary import PrimaryReplica
from replkit.replication.promotion import Mode
from replkit.replication.root import load_struct
from replkit.replication.secondary import SecondaryReplica
from replkit.site.calls import PeerLinks
from replkit.site.control import Arguments
from replkit.site.returning import Returning, position_fields
from replkit.site.statuses import snapshot_fields

REMEMBERED = 64
MAX_RUNS = 1000
"""How many runs of blocks a salvage shows."""
LEFT_BEHIND = "left-behind"
"""What ``salvage-delete`` takes in place of an id: the sets that a failover --now received and did not play."""
LEFT_BEHIND_EXPORT = "restart.left-behind"
"""Name of their export; no snapshot of a user begins so."""
SALVAGE_COMMANDS = ("salvage-delete", "salvage-list", "salvage-show")
ASSUMED_BYTES_PER_S = 50e6
"""What a link is taken to carry where nothing was measured."""
STEP_S = 1.0
"""What any change of role takes: a snapshot, a swap of the root, a process that opens the volume."""
KINDS = ("failover", "switchover", "failback", "reverse", "resync", "rewind")


class Plans:
    """Makes plans for the volumes of one worker, and remembers the last ones, so that a command can name one."""

    def __init__(self, links: PeerLinks, returning: Returning) -> None:
        self._links, self._returning = links, returning
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Plan] = OrderedDict()

    def plan(self, replica: AnyReplica, name: str, arguments: Arguments, source_site: str = "") -> dict[str, Any]:
        """Make a plan of the kind that is asked for, and remember it."""
        plan = self._make(replica, name, arguments, source_site)
        with self._lock:
            self._known[plan.id] = plan
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return plan_fields(plan, str(arguments.get("kind", "")), replica)

    def check(self, replica: AnyReplica, name: str, arguments: Arguments, source_site: str = "") -> None:
        """Before a command is carried out: ``PlanStaleError`` where the plan that it names does not hold any more."""
        id_ = arguments.get("plan")
        if not id_:
            return
        with self._lock:
            plan = self._known.get(str(id_))
        if plan is None:
            raise NotFoundError(f"plan {id_} is not known here", hint="it was made before a restart: make a new one")
        check(plan, self._make(replica, name, {**arguments, "kind": plan.kind}, source_site))

    def _make(self, replica: AnyReplica, name: str, arguments: Arguments, source_site: str) -> Plan:
        kind = str(arguments.get("kind", ""))
        if kind not in KINDS:
            raise InvalidArgumentError(f"there is no plan of a {kind!r}", hint=f"kinds: {', '.join(KINDS)}")
        if kind == "failover":
            if not isinstance(replica, SecondaryReplica):
                raise WrongRoleError(f"{name} is a primary here", hint="plan the failover at a secondary")
            mode: Mode = "now" if arguments.get("now") else "received"
            return plan_failover(replica, mode, self._primary_info(name, arguments, source_site))
        if kind in {"switchover", "failback", "reverse"}:
            if not isinstance(replica, PrimaryReplica):
                raise WrongRoleError(f"{name} is a secondary here", hint=f"plan the {kind} at its primary")
            members = [member.name for member in replica.root.members]
            return plan_switchover(replica, str(arguments.get("member") or (members[0] if len(members) == 1 else "")))
        volume = str(arguments.get("source_volume") or name)
        peer = self._returning.reached(name, self._returning.primary_of(arguments.get("source"), volume), volume)
        return plan_return(replica, peer, rewind=kind == "rewind")

    def _primary_info(self, name: str, arguments: Arguments, source_site: str) -> PeerInfo | None:
        """What the primary says, where it can be reached: it may be lost."""
        try:
            url = self._returning.url_of(arguments.get("source") or source_site)
            return self._links.peer(url, str(arguments.get("source_volume") or name)).info()
        except (PeerError, ReplkitError):
            return None


def plan_fields(plan: Plan, kind: str, replica: AnyReplica) -> dict[str, Any]:
    """A plan for people and programs; ``None`` is what cannot be known."""
    warnings = []
    rate = measured_rate(replica, plan.detail)
    estimated_s = None if plan.send_bytes is None else STEP_S + plan.send_bytes / (rate or ASSUMED_BYTES_PER_S)
    if plan.send_bytes and not rate:
        warnings.append(f"nothing was measured on this way: seconds are at {ASSUMED_BYTES_PER_S / 1e6:g} MB/s")
    if plan.lost_sets is None:
        warnings.append("the primary cannot be reached: how much it wrote that is not here is not known")
    if plan.way == "comparison":
        warnings.append("a list of changed blocks is gone: hashes of both sides are compared, which reads all in use")
    if plan.undone_blocks:
        warnings.append(
            f"blocks that changed here since the fork, are undone and kept as a salvage: {plan.undone_blocks}"
        )
    return {
        "id": plan.id,
        "kind": kind or plan.kind,
        "volume": plan.volume,
        "state": plan.state,
        "position": position_fields(plan.position),
        "fork": None if plan.fork is None else position_fields(plan.fork),
        "way": plan.way,
        "play_sets": plan.play_sets,
        "undo_blocks": plan.undone_blocks,
        "undo_sets": plan.undone_sets,
        "undone_from_s": plan.undone_from_s,
        "send_blocks": plan.send_blocks,
        "send_bytes": plan.send_bytes,
        "estimated_s": estimated_s,
        "newest_kept_s": plan.kept_to_s,
        "lost_sets": plan.lost_sets,
        "lost_s": plan.lost_s,
        "held": list(plan.held),
        "mode": plan.detail if plan.kind == "failover" else None,
        "member": plan.detail if plan.kind == "switchover" else None,
        "warnings": warnings,
    }


def measured_rate(replica: AnyReplica, member: str) -> float:
    """What was measured on the way to a member, bytes a second; 0 where nothing was."""
    progress, _version = load_struct(replica.parts.save, sent_cell(member or "-"), MemberProgress)
    return 0.0 if progress is None else progress.rate_bytes_per_s


def salvage_command(
    replica: AnyReplica, name: str, command: str, arguments: Arguments, is_served: Callable[[str], bool]
) -> dict[str, Any]:
    """``salvage-list``, ``salvage-show`` and ``salvage-delete``; a salvage is exported as the snapshot that it is."""
    parts, snapped = replica.parts, snapped_of(replica)
    found = {
        salvage.id: {"id": salvage.id, "snapshot": salvage.record.name, "blocks": salvage.blocks,
                     **{key: value for key, value in snapshot_fields(salvage.record).items() if key != "name"}}
        for salvage in list_salvages(parts, snapped)
    }  # fmt: skip
    if command == "salvage-list":
        return {"volume": name, "salvages": list(found.values())}
    id_ = str(arguments.get("id", "")).removeprefix("salvage.")
    if id_ == LEFT_BEHIND and command == "salvage-delete":
        return {"volume": name, "id": id_, "sets": _delete_left_behind(replica, name, is_served)}
    if id_ not in found:
        raise NotFoundError(f"{name} has no salvage {id_!r}", hint=f"it has: {', '.join(found) or 'none'}")
    if command == "salvage-delete":
        if is_served(f"{name}.salvage.{id_}"):
            hint = f"stop that first: replkit salvage export {name} {id_} --stop"
            raise WrongRoleError(f"salvage {id_} of {name} is served", hint=hint)
        delete_salvage(parts, snapped, id_)
        return {"volume": name, "id": id_}
    runs = list(salvage_blocks(parts, snapped, id_).runs())
    return {"volume": name, **found[id_], "run_count": len(runs), "runs": [list(run) for run in runs[:MAX_RUNS]]}


def _delete_left_behind(replica: AnyReplica, name: str, is_served: Callable[[str], bool]) -> int:
    """How many sets; a reader of them would find some gone in the middle of its reads, so there must be none."""
    if not isinstance(replica, PrimaryReplica):
        raise WrongRoleError(
            f"{name} is a secondary here: it left no set behind", hint="give the command at the primary"
        )
    if is_served(f"{name}.{LEFT_BEHIND_EXPORT}"):
        hint = f"stop that first: replkit export {name} --left-behind --stop"
        raise WrongRoleError(f"what {name} left behind is served", hint=hint)
    return delete_left_behind(replica)
