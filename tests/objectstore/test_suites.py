"""The save volume over an object store passes the suite of all save volumes; here the store is in memory."""

from __future__ import annotations

import pytest

from replkit.backends.s3.host import ThreadHost
from replkit.objectstore.memory import MemoryObjectStore
from replkit.objectstore.opening import open_save_volume
from replkit.testing.savevolume_suite import SaveVolumeSuite, SaveVolumeWorld


@pytest.mark.requirement("S1", "S2")
class TestObjectSaveVolume(SaveVolumeSuite):
    @pytest.fixture
    def world(self, registry):
        objects = {}

        def open_one(url, options):
            return open_save_volume(MemoryObjectStore(url, objects), options, ThreadHost())

        def rot(data):
            ((key, place),) = [(key, where) for key, held in objects.items() if (where := held.find(data)) >= 0]
            rotten = bytearray(objects[key])
            rotten[place] ^= 1
            objects[key] = bytes(rotten)

        registry.add_save_volume_scheme("bucket", open_one)
        return SaveVolumeWorld(registry=registry, url="bucket:save", rot=rot)
