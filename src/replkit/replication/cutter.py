"""The cutter: swaps the change maps between two writes and copies the old one into a delta set (D1-D3, D5, FIG. 8-10).

A cut is volatile until the root names its set. Whatever fails before that abandons it: the old map goes back into the
current one and the chunks are deleted, so the next cut carries the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from replkit.contracts.position import Position
from replkit.deltaset.header import Mark
from replkit.errors import (
    AlreadyExistsError,
    CorruptRecordError,
    CutAbandonedError,
    FencedError,
    RecordMissingError,
    ReplkitError,
    SaveVolumeFullError,
)
from replkit.replication.cells import CUTS, HISTORY_LENGTH, SetHistory
from replkit.replication.congestion import Congestion
from replkit.replication.cut import Cut
from replkit.replication.directory import span_of
from replkit.replication.logged import LoggedVolume
from replkit.replication.policy import Policy, load_policy
from replkit.replication.replica import Replica
from replkit.replication.root import StructCell
from replkit.replication.set_reader import SetReader

CHUNKS_A_STEP = 4
LONGEST_PAUSE_S = 1.0
"""How often a cutter with nothing to do looks again: the policy may have been changed."""
FIRST_BACKOFF_S = 1.0
LONGEST_BACKOFF_S = 60.0


class Cutter:
    """Cuts sets when the policy says so, and on demand; only one cut is under way at a time."""

    def __init__(self, replica: Replica, volume: LoggedVolume, congestion: Congestion) -> None:
        self._replica = replica
        self._volume = volume
        self.congestion = congestion
        self._runtime = replica.runtime
        self._lock = replica.runtime.lock()
        self._open: Cut | None = None
        self._attempt = 0
        self._due_s = replica.runtime.monotonic() + load_policy(replica.save).interval_s
        self._backoff_s = self._retry_at_s = 0.0
        self._last_error = ""
        self._history: StructCell[SetHistory] | None = StructCell(replica.save, CUTS, SetHistory)
        self._recent = (self._history.get() or SetHistory()).sets
        self._is_history_kept = True

    def step(self) -> float:
        """Copy a few chunks of the cut under way, or begin one that is due; seconds until the next call."""
        with self._lock:
            self._keep_history()
            policy = load_policy(self._replica.save)
            self.congestion.step(policy)
            if self._open is None and not self._is_due(policy):
                return max(0.0, min(LONGEST_PAUSE_S, self._due_s - self._runtime.monotonic()))
            try:
                if self._open is None:
                    self._open = self._begin(policy, None, ())
                if self._open.advance(CHUNKS_A_STEP):
                    return 0.0
                self._finish(policy)
            except ReplkitError as error:
                self._abandon(policy, error)
                if isinstance(error, FencedError):
                    raise
            except BaseException:
                self._drop()
                raise
            return min(LONGEST_PAUSE_S, max(0.0, self._due_s - self._runtime.monotonic()))

    def cut(self, snapshot: str | None = None, marks: tuple[Mark, ...] = ()) -> Position:
        """Cut now, and return the position when its set is durable; with ``snapshot``, make it exactly there.

        ``CutAbandonedError`` when the set could not be stored; its changes will be in the next one.
        ``AlreadyExistsError`` when the name is taken; nothing is cut then.
        """
        with self._lock:
            if snapshot is not None and any(record.name == snapshot for record in self._replica.root.get().snapshots):
                raise AlreadyExistsError(f"a snapshot is called {snapshot} already")
            return self._cut(snapshot, marks, always=False)

    def cut_unless(self, is_there: Callable[[], bool], snapshot: str) -> None:
        """Cut with ``snapshot``, unless ``is_there`` says that it need not be made; asked while no other is made.

        Errors as those of ``cut``, and whatever ``is_there`` raises.
        """
        with self._lock:
            if not is_there():
                self._cut(snapshot, (), always=False)

    def resize(self, size_bytes: int) -> Position:
        """Change the size of the volume by a cut of its own, and return the position that has it (X5).

        The set before it has the old size. Errors as those of ``LoggedVolume.resize``, nothing is changed then;
        ``CutAbandonedError`` before or after it, then the next set carries what this one would.
        """
        with self._lock:
            self._cut(None, (), always=False)
            self._volume.resize(size_bytes)
            return self._cut(None, (), always=True)

    def _cut(self, snapshot: str | None, marks: tuple[Mark, ...], *, always: bool) -> Position:
        policy = load_policy(self._replica.save)
        try:
            if self._open is not None:
                while self._open.advance(CHUNKS_A_STEP):
                    pass
                self._finish(policy)
            root = self._replica.root.get()
            has_cause = always or snapshot is not None or marks or self._volume.dirty_blocks
            if not has_cause and root.given_up is None:
                return root.last
            self._open = self._begin(policy, snapshot, marks)
            while self._open.advance(CHUNKS_A_STEP):
                pass
            return self._finish(policy)
        except ReplkitError as error:
            self._abandon(policy, error)
            if isinstance(error, FencedError):
                raise
            raise CutAbandonedError(f"{self._replica.name}: the cut was abandoned: {error}") from error
        except BaseException:
            self._drop()
            raise

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Context in which no cut is under way and none begins; one that is open is given up, its blocks stay changed.

        For changes of role, which end the epoch that a set would carry.
        """
        with self._lock:
            self._drop()
            yield

    @property
    def is_cutting(self) -> bool:
        """Whether a cut is under way whose set is not committed."""
        return self._open is not None

    @property
    def is_backing_off(self) -> bool:
        """Whether the last cut was abandoned, and the next is not due yet; who can wait does not ask for one before."""
        return self._runtime.monotonic() < self._retry_at_s

    def status(self) -> dict[str, object]:
        """What was cut, and what is not yet (R8)."""
        return {
            "changed_blocks": self._volume.dirty_blocks,
            "cutting": self._open is not None,
            "last_error": self._last_error,
            "history": [msgspec.structs.asdict(entry) for entry in self._recent],
        }

    def age_s(self, number: int) -> float | None:
        """Lag of a replica that stands at ``number``: the age of the oldest set that it lacks; 0 when it has all.

        ``None`` where nobody knows: the header of that set is gone, or damaged.
        """
        root = self._replica.root.get()
        if number >= root.last.number:
            return 0.0
        reader = SetReader(self._replica.save, self._replica.root.get, self._volume.block_count)
        try:
            header = reader.header(span_of(root, max(number + 1, root.first_listed)).last)
        except (CorruptRecordError, RecordMissingError):
            return None
        return max(0.0, self._runtime.now() - header.created_s)

    def _is_due(self, policy: Policy) -> bool:
        if self.is_backing_off:
            return False
        now = self._runtime.monotonic()
        changed = self._volume.dirty_blocks
        if not changed and self._replica.root.get().given_up is None:
            if now >= self._due_s:
                self._due_s = now + policy.interval_s
            return False
        self._due_s = min(self._due_s, now + policy.interval_s)  # a policy with a shorter interval acts at once
        return now >= self._due_s or changed * self._volume.block_size >= policy.high_water_bytes

    def _begin(self, policy: Policy, snapshot: str | None, marks: tuple[Mark, ...]) -> Cut:
        name, hooks = self._replica.name, self._replica.hooks
        keeps_data = not self.congestion.may_drop_data()
        try:
            hooks.replkit_freeze(volume=name)
            opened = self._volume.begin_cut(snapshot, stamp=self._replica.root.get().last)
        except ReplkitError:
            raise
        except Exception as error:  # whatever a plugin raises in freeze
            raise CutAbandonedError(f"{name}: could not be frozen for the cut: {error}") from error
        finally:
            hooks.replkit_thaw(volume=name)
        self._attempt += 1
        writer = f"{self._replica.root.writer}-{self._attempt:x}"
        try:
            return Cut(
                self._replica, self._volume, opened, policy, writer=writer, snapshot=snapshot, marks=marks,
                keeps_data=keeps_data,
            )  # fmt: skip
        except BaseException:
            opened.abandon()  # else it stays open, and no cut could ever begin again
            raise

    def _finish(self, policy: Policy) -> Position:
        cut = self._open
        if cut is None:
            raise CutAbandonedError(f"{self._replica.name}: there is no cut to finish")
        position = cut.commit()
        self._open = None
        self._backoff_s = self._retry_at_s = 0.0
        self._last_error = ""
        self._due_s = self._runtime.monotonic() + policy.interval_s
        self._remember(cut, position)
        self._replica.hooks.replkit_delta_set_cut(
            volume=self._replica.name, position=position, block_count=cut.block_count
        )
        return position

    def _remember(self, cut: Cut, position: Position) -> None:
        """Add to the history, which is for status only; the next step makes it durable, as nobody need wait for it."""
        self._recent = (*self._recent, cut.record(position))[-HISTORY_LENGTH:]
        self._is_history_kept = False

    def keep_history(self) -> None:
        """Make the history durable; its newest entries are lost in a crash before."""
        with self._lock:
            self._keep_history()

    def _keep_history(self) -> None:
        """The sets are committed, whatever becomes of this; what fails is tried again with the next cut."""
        if self._is_history_kept:
            return
        self._is_history_kept = True
        try:
            if self._history is None:
                self._history = StructCell(self._replica.save, CUTS, SetHistory)
            self._history.set(SetHistory(sets=self._recent))
        except ReplkitError as error:
            self._history = None  # whether it was swapped is not known: read it again
            message = f"set {self._recent[-1].number} is not in the history: {error}"
            self._replica.hooks.replkit_error(volume=self._replica.name, message=message, error=error)

    def _drop(self) -> None:
        """After an unforeseen error: a range may be copied that no chunk has, so the cut cannot go on (invariant 2)."""
        cut, self._open = self._open, None
        if cut is not None:
            cut.abandon()

    def _abandon(self, policy: Policy, error: ReplkitError) -> None:
        cut, self._open = self._open, None
        self._last_error = str(error)
        self._backoff_s = min(LONGEST_BACKOFF_S, max(FIRST_BACKOFF_S, self._backoff_s * 2))
        self._due_s = self._retry_at_s = self._runtime.monotonic() + self._backoff_s
        self._replica.hooks.replkit_error(
            volume=self._replica.name, message=f"a cut was abandoned: {error}", error=error
        )
        if cut is not None:
            cut.abandon()
        if isinstance(error, SaveVolumeFullError):
            self.congestion.on_full(policy)
