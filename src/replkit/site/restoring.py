"""Restoring a snapshot of a primary in place: its users are away until it is done, members get one ordinary set (P6).

The cell ``restoring`` is there before anything changes, so a crash anywhere is followed by the same restore, from where
it was durable, before the volume is served again. No set is cut meanwhile: no member sees a volume half restored.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from replkit.blocks.extent import total
from replkit.contracts.position import Epoch
from replkit.contracts.savevolume import SaveVolume
from replkit.errors import NotFoundError, ReplkitError, WrongRoleError
from replkit.replication.primary import PrimaryReplica
from replkit.replication.root import StructCell
from replkit.snapshot.differential import undo_differential
from replkit.snapshot.restore import STEP_BYTES, Restore, RestoreProgress

_log = logging.getLogger(__name__)
RESTORING = "restoring"
STOP_TIMEOUT_S = 20.0
Fields = dict[str, Any]


class Restoring(msgspec.Struct, frozen=True, kw_only=True):
    """The restore that runs, or with ``ended`` the last one; one of an epoch that is over counts for nothing.

    ``number`` is that of the set with which it ended.
    """

    progress: RestoreProgress
    epoch: Epoch
    ended: bool = False
    number: int = 0


class PrimaryRestoring:
    """Restores snapshots of one primary.

    Args:
        replica: the primary.
        save: its save volume.
        close_export: disconnects its users; ``open_export`` serves it again.
    """

    def __init__(
        self,
        replica: PrimaryReplica,
        save: SaveVolume,
        *,
        close_export: Callable[[], None],
        open_export: Callable[[], None],
        step_bytes: int = STEP_BYTES,
    ) -> None:
        self._replica, self._step_bytes = replica, step_bytes
        self._close_export, self._open_export = close_export, open_export
        self._cell = StructCell(save, RESTORING, Restoring)
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._total = self._left = 0
        self._error = ""

    @property
    def is_pending(self) -> bool:
        """Whether a restore has begun that has not ended: the volume is not to be served."""
        found = self._cell.get()
        return found is not None and not found.ended and found.epoch == self._replica.root.epoch

    @property
    def is_running(self) -> bool:
        """Whether blocks are being written back now."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def snapshot(self) -> str:
        """The snapshot that is being restored; empty when none is."""
        found = self._cell.get()
        return found.progress.snapshot if found is not None and self.is_pending else ""

    def resume(self) -> bool:
        """Go on with what a crash cut short; whether there is such a restore. Before any service may cut."""
        if not self.is_pending:
            return False
        self._start()
        return True

    def plan(self, name: str) -> Fields:
        """How much restoring a snapshot would change; changes nothing."""
        found = undo_differential(self._replica.volume.snapped, name)
        record = self._replica.volume.snapped.snapshot(name)
        return {
            "snapshot": name,
            "created_s": record.created_s,
            "write_blocks": total(found.data),
            "discard_blocks": total(found.discards),
            "block_size": self._replica.volume.block_size,
        }

    def begin(self, name: str) -> Fields:
        """Begin, or join the one of this name that runs; one that failed is begun again, or given up for another."""
        with self._lock:
            if self.is_running:
                if self.snapshot != name:
                    raise WrongRoleError(f"snapshot {self.snapshot} is being restored", hint="wait for its end")
                return self.progress()
            self._check()
            snapped = self._replica.volume.snapped
            record, found = snapped.snapshot(name), self._cell.get()
            if found is None or self.snapshot != name:
                progress = RestoreProgress(snapshot=name, snapshot_id=record.id, was_held=record.held)
                Restore(snapped, self._replica.volume, progress)  # an error now, while nothing was touched
                self._close_export()
                self._replica.cut()  # the boundary before it
                self._cell.set(Restoring(progress=progress, epoch=self._replica.root.epoch))
            self._start()
            return self.progress()

    def progress(self) -> Fields:
        """How far the last one is."""
        found = self._cell.get()
        if found is None:
            raise NotFoundError("no snapshot was restored here")
        return {
            "snapshot": found.progress.snapshot,
            "done": found.ended,
            "running": self.is_running,
            "total_blocks": self._total,
            "left_blocks": 0 if found.ended else self._left,
            "number": found.number or None,
            "error": self._error,
        }

    def stop(self) -> None:
        """End after the step that is under way; it goes on when this primary is opened again."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)

    def _check(self) -> None:
        if self._replica.root.handover is not None or self._replica.volume.refusal is not None:
            raise WrongRoleError("the role of this volume is on its way to another site", hint="see: replkit status")
        if self._replica.congestion.is_blocking:
            raise WrongRoleError("the save volume is full and writes wait", hint="wait until a secondary has caught up")

    def _start(self) -> None:
        at_rest = threading.Event()
        self._error = ""
        self._thread = threading.Thread(target=self._run, args=(at_rest,), name="restore", daemon=True)
        self._thread.start()
        at_rest.wait()

    def _run(self, at_rest: threading.Event) -> None:
        try:
            with self._replica.cutter.at_rest():
                at_rest.set()
                restore = self._write_back()
            if restore is not None:
                self._finish(restore)
        except ReplkitError as error:  # fenced, or the store failed: not served until it was given again, or resynced
            self._error = str(error)
            _log.error("restoring snapshot %s: %s", self.snapshot, error)
        finally:
            at_rest.set()

    def _write_back(self) -> Restore | None:
        """All steps; ``None`` when it is to stop before the last."""
        found = self._cell.get()
        if found is None:
            return None
        snapped = self._replica.volume.snapped
        if not snapped.snapshot(found.progress.snapshot).held:
            snapped.hold_snapshot(found.progress.snapshot, held=True)
        restore = Restore(snapped, self._replica.volume, found.progress, step_bytes=self._step_bytes)
        self._total = self._left = restore.blocks_left
        while not restore.progress.done:
            if self._ending.is_set():
                return None
            before = restore.progress
            if restore.step() != before:
                self._cell.set(msgspec.structs.replace(found, progress=restore.progress))
            self._left = restore.blocks_left
        return restore

    def _finish(self, restore: Restore) -> None:
        restore.release()
        number = self._replica.cut().number
        epoch = self._replica.root.epoch
        self._cell.set(Restoring(progress=restore.progress, epoch=epoch, ended=True, number=number))
        self._open_export()
