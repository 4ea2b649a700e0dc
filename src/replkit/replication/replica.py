"""What the services of one replica share: its two stores, its root, and the outside world."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from replkit.contracts.runtime import Runtime
from replkit.contracts.savevolume import SaveVolume
from replkit.contracts.volume import BlockVolume
from replkit.replication.root import RootCell


@dataclass
class RoomWish:
    """Whether a service met a full save volume: the trimmer then lets go of a set that only a policy keeps."""

    is_made: bool = False


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
