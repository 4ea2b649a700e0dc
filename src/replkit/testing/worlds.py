"""Where the suites make volumes and save volumes, and how they look at them from outside.

The author gives a world: where the backend keeps things, and, as far as possible, ways around it: to look at stored
bytes, to damage them, to lose what was not made durable. A test that needs a way that is not given is skipped, and says
so.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from replkit.contracts.registry import Registry
from replkit.contracts.savevolume import SaveVolume
from replkit.contracts.volume import BlockVolume

_PROCESS_S = 60.0
_PREFACE = """
import os, sys
from replkit.contracts.registry import default_registry
url, plugins = sys.argv[1], sys.argv[2:]
registry = default_registry(plugins)
"""


@dataclass(kw_only=True)
class VolumeWorld:
    """Where the suite makes volumes. ``url`` names one that does not exist yet."""

    registry: Registry
    url: str
    peek: Callable[[int, int], bytes] | None = None
    """Stored bytes (offset, size), read without the backend."""
    poke: Callable[[int, bytes], None] | None = None
    """Change stored bytes (offset, data) without the backend."""
    lose_power: Callable[[], None] | None = None
    """Called while nobody has it open: drop what was not flushed, as a machine without power does, or some of it."""

    def open(self, **options: Any) -> BlockVolume:
        """Open ``url``."""
        return self.registry.open_volume(self.url, **options)


@dataclass(kw_only=True)
class SaveVolumeWorld:
    """Where the suite makes save volumes. ``url`` names one that does not exist yet."""

    registry: Registry
    url: str
    rot: Callable[[bytes], None] | None = None
    """Find these bytes in the store and change one of them, without the backend."""
    lose_power: Callable[[], None] | None = None
    """Called while nobody has it open: drop what was not synced, or some of it, and bring unsynced deletes back."""

    def open(self, **options: Any) -> SaveVolume:
        """Open ``url``."""
        return self.registry.open_save_volume(self.url, **options)


def run_all(*works: Callable[[], None]) -> None:
    """Run each in a thread of its own and raise what the first failing one raised."""
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # carried to the main thread
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def run_and_kill(code: str, url: str, plugins: Sequence[str] = ()) -> None:
    """Run code in another process, where ``registry`` and ``url`` are defined, and end that without any farewell."""
    program = f"{_PREFACE}\n{code}\nos._exit(0)\n"
    done = subprocess.run(
        [sys.executable, "-c", program, url, *plugins], capture_output=True, text=True, timeout=_PROCESS_S, check=False
    )
    assert done.returncode == 0, f"another process failed with the backend:\n{done.stderr}"
