"""A secondary becomes a primary (FIG. 23, 31-33; R1, R2, R3, R9).

Order: everything received is played (``now``: the pass under way is finished), the restart point is made, intents of
what was played are cleared, and one swap of the root makes the role, the epoch and the history. A crash before the swap
leaves a secondary with a snapshot too many, which the next try takes or replaces; after it the volume is a primary's.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from replkit.contracts.position import Epoch, Position
from replkit.errors import FencedError, InconsistentError, SaveVolumeFullError, WrongRoleError
from replkit.replication.admission import highest_epoch
from replkit.replication.branches import history_after, leave_branch
from replkit.replication.cells import Root
from replkit.replication.changelog import forget_changes
from replkit.replication.player import Player
from replkit.replication.replica import Replica
from replkit.snapshot.snapped import SnappedVolume

Mode = Literal["received", "now"]
RESTART = "restart."
"""Names of restart points begin so; the count of the epoch that begins there follows."""
LONGEST_WAIT_S = 60.0
"""How long a promotion waits in all for what holds playback up (reads at older boundaries)."""


class Promotion:
    """One promotion, of a replica whose receiver has ended."""

    def __init__(self, replica: Replica, volume: SnappedVolume, player: Player) -> None:
        self._replica, self._volume, self._player = replica, volume, player

    def run(self, mode: Mode, epoch: Epoch | None, request_id: str, *, force: bool = False) -> Position:
        """Promote, durably; the position at which the new epoch begins. A repeat finds it done.

        Errors: ``InconsistentError`` in the middle of a copy or resync (invariant 6) or when what was received cannot
        be played; ``FencedError`` when ``epoch`` is over already. All leave a secondary.
        """
        root = self._replica.root.get()
        done = already_done(root, epoch, request_id)
        if done is not None:
            return done
        self._check(root, epoch)
        if epoch is None and not force:
            self._check_grant(root)
        self._play(mode)
        if mode == "received":
            self._check_all_played()
        new = epoch or next_epoch(self._replica, root)
        position = self._make_restart_point(new)
        while self._volume.clear_intents():  # else the first cut would carry every region that was played
            pass
        forget_changes(self._replica.save, self._volume.block_count)

        def change(now: Root) -> Root:
            now = leave_branch(now, position)
            return msgspec.structs.replace(
                now,
                role="primary",
                epoch=new,
                history=history_after(now.history, position.number, new),
                last=position,
                request=request_id,
                restart=position,
                members=(),
                fenced=None,
                handover=None,
            )

        self._replica.root.mutate(change)
        self._replica.hooks.replkit_role_changed(volume=self._replica.name, role="primary", epoch=new)
        return position

    def _check(self, root: Root, epoch: Epoch | None) -> None:
        name = self._replica.name
        if root.role != "secondary":
            raise WrongRoleError(f"{name} is a {root.role} here, in epoch {root.epoch.count}", hint="it can be written")
        if not root.is_at_boundary:
            what = "a resync" if root.resync else "a new copy" if root.inconsistent else "its first new copy"
            raise InconsistentError(
                f"{name} stands at no boundary: {what} is not finished", hint="wait for it, or promote another member"
            )
        seen = highest_epoch(root).count
        if epoch is not None and epoch.count <= seen:
            raise FencedError(
                f"{name} has seen epoch {seen}; it cannot begin epoch {epoch.count}",
                hint="another site was promoted meanwhile",
            )

    def _check_grant(self, root: Root) -> None:
        """The role was given away, and no set of the new primary came back: it may be one by now (R2, R9)."""
        handover = root.handover
        if handover is not None and handover.phase == "granted" and root.last.epoch != handover.epoch:
            raise WrongRoleError(
                f"{self._replica.name} granted its role to {handover.member}, which may be the primary by now",
                hint=f"promote {handover.member}, or wait until it is reached; only if it is lost for good, force this "
                "promotion",
            )

    def _play(self, mode: Mode) -> None:
        """Finish the pass under way; with ``received`` every other one too."""
        player, pause = self._player, self._replica.runtime.event()
        waited_s = 0.0
        player.stop_after_pass(stopping=mode == "now")
        while not player.is_at_rest or (mode == "received" and player.position != self._replica.root.get().last):
            player.play_now()
            wait_s = player.step()
            if wait_s > 0:
                waited_s += wait_s
                if waited_s > LONGEST_WAIT_S:
                    return
                pause.wait(wait_s)
        player.stop_after_pass(stopping=True)

    def _check_all_played(self) -> None:
        player, last = self._player, self._replica.root.get().last
        if player.position != last:
            raise InconsistentError(
                f"{self._replica.name}: stands at {player.position}; sets up to {last} were received and cannot be "
                f"played: {player.waits_for or 'they do not continue it'}",
                hint="promote it with --now to give them up, or promote another member",
            )

    def _make_restart_point(self, epoch: Epoch) -> Position:
        """The held snapshot of the boundary at which the new epoch begins; older restart points have had their time."""
        name, here = f"{RESTART}{epoch.count}", self._player.position
        for record in self._volume.snapshots():
            if record.name.startswith(RESTART):
                if record.name == name and record.valid and record.at_boundary and record.stamp == here:
                    return here
                self._volume.delete_snapshot(record.name)
        if not self._player.is_at_rest:
            raise InconsistentError(
                f"{self._replica.name}: a playback pass at {here} could not be finished: {self._player.waits_for}",
                hint="close what reads older boundaries, then try again",
            )
        try:
            self._volume.create_snapshot(name, here, held=True)  # nothing plays: no further pass begins
        except SaveVolumeFullError as error:
            raise InconsistentError(
                f"{self._replica.name}: no room for the restart point at {here}: {error}", hint="delete a snapshot"
            ) from error
        return here


def already_done(root: Root, epoch: Epoch | None, request_id: str) -> Position | None:
    """Where the epoch that this request asked for began, if a promotion began it already."""
    if root.role != "primary" or not root.history:
        return None
    if (request_id and root.request == request_id) or (epoch is not None and epoch == root.epoch):
        return root.restart
    return None


def next_epoch(replica: Replica, root: Root) -> Epoch:
    """An epoch higher than all that this replica has seen."""
    return Epoch(highest_epoch(root).count + 1, replica.runtime.random_bytes(8).hex())
