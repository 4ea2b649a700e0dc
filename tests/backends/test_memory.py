"""The memory backend passes the suites."""

import pytest

from replkit.backends.memory import forget
from replkit.contracts.volume import Capability
from replkit.testing.savevolume_suite import SaveVolumeSuite, SaveVolumeWorld
from replkit.testing.volume_suite import VolumeSuite, VolumeWorld


@pytest.fixture
def name(request):
    forget(request.node.name)
    yield request.node.name
    forget(request.node.name)


@pytest.mark.requirement("U1", "U2")
class TestMemoryVolume(VolumeSuite):
    discards = tells_in_use = resizes = Capability.NATIVE

    @pytest.fixture
    def world(self, registry, name):
        return VolumeWorld(registry=registry, url=f"memory:{name}")


@pytest.mark.requirement("U1", "U2")
class TestMemorySaveVolume(SaveVolumeSuite):
    @pytest.fixture
    def world(self, registry, name):
        return SaveVolumeWorld(registry=registry, url=f"memory:{name}")


def test_a_forgotten_volume_is_gone(registry, name):
    registry.open_volume(f"memory:{name}", size_bytes=8192, create=True).write(0, b"x" * 4096)
    forget(name)
    volume = registry.open_volume(f"memory:{name}", size_bytes=4096, create=True)
    buffer = bytearray(4096)
    volume.read_into(0, buffer)
    assert buffer == bytes(4096)
