"""Bad save volumes, one flaw each, and the suites over them: ``test_flawed_plugins.py`` knows what must fail.

``CachedSaveVolume``, of which they are made, passes the same suites.
"""

from __future__ import annotations

import itertools
import threading

import pytest

from replkit.backends.memory import MemorySaveVolume, forget
from replkit.contracts.hooks import hookimpl
from replkit.contracts.registry import Registry
from replkit.errors import SwapConflictError
from replkit.testing.savevolume_suite import SaveVolumeSuite, SaveVolumeWorld
from replkit.testing.simulator_suite import SaveVolumeInSimulator

from .page_cache import CachedSaveVolume, lose_power

_numbers = itertools.count()


class _SaveVolumes:
    """The suite's world, over ``backend``."""

    backend = CachedSaveVolume

    @pytest.fixture
    def world(self):
        backend, name = self.backend, f"s{next(_numbers)}"

        class Plugin:
            @hookimpl
            def replkit_register_save_volumes(self, registry):
                registry.add_save_volume_scheme("kit", backend.open)

        registry, url = Registry(), f"kit:{name}"
        registry.register(Plugin())

        def rot(data):
            records = stores[url]._store.records
            (key,) = [key for key, held in records.items() if data in held]
            records[key] = records[key].replace(data, bytes([data[0] ^ 1]) + data[1:])

        stores = {}
        opened = backend.open

        def remembering(url, options):
            stores[url] = opened(url, options)
            return stores[url]

        backend_world = SaveVolumeWorld(registry=registry, url=url, rot=None, lose_power=lambda: lose_power(url))
        if self.has_rot:
            registry._save_volumes["kit"] = remembering
            backend_world.rot = rot
        yield backend_world
        forget(name)

    has_rot = False


class TestCachedSaveVolume(_SaveVolumes, SaveVolumeSuite):
    """The right one; it cannot rot."""


class TestCachedSaveVolumeInSimulator(_SaveVolumes, SaveVolumeInSimulator):
    """The right one."""


class SyncDoesNothing(CachedSaveVolume):
    def sync(self):
        """Forgets what it is for."""


class TestSyncDoesNothing(_SaveVolumes, SaveVolumeSuite):
    backend = SyncDoesNothing


class TestSyncDoesNothingInSimulator(_SaveVolumes, SaveVolumeInSimulator):
    backend = SyncDoesNothing


class PutLeavesHalf(CachedSaveVolume):
    """A record is stored piece by piece, and a close (or the end of the process) leaves what is there."""

    def put(self, key, parts):
        super().put(key, parts)
        self.__dict__.setdefault("halves", set()).add(key)

    def sync(self):
        super().sync()
        self.__dict__.pop("halves", None)

    def close(self):
        for key in self.__dict__.get("halves", ()):
            data = self._store.records.get(key)
            if data is not None:
                self._store.records[key] = data[: len(data) // 2]
        super().close()


class TestPutLeavesHalf(_SaveVolumes, SaveVolumeSuite):
    backend = PutLeavesHalf


class SwapIsNotAtomic(CachedSaveVolume):
    """It looks, and then it changes; two threads meet between."""

    _meeting = threading.Barrier(2)

    def swap(self, cell, value, expected_version):
        version = self.load(cell).version
        if version != expected_version:
            raise SwapConflictError(f"cell {cell} is at {version}")
        if cell == "count":
            try:
                self._meeting.wait(0.05)
            except threading.BrokenBarrierError:
                self._meeting.reset()
        while True:
            try:
                MemorySaveVolume.swap(self, cell, value, self.load(cell).version)
            except SwapConflictError:
                continue
            return expected_version + 1


class TestSwapIsNotAtomic(_SaveVolumes, SaveVolumeSuite):
    backend = SwapIsNotAtomic


class SwapLooksAtNoVersion(CachedSaveVolume):
    def swap(self, cell, value, expected_version):
        MemorySaveVolume.swap(self, cell, value, self.load(cell).version)
        return expected_version + 1


class TestSwapLooksAtNoVersion(_SaveVolumes, SaveVolumeSuite):
    backend = SwapLooksAtNoVersion


class ListMisses(CachedSaveVolume):
    def list(self, prefix):
        keys = super().list(prefix)
        return keys[:-1] if len(keys) > 3 else keys


class TestListMisses(_SaveVolumes, SaveVolumeSuite):
    backend = ListMisses


class TestListMissesInSimulator(_SaveVolumes, SaveVolumeInSimulator):
    backend = ListMisses


class BelievesItsBytes(CachedSaveVolume):
    """Reads without a checksum."""


class TestBelievesItsBytes(_SaveVolumes, SaveVolumeSuite):
    backend = BelievesItsBytes
    has_rot = True


class ReadsDeletedRecords(CachedSaveVolume):
    def delete(self, keys):
        keys = list(keys)
        graves = self.__dict__.setdefault("graves", {})
        graves.update({key: self._store.records[key] for key in keys if key in self._store.records})
        super().delete(keys)

    def get(self, key, start=0, stop=None):
        graves = self.__dict__.get("graves", {})
        if key in graves and key not in self._store.records:
            return memoryview(graves[key])[start:stop]
        return super().get(key, start, stop)


class TestReadsDeletedRecords(_SaveVolumes, SaveVolumeSuite):
    backend = ReadsDeletedRecords
