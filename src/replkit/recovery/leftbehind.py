"""What a failover ``--now`` left behind: sets that had been received and were not played, until failback (R3).

They are in no history any more. Over the snapshot from which they lead they show the volume as it would have been.
Where they leave no room for a cut, nobody comes to a failback: then they are deleted by a command (invariant 10).
"""

from __future__ import annotations

import msgspec

from replkit.contracts.position import HistoryEntry
from replkit.errors import NotFoundError
from replkit.recovery.boundary import Boundary
from replkit.replication.branches import branch_tags, drop_branches
from replkit.replication.cells import Branch, Root
from replkit.replication.difference import MAX_BLOCKS
from replkit.replication.directory import numbers_between
from replkit.replication.primary import PrimaryReplica
from replkit.replication.set_reader import SetReader
from replkit.snapshot.records import SnapshotRecord


def open_left_behind(primary: PrimaryReplica) -> Boundary:
    """The volume with the newest sets that were left behind, read-only; ``NotFoundError`` where there are none."""
    parts, root = primary.parts, primary.root
    if not root.branches:
        raise NotFoundError(
            f"{parts.name} left no set behind", hint="only a failover --now does, and only until failback"
        )
    branch = root.branches[-1]
    whole = _with_branch(root, branch)
    reader = SetReader(parts.save, lambda: whole, MAX_BLOCKS)
    numbers = numbers_between(whole, branch.first, branch.last.number)
    base = _base(root, branch, reader.header(numbers[0]).base_identity)
    return Boundary(branch.last, primary.open_snapshot(base.name), reader, numbers, parts.runtime)


def delete_left_behind(primary: PrimaryReplica) -> int:
    """Give up all sets that were left behind, for good; how many. Their room is free with the trimmer's next steps."""
    parts, count = primary.parts, 0

    def change(root: Root) -> Root:
        nonlocal count
        count = sum(len(branch_tags(branch)) for branch in root.branches)
        return drop_branches(root) if count else root

    parts.root.mutate(change)
    if not count:
        raise NotFoundError(f"{parts.name} left no set behind", hint="there is nothing to delete")
    return count


def _with_branch(root: Root, branch: Branch) -> Root:
    """The root as it would be if the branch were the history."""
    history = tuple(entry for entry in root.history if entry.first_number < branch.first)
    if not history or history[-1].epoch != branch.last.epoch:
        history = (*history, HistoryEntry(branch.last.epoch, branch.first))
    return msgspec.structs.replace(
        root, last=branch.last, history=history, writers=branch.writers, spans=branch.spans, first_kept=branch.first,
        first_listed=branch.first,
    )  # fmt: skip


def _base(root: Root, branch: Branch, identity: str) -> SnapshotRecord:
    for record in root.snapshots:
        if record.valid and record.at_boundary and record.stamp is not None and record.stamp.identity == identity:
            return record
    raise NotFoundError(
        f"the snapshot before set {branch.first} is gone: what was left behind cannot be read",
        hint="it was the restart point of the failover",
    )
