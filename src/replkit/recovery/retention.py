"""How long past boundaries stay: all for a time, then one each so often, then none (X2).

A boundary can be opened as long as there is a snapshot at or before it and every set between. So the service makes a
snapshot of the secondary's volume every ``keep_each_s`` while playback is at rest, keeps the sets of the last
``keep_all_s`` and of the stretch back to the snapshot before them, and deletes its snapshots after ``keep_for_s``.
Both give way where room is short (invariant 11): its snapshots are not held, so where before-images need room the
oldest goes first; and where sets need room the trimmer lets the oldest go that nobody reads or holds. Both are told.
"""

from __future__ import annotations

from collections.abc import Callable

from replkit.contracts.runtime import Runtime
from replkit.contracts.savevolume import SaveVolume
from replkit.errors import InconsistentError
from replkit.recovery.boundary import Boundaries
from replkit.replication.cells import Root
from replkit.replication.policy import Policy, load_policy
from replkit.snapshot.records import SnapshotRecord

PREFIX = "past."
"""Names of the snapshots of the service begin so."""
PAUSE_S = 1.0


class Retention:
    """Keeps the past of one secondary as its policy says; without ``keep_all_s`` and ``keep_for_s``, nothing.

    ``make_snapshot`` makes a snapshot that is not held, or returns ``None`` while playback is not at rest.
    """

    def __init__(  # noqa: PLR0917 - what a replica has
        self,
        save: SaveVolume,
        root: Callable[[], Root],
        make_snapshot: Callable[[str], SnapshotRecord | None],
        delete_snapshot: Callable[[str], None],
        boundaries: Boundaries,
        runtime: Runtime,
    ) -> None:
        self._save, self._root, self._runtime = save, root, runtime
        self._make_snapshot, self._delete_snapshot = make_snapshot, delete_snapshot
        self._boundaries = boundaries

    def step(self) -> float:
        """Make or delete one snapshot, if it is time; seconds until the next call."""
        policy, root = load_policy(self._save), self._root()
        if not root.is_at_boundary or root.role != "secondary":
            return PAUSE_S
        old = self._too_old(policy, root)
        if old is not None:
            self._delete_snapshot(old.name)
            return 0.0
        if self._is_due(policy, root):
            try:
                self._make_snapshot(f"{PREFIX}{root.epoch.count}-{self._runtime.random_bytes(4).hex()}")
            except InconsistentError:  # a new copy began between the two looks
                return PAUSE_S
        return PAUSE_S

    def floor(self) -> int | None:
        """Sets after this number stay as long as there is room; ``None`` when the policy keeps none."""
        policy = load_policy(self._save)
        return self._first_needed(policy, self._root()) if policy.keep_all_s > 0 else None

    def _own(self, root: Root) -> list[SnapshotRecord]:
        return [record for record in root.snapshots if record.name.startswith(PREFIX) and record.valid]

    def _first_needed(self, policy: Policy, root: Root) -> int | None:
        """The stamp of the newest snapshot that is older than the time for which all is kept."""
        usable = self._boundaries.bases(root)
        since_s = self._runtime.now() - policy.keep_all_s
        older = [record.stamp.number for record in usable if record.created_s <= since_s and record.stamp]
        if older:
            return max(older)
        return min((record.stamp.number for record in usable if record.stamp), default=None)

    def _is_due(self, policy: Policy, root: Root) -> bool:
        if policy.keep_for_s <= 0 and policy.keep_all_s <= 0:
            return False
        own = self._own(root)
        if not own:
            return True
        newest = own[-1]
        moved = newest.stamp is None or newest.stamp.number < root.last.number
        return moved and self._runtime.now() - newest.created_s >= policy.keep_each_s

    def _too_old(self, policy: Policy, root: Root) -> SnapshotRecord | None:
        """An own snapshot past its time that no kept boundary stands on."""
        own = [record for record in root.snapshots if record.name.startswith(PREFIX)]
        until_s = self._runtime.now() - max(policy.keep_for_s, policy.keep_all_s)
        is_off = policy.keep_for_s <= 0 and policy.keep_all_s <= 0
        needed = None if is_off else self._first_needed(policy, root)
        for record in own:
            if record.held or self._boundaries.is_base(record.name):
                continue
            is_needed = policy.keep_all_s > 0 and record.stamp is not None and record.stamp.number == needed
            if not record.valid or is_off or (record.created_s < until_s and not is_needed):
                return record
        return None
