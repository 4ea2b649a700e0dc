"""A primary replica put together: the volume stack, the cutter, the trimmer and the members (FIG. 1, 4, 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import msgspec

from replkit.contracts.position import Epoch, Position
from replkit.contracts.runtime import Runtime
from replkit.contracts.savevolume import Partition, SaveVolume
from replkit.contracts.volume import BlockVolume
from replkit.deltaset.header import Mark
from replkit.errors import FencedError, WrongRoleError
from replkit.replication.branches import history_after, identity_of
from replkit.replication.cells import Member, MemberProgress, Root, sent_cell
from replkit.replication.congestion import Congestion
from replkit.replication.cutter import Cutter
from replkit.replication.logged import LoggedVolume
from replkit.replication.members import MemberKeeper
from replkit.replication.policy import Policy, change_policy, load_policy
from replkit.replication.promotion import already_done, next_epoch
from replkit.replication.replica import Replica
from replkit.replication.root import RootCell, RootSnapshotTable, load_struct
from replkit.replication.snapshot_names import refuse_reserved
from replkit.replication.trimmer import Trimmer, members_floor, played_number, sweep
from replkit.snapshot.records import SnapshotRecord

Service = tuple[str, Callable[[], float]]
"""Name and step of a service; the step says in how many seconds it wants to be called again."""
MAINTENANCE_PAUSE_S = 5.0


class PrimaryReplica:
    """The volume that users write, with the services that make delta sets of it.

    ``volume`` is what is exported; ``services`` are what a driver calls in turn or on threads of their own. Whatever
    is asked for by the methods is durable on return. A step that raises ``FencedError`` must end the service: another
    owner has taken the save volume.
    """

    def __init__(self, replica: Replica, volume: LoggedVolume) -> None:
        self._replica = replica
        self.volume = volume
        self.cutter = Cutter(replica, volume, Congestion(replica, volume))
        self.congestion = self.cutter.congestion
        self.trimmer = Trimmer(replica, lambda: members_floor(replica.save, replica.root.get()))
        self.members = MemberKeeper(replica, volume, self.cutter)

    @classmethod
    def open(
        cls,
        volume: BlockVolume,
        save: SaveVolume,
        runtime: Runtime,
        hooks: Any,
        name: str,
        *,
        policy: Policy | None = None,
    ) -> Self:
        """Take the save volume (opened as producer), recover what a crash left, and open the volume stack.

        The first opening begins a lineage with the volume as it is; ``policy`` seeds the policy then, and is not
        looked at later (it is changed by ``set_policy``).
        """
        root = RootCell.claim(save, runtime, "primary")
        if root.get().role != "primary":
            raise WrongRoleError(f"{name} is a {root.get().role} here", hint="promote it to write it")
        if policy is not None and not save.load("policy").version:
            change_policy(save, **msgspec.structs.asdict(policy))
        logged = LoggedVolume.open(volume, save, RootSnapshotTable(root), runtime)
        fenced = root.get().fenced
        if fenced is not None:
            logged.refuse_writes(fenced_error(name, root.get(), fenced))
        replica = Replica(name=name, volume=logged, save=save, root=root, runtime=runtime, hooks=hooks)
        sweep(replica)
        return cls(replica, logged)

    @property
    def root(self) -> Root:
        """What this replica has published."""
        return self._replica.root.get()

    @property
    def parts(self) -> Replica:
        """What its services share: its stores, its root and the outside world, for changes of role."""
        return self._replica

    def services(self) -> list[Service]:
        """The services to drive, each on a thread or by turns; all may run at the same time."""
        return [
            ("cutter", self.cutter.step),
            ("trimmer", self.trimmer.step),
            ("members", self.members.step),
            ("maintenance", self._maintain),
        ]

    def cut(self, snapshot: str | None = None, marks: tuple[Mark, ...] = ()) -> Position:
        """Cut a delta set now and return its position once it is durable; with a name, a snapshot at just there.

        With nothing changed the newest position is returned. ``CutAbandonedError`` when the set could not be stored.
        """
        return self.cutter.cut(snapshot, marks)

    def resize(self, size_bytes: int) -> Position:
        """Change the size of the volume, and return the position of the set that tells members to follow (X5)."""
        return self.cutter.resize(size_bytes)

    def add_member(
        self, name: str, url: str, destination_volume: str | None = None, *, shared: bool = False,
        on_demand: bool = False,
    ) -> None:  # fmt: skip
        """Replicate to one more member, beginning with a new copy that replaces what its volume holds.

        ``shared`` is for a member whose ``SharedReplica`` reads this save volume itself (S2); one ``on_demand`` stays
        at a boundary until it asks for a newer one (C5).
        """
        volume = destination_volume or self._replica.name
        self.members.add(name, url, volume, shared=shared, on_demand=on_demand)

    def remove_member(self, name: str) -> None:
        """Stop replicating to a member, and keep nothing for it any more."""
        self.members.remove(name)

    def copy_again(self, name: str) -> None:
        """Make a new copy at a member that is stale; said before by the caller, as it takes long."""
        self.members.copy_again(name)

    def pause(self, member: str | None = None) -> None:
        """Stop sending, to one member or to all; sets go on being cut and kept (C4)."""
        self._set_paused(member, True)

    def resume(self, member: str | None = None) -> None:
        """Go on sending."""
        self._set_paused(member, False)

    def fence(self, epoch: Epoch) -> bool:
        """A higher epoch was met, or another promotion of the same count: take no more writes (R9, invariant 8).

        The writes end first, then the root says so durably, for this opening and every one after it. False when the
        epoch is no reason: it is this volume's own, or one that is over.
        """
        root = self.root
        if epoch == root.epoch or epoch.count < root.epoch.count:
            return False
        self._fence(epoch)
        return True

    def fence_copy(self, ahead: Position) -> bool:
        """Another copy of this volume went on in this very epoch, to ``ahead``: take no more writes.

        So does a clone of the site, and a member that got more than this save volume, rolled back, still has.
        """
        if ahead.epoch != self.root.epoch or self.identity_of(ahead.number) == ahead.identity:
            return False
        self._fence(ahead.epoch)
        return True

    def identity_of(self, number: int) -> str:
        """The identity of a position of this volume's history; empty where it is not listed (trimmed, or never cut)."""
        return identity_of(self._replica.save, self.root, number, self.volume.block_count)

    def _fence(self, epoch: Epoch) -> None:
        root = self.root
        error = fenced_error(self._replica.name, root, epoch)
        if self.volume.refusal is None:
            self.volume.refuse_writes(error)
        if root.fenced is not None and root.fenced.count >= epoch.count:
            return
        self._replica.root.mutate(lambda now: msgspec.structs.replace(now, fenced=epoch))
        self._replica.hooks.replkit_error(volume=self._replica.name, message=str(error), error=error)

    def begin_epoch(self, request_id: str = "") -> Position:
        """Stay a primary though another one was met: a new epoch above all that were seen (R9).

        The decision of a command when two primaries have diverged: the other one is fenced by this epoch, and resyncs.
        """
        replica = self._replica
        done = already_done(replica.root.get(), None, request_id)
        if done is not None and self.volume.refusal is None:
            return done
        if replica.root.get().given_up is not None:
            self.cutter.cut()  # a set that spans what was given up belongs to the epoch in which that was cut
        with self.cutter.at_rest():

            def change(root: Root) -> Root:
                new = next_epoch(replica, root)
                history = history_after(root.history, root.last.number, new)
                return msgspec.structs.replace(
                    root, epoch=new, history=history, fenced=None, handover=None, request=request_id, restart=root.last
                )

            root = replica.root.mutate(change)
            self.volume.refuse_writes(None)
        replica.hooks.replkit_role_changed(volume=replica.name, role="primary", epoch=root.epoch)
        return root.last

    def create_snapshot(self, name: str) -> Position:
        """A held snapshot exactly at a new boundary, which is returned."""
        refuse_reserved(name)
        position = self.cut(name)
        self.volume.snapped.hold_snapshot(name, held=True)
        return position

    def delete_snapshot(self, name: str) -> None:
        """Delete a snapshot, whichever in the queue it is."""
        self.volume.snapped.delete_snapshot(name)

    def snapshots(self) -> tuple[SnapshotRecord, ...]:
        """All snapshots, oldest first."""
        return self.volume.snapped.snapshots()

    def open_snapshot(self, name: str) -> BlockVolume:
        """A snapshot as a read-only volume."""
        return self.volume.snapped.open_snapshot(name)

    def policy(self) -> Policy:
        """The policy in force."""
        return load_policy(self._replica.save)

    def set_policy(self, **changes: object) -> Policy:
        """Change fields of the policy; the services take it up at their next step (D2)."""
        return change_policy(self._replica.save, **changes)

    def status(self) -> dict[str, object]:
        """What is durable here, what members have, what waits (R8, invariant 13)."""
        root, save = self._replica.root.get(), self._replica.save
        kept = max(0, root.last.number - root.first_kept + 1)
        return {
            "volume": self._replica.name,
            "role": root.role,
            "lineage": root.lineage,
            "epoch": root.epoch.count,
            "position": str(root.last),
            "number": root.last.number,
            "identity": root.last.identity,
            "paused": root.paused,
            "kept_sets": {"first": root.first_kept, "count": kept, "bytes": save.used_bytes(Partition.SETS)},
            "members": [self._member_status(root, member) for member in root.members],
            "cutter": self.cutter.status(),
            "congestion": self.congestion.status(),
            "volume_stack": self.volume.stats(),
            "snapshots": [msgspec.to_builtins(record) for record in root.snapshots],
            "policy": msgspec.structs.asdict(self.policy()),
        }

    def progress(self) -> dict[str, tuple[int, int] | None]:
        """Newest numbers that each member has received and played; ``None`` before its new copy is complete."""
        root = self._replica.root.get()
        return {
            member.name: None if member.state == "copying" else self._acknowledged(root, member)[:2]
            for member in root.members
        }

    def close(self, *, clean: bool = True) -> None:
        """Close the volume; ``clean`` makes all maps durable, so that the next opening need not recover."""
        if self.congestion.is_blocking:
            self.volume.resume_writes()
        if clean:
            self.cutter.keep_history()
            self.volume.close_clean()
        else:
            self.volume.close()

    def _member_status(self, root: Root, member: Member) -> dict[str, object]:
        received, played, progress = self._acknowledged(root, member)
        return {
            "name": member.name,
            "url": member.url,
            "state": member.state,
            "sender_state": progress.state,
            "received": received,
            "played": played,
            "outstanding_sets": max(0, root.last.number - received),
            "lag_s": self.cutter.age_s(received),
            "rate_bytes_per_s": progress.rate_bytes_per_s,
            "sent_bytes": progress.sent_bytes,
            "copy_next_block": progress.copied_blocks(member),
            "last_error": progress.last_error,
            "updated_s": progress.updated_s,
        }

    def _acknowledged(self, root: Root, member: Member) -> tuple[int, int, MemberProgress]:
        progress, _version = load_struct(self._replica.save, sent_cell(member.name), MemberProgress)
        progress = progress or MemberProgress()
        received, played = progress.received_by(member, root), played_number(self._replica.save, root, member)
        return max(received.number if received is not None else 0, played), played, progress

    def _set_paused(self, member: str | None, paused: bool) -> None:
        if member is not None:
            self.members.set_paused(member, paused)
        else:
            self._replica.root.mutate(lambda root: msgspec.structs.replace(root, paused=paused))

    def _maintain(self) -> float:
        """Clear intents of regions that are quiet, so that a crash leaves little in doubt (invariant 3)."""
        self.volume.clear_idle_intents()
        return MAINTENANCE_PAUSE_S


def fenced_error(name: str, root: Root, epoch: Epoch) -> FencedError:
    """Why a primary takes no more writes, and what ends that."""
    hint = "resync it with the other site, which keeps its own changes as salvage; or decide that this one goes on"
    mine = root.epoch
    if epoch.count > mine.count:
        return FencedError(
            f"{name}: epoch {mine.count} is over here: epoch {epoch.count} has begun elsewhere", hint=hint
        )
    if epoch != mine:
        return FencedError(
            f"{name}: diverged: two sites were promoted to epoch {mine.count}",
            hint="give failover at the one that goes on, which begins a new epoch; then resync the other with it",
        )
    return FencedError(
        f"{name}: diverged: another copy of this volume goes on in epoch {mine.count}: this site was cloned, or its "
        f"save volume rolled back to an older copy",
        hint=hint,
    )
