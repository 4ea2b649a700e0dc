"""The conformance suite for volumes over a store in memory, with the usual sizes and with tiny ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from replkit.contracts.hooks import hookimpl
from replkit.contracts.registry import Registry, VolumeOptions
from replkit.contracts.volume import BlockVolume, Capability
from replkit.objectstore.memory import MemoryObjectStore
from replkit.objectstore.volume_objects import Tuning
from replkit.objectstore.volume_open import open_object_volume
from replkit.testing.runtime import ThreadRuntime
from replkit.testing.volume_suite import BLOCK, VolumeSuite, VolumeWorld

TINY = Tuning(
    object_bytes=8 * BLOCK, buffer_bytes=32 * BLOCK, cache_bytes=8 * BLOCK, page_cache_bytes=2048,
    read_ahead_bytes=4 * BLOCK, recent_objects=3, recent_runs=16, small_bytes=3 * BLOCK, moved_bytes=24 * BLOCK,
)  # fmt: skip


class Plugin:
    """Serves ``bucket:`` from a dictionary."""

    def __init__(self, pool: ThreadPoolExecutor, tuning: Tuning) -> None:
        self._objects: dict[str, bytes] = {}
        self._pool, self._tuning = pool, tuning
        self._inside = threading.local()

    def _run_all(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        if getattr(self._inside, "is_set", False):  # a call of a call must not wait for a thread
            return [call() for call in calls]
        return list(self._pool.map(self._call, calls))

    def _call(self, call: Callable[[], Any]) -> Any:
        self._inside.is_set = True
        return call()

    def _open(self, url: str, options: VolumeOptions) -> BlockVolume:
        store = MemoryObjectStore(url, self._objects)
        runtime = ThreadRuntime()
        return open_object_volume(store, options, runtime=runtime, run_all=self._run_all, tuning=self._tuning)

    @hookimpl
    def replkit_register_volumes(self, registry: Registry) -> None:
        """Serve ``bucket:`` volumes."""
        registry.add_volume_scheme("bucket", self._open)


@pytest.mark.requirement("U2", "U3")
class TestObjectVolume(VolumeSuite):
    """As the contract says, for every size of objects."""

    follows_writer = False
    discards = Capability.NATIVE
    tells_in_use = Capability.NATIVE
    resizes = Capability.NATIVE

    @pytest.fixture(params=[Tuning(), TINY], ids=["usual", "tiny"])
    def world(self, request: pytest.FixtureRequest) -> Iterator[VolumeWorld]:
        """A registry that knows the scheme."""
        registry = Registry()
        with ThreadPoolExecutor(4) as pool:
            registry.register(Plugin(pool, request.param), "bucket")
            yield VolumeWorld(registry=registry, url="bucket:disk")
