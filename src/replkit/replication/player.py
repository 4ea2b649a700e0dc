"""The player: integrates received sets into the volume, in order, several in one pass, newest block first (C2, FIG. 9).

A pass is announced in the cell ``playing``, or by the swap that published its only set, before its first write, and
ended in the cell after the flush; so a pass that a crash cut short is played again, to the same end (invariants 5, 6).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from replkit.contracts.position import Position
from replkit.contracts.runtime import Runtime
from replkit.contracts.savevolume import SaveVolume
from replkit.contracts.volume import BlockVolume, Capability
from replkit.deltaset.header import SetHeader
from replkit.errors import InconsistentError, RecordMissingError, SaveVolumeFullError
from replkit.replication.accumulated import Accumulated
from replkit.replication.cells import HISTORY_LENGTH, PLAYING, Base, PlayedPass, Playing, Root
from replkit.replication.directory import numbers_between, set_after
from replkit.replication.playback import PlaybackPass
from replkit.replication.policy import Policy, load_policy
from replkit.replication.root import StructCell
from replkit.replication.set_reader import SetReader
from replkit.replication.snapshot_names import refuse_reserved
from replkit.replication.view import PinnedView
from replkit.snapshot.records import SnapshotRecord
from replkit.snapshot.snapped import SnappedVolume

CHUNKS_A_STEP = 4
MAX_PASS_SETS = 256
READERS_PAUSE_S = 0.002
"""How long the player stands back for reads that do not see the sets it wants to play: they have priority (C3)."""
IDLE_PAUSE_S = 0.5
VIEW_SNAPSHOT = "view."
"""Names of the snapshots that the player makes for pinned views begin so."""
VERIFY_SNAPSHOT = "verify."
"""Names of those that it makes at marks for a verification begin so (X4)."""


class Player:
    """Plays the sets of one save volume into one volume.

    ``cell`` is ``playing`` for a secondary; a member that shares the primary's save volume has a cell of its own
    and reads everything else as a reader (S2). ``base`` tells to where the last new copy brought the volume, and is
    ``None`` while it stands at no boundary.
    """

    def __init__(
        self,
        *,
        name: str,
        volume: BlockVolume,
        save: SaveVolume,
        root: Callable[[], Root],
        runtime: Runtime,
        hooks: Any,
        base: Callable[[], Base | None],
        cell: str = PLAYING,
    ) -> None:
        self._name, self._volume, self._save = name, volume, save
        self._root, self._runtime, self._hooks = root, runtime, hooks
        self._cell = StructCell(save, cell, Playing)
        self._base = base
        self._reader = SetReader(save, root, volume.block_count)
        self.sets = Accumulated(self._reader, runtime, root, lambda: self.position)
        self._pass: PlaybackPass | None = None
        self._waiting_since_s: float | None = None
        self._pins: list[PinnedView] = []
        self._lock = runtime.lock()
        self._is_stopping = False
        self._asked_until = 0
        self.waits_for = ""

    @property
    def position(self) -> Position:
        """The boundary at which the volume stands, flushed; between two in a pass, where only views can be read."""
        base, playing = self._base(), self._cell.get()
        if base is None:
            raise InconsistentError(f"{self._name}: stands at no boundary: no new copy was finished")
        return playing.position if playing is not None and playing.copy_id == base.copy_id else base.position

    @property
    def is_at_rest(self) -> bool:
        """Whether no pass is under way, so that the volume alone is a boundary."""
        return self._pass is None and self._unfinished() is None

    def _unfinished(self) -> int | None:
        """The end of a pass that was announced and not ended, of the copy that the volume holds now.

        Announced in its cell, or in the root: with the set that it plays, or with a difference that was received; until
        that was played the volume is not at the fork (invariant 6).
        """
        base, playing = self._base(), self._cell.get()
        if base is None:
            return None
        is_known = playing is not None and playing.copy_id == base.copy_id
        if playing is not None and is_known and (playing.target is not None or playing.position.number >= base.until):
            return playing.target
        return base.until or None

    def step(self) -> float:
        """Play a few chunks of the pass under way, or begin one that is due; seconds until the next call."""
        with self._lock:
            if self._base() is None:
                self._pass = None
                return IDLE_PAUSE_S
            self.sets.refresh()
            if self._pass is None:
                wait_s = self._begin(load_policy(self._save))
                if self._pass is None:
                    return wait_s
            if not self.sets.may_write(self._pass.last):
                self.waits_for = "reads at an older boundary"
                made = self._make_way()
                return READERS_PAUSE_S if made is None else made
            self.waits_for = ""
            return self._advance(self._pass)

    def begins_at_once(self, header: SetHeader) -> bool:
        """Whether a set that is about to be published is a pass of its own, begun as soon as it is there.

        Then the swap that publishes it can announce the pass too: until the set was played no other state is at rest.
        """
        base = self._base()
        if base is None or self._is_stopping or not self.is_at_rest or self.position != self._root().last:
            return False
        if header.volume_size_bytes != self._volume.size_bytes or not self.sets.may_write(header.number):
            return False
        return load_policy(self._save).play_interval_s <= 0

    def _advance(self, going: PlaybackPass) -> float:
        if not going.is_announced and self._unfinished() != going.last:
            self._announce(going.last)
        going.is_announced = True
        try:
            self._follow_size(going.volume_size_bytes)
            if not going.is_expected:
                self._expect(going.numbers)
                going.is_expected = True
            if not going.advance(CHUNKS_A_STEP):
                self._end(going)
        except RecordMissingError as error:  # given up under a shared player: the set that spans it must come
            self._pass = None
            self.waits_for = str(error)
            return IDLE_PAUSE_S
        except BaseException:
            self._pass = None  # a chunk may be taken from it and not written: it is played again from its beginning
            raise
        return 0.0

    def _expect(self, numbers: list[int]) -> None:
        """Ensure the intents of all the pass by one swap (invariant 2), where each costs requests; a hint."""
        if self._save.requests and isinstance(self._volume, SnappedVolume):
            extents = self.sets.extents(numbers)
            with self._volume.gate.shared():
                self._volume.intents.ensure(extents)

    def _follow_size(self, size_bytes: int) -> None:
        """Resize the volume to that of the sets (X5); a larger one that cannot be resized serves as well."""
        if size_bytes != self._volume.size_bytes and self._volume.resizes is not Capability.NONE:
            self._volume.resize(size_bytes)

    def play_now(self) -> None:
        """Play what is received until now without waiting for time or size (*start playback*, T10)."""
        self._asked_until = self._root().last.number

    def stop_after_pass(self, *, stopping: bool) -> None:
        """Begin no further pass, for a promotion; one that a crash cut short is still finished."""
        with self._lock:
            self._is_stopping = stopping

    def reset(self) -> None:
        """A new copy begins: drop the pass under way and the index; waits for the step that is running."""
        with self._lock:
            self._pass = None
            self._asked_until = 0
            self.sets.reset()

    def pin(self, view: PinnedView) -> None:
        """Remember a view for which the player makes a snapshot when it wants to go on."""
        with self._lock:
            self._pins.append(view)

    def unpin(self, view: PinnedView) -> None:
        """The view was closed; its snapshot goes with the last view at that boundary."""
        with self._lock:
            self._pins = [each for each in self._pins if each is not view]
            name = view.snapshot_name
            if name is None or any(each.snapshot_name == name for each in self._pins):
                return
            if isinstance(self._volume, SnappedVolume):
                self._volume.delete_snapshot(name)

    def create_snapshot(self, name: str, *, held: bool = True) -> SnapshotRecord | None:
        """A snapshot of a user's, stamped with the last set played (P6); ``None`` in a pass under way: ask again."""
        refuse_reserved(name)
        return self.make_snapshot(name, held=held)

    def make_snapshot(self, name: str, *, held: bool = True) -> SnapshotRecord | None:
        """As ``create_snapshot``, under a name that is a service's."""
        with self._lock:
            if not self.is_at_rest or not isinstance(self._volume, SnappedVolume):
                return None
            return self._volume.create_snapshot(name, self.position, held=held)

    def status(self) -> dict[str, object]:
        """Where the volume stands and what waits (R8)."""
        playing = self._cell.get()
        return {
            "position": str(self.position) if self._base() else None,
            "number": self.position.number if self._base() else None,
            "target": self._pass.last if self._pass else None,
            "waiting_blocks": self.sets.waiting_blocks(),
            "waits_for": self.waits_for,
            "pinned": len(self._pins),
            "history": [msgspec.structs.asdict(entry) for entry in (playing.passes if playing else ())],
        }

    def _keep_marks(self, position: Position) -> None:
        """Make the snapshots that marks of the set ask for, before the pass is published: a crash makes them again."""
        for mark in self._reader.header(position.number).marks:
            name = mark.name if mark.kind == "snapshot" else f"{VERIFY_SNAPSHOT}{mark.name}"
            if not isinstance(self._volume, SnappedVolume):
                continue
            if any(record.name == name for record in self._volume.snapshots()):
                continue
            try:
                self._volume.create_snapshot(name, position, held=mark.kind == "snapshot")
            except SaveVolumeFullError as error:
                self._hooks.replkit_error(
                    volume=self._name, message=f"no snapshot {name} at {position}: {error}", error=error
                )

    def _begin(self, policy: Policy) -> float:
        root, position = self._root(), self.position
        unfinished = self._unfinished()
        try:
            numbers = self._choose(root, position, unfinished)
        except RecordMissingError as error:  # given up or trimmed: the set that spans it, or a resync, must come
            self.waits_for = str(error)
            return IDLE_PAUSE_S
        if not numbers or (self._is_stopping and unfinished is None):
            self._waiting_since_s = None
            return IDLE_PAUSE_S
        is_asked = position.number < self._asked_until
        if unfinished is None and not is_asked and not self._is_due(policy, numbers):
            return min(IDLE_PAUSE_S, policy.play_interval_s)
        size_bytes = self._reader.header(numbers[-1]).volume_size_bytes
        if size_bytes > self._volume.size_bytes and self._volume.resizes is Capability.NONE:
            self.waits_for = (
                f"a volume of {size_bytes} bytes: set {numbers[-1]} needs it, "
                f"and the one here has {self._volume.size_bytes} and cannot be resized"
            )
            return IDLE_PAUSE_S
        self._pass = PlaybackPass(self._reader, self._volume, numbers, self._runtime)
        return 0.0

    def _make_way(self) -> float | None:
        """Give views that are pinned here a snapshot of the volume as it stands, so that playback can go on."""
        if not isinstance(self._volume, SnappedVolume):
            return None
        here = self.position
        pins = [pin for pin in self._pins if pin.boundary == here and pin.snapshot_name is None]
        if not pins:
            return None
        name = f"{VIEW_SNAPSHOT}{here.number}-{here.identity[:16]}"  # equal identity, equal content: also after a copy
        if all(record.name != name for record in self._volume.snapshots()):
            self._volume.create_snapshot(name, here, held=True)
        for pin in pins:
            pin.rebase(name, self._volume.open_snapshot(name))
        return 0.0

    def _choose(self, root: Root, position: Position, unfinished: int | None) -> list[int]:
        """The sets of the next pass: to the end that was announced, or up to the first mark."""
        first = set_after(root, position.number)
        if first is None:
            return []
        # Only what the index has: a set that was committed since would be written under views that do not see it.
        known = self.sets.boundary.number
        numbers = [each for each in numbers_between(root, position.number + 1, unfinished or known) if each <= known]
        if unfinished is not None:
            return numbers
        size_bytes = None
        pinned = min((pin.boundary.number for pin in self._pins if pin.boundary.number > position.number), default=None)
        for place, number in enumerate(numbers[:MAX_PASS_SETS]):
            header = self._reader.header(number)
            if size_bytes not in {None, header.volume_size_bytes}:  # newest first would skip the size between
                return numbers[:place]
            size_bytes = header.volume_size_bytes
            if number == pinned or header.marks:  # marks: members meet at the same boundary
                return numbers[: place + 1]
        return numbers[:MAX_PASS_SETS]

    def _is_due(self, policy: Policy, numbers: list[int]) -> bool:
        now = self._runtime.monotonic()
        if self._waiting_since_s is None:
            self._waiting_since_s = now
        if now - self._waiting_since_s >= policy.play_interval_s:
            return True
        return sum(self._reader.header(number).data_bytes for number in numbers) >= policy.play_high_water_bytes

    def _announce(self, target: int | None, position: Position | None = None, done: PlayedPass | None = None) -> None:
        base, playing = self._base(), self._cell.get()
        passes = playing.passes if playing else ()
        self._cell.set(
            Playing(
                copy_id=base.copy_id if base else "",
                position=position or self.position,
                target=target,
                passes=passes if done is None else (*passes, done)[-HISTORY_LENGTH:],
            )
        )

    def _end(self, done: PlaybackPass) -> None:
        self._volume.flush()  # invariant 7: played means durable
        position = self._reader.header(done.last).position
        first = self.position.number + 1
        duration_s = self._runtime.monotonic() - done.started_s
        entry = PlayedPass(first, done.last, self._runtime.now() - duration_s, duration_s, done.blocks, done.set_count)
        self._keep_marks(position)
        # First: a read that begins between the two must not name sets which the trimmer may delete after the second.
        self.sets.forget_played(position.number)
        self._announce(None, position, entry)
        self._pass = None
        self._waiting_since_s = None
        self._hooks.replkit_delta_set_played(volume=self._name, position=position, set_count=done.set_count)
