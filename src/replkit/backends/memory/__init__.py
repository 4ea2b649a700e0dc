"""``memory:NAME``: volumes and save volumes that live as long as the process, for tests and for trying things.

Comes in: a name. Goes out: every opener of one name in one process meets the same bytes, also after a close; ``forget``
drops them.
"""

from __future__ import annotations

from replkit.backends.memory.savevolume import MemorySaveVolume
from replkit.backends.memory.savevolume import forget as _forget_save_volumes
from replkit.backends.memory.volume import MemoryVolume
from replkit.backends.memory.volume import forget as _forget_volumes
from replkit.contracts.hooks import hookimpl
from replkit.contracts.registry import Registry

__all__ = ["MemorySaveVolume", "MemoryVolume", "forget"]


def forget(name: str) -> None:
    """Drop the volume and the save volume of this name; those who have them open keep them."""
    _forget_volumes(name)
    _forget_save_volumes(name)


@hookimpl
def replkit_register_volumes(registry: Registry) -> None:
    """Serve ``memory:`` volumes."""
    registry.add_volume_scheme("memory", MemoryVolume.open)


@hookimpl
def replkit_register_save_volumes(registry: Registry) -> None:
    """Serve ``memory:`` save volumes."""
    registry.add_save_volume_scheme("memory", MemorySaveVolume.open)
