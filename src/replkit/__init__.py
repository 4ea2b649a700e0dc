"""replkit: asynchronous replication of block volumes, between disks and buckets, with a way back.

``replkit.Replica`` is the Python API; ``replkit.errors`` has every error. Nothing is imported before it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replkit.site.api import Replica

__version__ = "0.1.0"
__all__ = ["Replica", "__version__"]


def __getattr__(name: str) -> object:
    if name == "Replica":  # by name: the package is above no layer, and `replkit --help` and plugins start at once
        return import_module("replkit.site.api").Replica
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
