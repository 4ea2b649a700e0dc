"""What the services of one replica share: its two stores, its root, and the outside world."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from replkit.contracts.runtime import Runtime
from replkit.contracts.savevolume import SaveVolume
from replkit.contracts.volume import BlockVolume
from replkit.replication.cells import ReceivedSet, Receiving
from replkit.replication.root import RootCell


@dataclass
class RoomWish:
    """Whether a service met a full save volume: the trimmer then lets go of a set that only a policy keeps."""

    is_made: bool = False


@dataclass
class Unsaved:
    """What a service knows and has not written down yet, because each swap of a cell costs requests.

    A crash forgets it, and each is safe to forget: what of a set that arrives is named by no cell is swept, history is
    for status, and what is condemned is deleted again.
    """

    receiving: Receiving | None = None
    """The set whose chunks are arriving, before so much of it is here that it is worth to go on with it."""
    received: tuple[ReceivedSet, ...] = ()
    """Sets received that the cell ``received`` does not tell yet."""
    deleted: frozenset[str] = frozenset()
    """Condemned tags whose records are deleted; once that is synced, a root need not name them any more."""


@dataclass(frozen=True, kw_only=True)
class Replica:
    """A volume with its save volume opened as producer, and what its services need besides.

    ``hooks`` is the registry's ``EventHooks``: ``hooks.replkit_error(volume=..., message=..., error=...)``.
    """

    name: str
    volume: BlockVolume
    save: SaveVolume
    root: RootCell
    runtime: Runtime
    hooks: Any
    room_wish: RoomWish = field(default_factory=RoomWish)
    unsaved: Unsaved = field(default_factory=Unsaved)

    @property
    def pays(self) -> bool:
        """Whether each swap of a cell of its save volume costs requests."""
        return bool(self.save.requests)
