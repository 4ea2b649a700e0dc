"""Sizes of the code under test that are made for volumes of terabytes, scaled down to those of a simulation.

Else a volume of 64 blocks would be one region of intents, one chunk of a copy and one step of everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Final

SMALL: Final[tuple[tuple[str, str, int], ...]] = (
    ("replkit.snapshot.intents", "MIN_REGION_BYTES", 2048),
    ("replkit.snapshot.intents", "_AHEAD_REGIONS", 2),
    ("replkit.replication.cutter", "CHUNKS_A_STEP", 1),
    ("replkit.replication.player", "CHUNKS_A_STEP", 1),
    ("replkit.replication.sender", "MESSAGES_A_STEP", 3),
    ("replkit.replication.receiver", "MESSAGES_A_STEP", 4),
    ("replkit.replication.receive_copy", "FLUSH_BYTES", 8192),
    ("replkit.replication.receive_copy", "EXPECTED_BYTES", 8192),
    ("replkit.replication.receive_copy", "CLEAR_BLOCKS", 8),
    ("replkit.replication.receive_copy", "CLEAR_EXTENTS_A_STEP", 2),
    ("replkit.replication.receive_difference", "FLUSH_BYTES", 8192),
    ("replkit.replication.trimmer", "SETS_A_STEP", 2),
)
"""Module, name, size in a simulation."""


@contextmanager
def small_sizes() -> Iterator[None]:
    """Within it the sizes are those of a simulation."""
    before = [(import_module(module), name) for module, name, _size in SMALL]
    sizes = [getattr(module, name) for module, name in before]
    try:
        for (module, name), (_module, _name, size) in zip(before, SMALL, strict=True):
            setattr(module, name, size)
        yield
    finally:
        for (module, name), size in zip(before, sizes, strict=True):
            setattr(module, name, size)
