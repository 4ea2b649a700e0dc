"""The fence of a primary: it stops its users' writes as soon as it learns that its epoch is over (R9, invariant 8)."""

from __future__ import annotations

from replkit.contracts.savevolume import SaveVolume
from replkit.replication.cells import MemberProgress, sent_cell
from replkit.replication.primary import PrimaryReplica
from replkit.replication.root import load_struct

PAUSE_S = 0.5


class Fence:
    """A service of a primary: looks at what its senders, in processes of their own, have met at the members.

    Who learns of an epoch in another way (a hello or a call that carries it) calls ``PrimaryReplica.fence`` itself.
    """

    def __init__(self, primary: PrimaryReplica, save: SaveVolume) -> None:
        self._primary, self._save = primary, save

    def step(self) -> float:
        """Fence the primary if a member has met another epoch; seconds until the next call."""
        for member in self._primary.root.members:
            progress, _version = load_struct(self._save, sent_cell(member.name), MemberProgress)
            if progress is None:
                continue
            if progress.fenced_by is not None:
                self._primary.fence(progress.fenced_by)
            if progress.ahead is not None:
                self._primary.fence_copy(progress.ahead)
        return PAUSE_S
