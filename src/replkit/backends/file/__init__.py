"""``file:///path``: volumes in files or on block devices, save volumes in directories.

Comes in: an absolute path. Goes out: a ``FileVolume``; a ``FileSaveVolume`` for the producer of a save volume, a
``FileSaveReader`` for everybody else, in any process of the machine.
"""

from __future__ import annotations

from replkit.backends.file.reader import FileSaveReader
from replkit.backends.file.savevolume import FileSaveVolume, open_save_volume
from replkit.backends.file.volume import FileVolume
from replkit.contracts.hooks import hookimpl
from replkit.contracts.registry import Registry

__all__ = ["FileSaveReader", "FileSaveVolume", "FileVolume"]


@hookimpl
def replkit_register_volumes(registry: Registry) -> None:
    """Serve ``file:`` volumes."""
    registry.add_volume_scheme("file", FileVolume.open)


@hookimpl
def replkit_register_save_volumes(registry: Registry) -> None:
    """Serve ``file:`` save volumes."""
    registry.add_save_volume_scheme("file", open_save_volume)
