"""The file backend passes the suites; the oracle is the plain file."""

import pytest

from replkit.contracts.volume import Capability
from replkit.testing.savevolume_suite import SaveVolumeSuite, SaveVolumeWorld
from replkit.testing.volume_suite import VolumeSuite, VolumeWorld


@pytest.mark.requirement("U1", "U2", "U4")
class TestFileVolume(VolumeSuite):
    discards = tells_in_use = resizes = Capability.NATIVE
    between_processes = True

    @pytest.fixture
    def world(self, registry, tmp_path):
        path = tmp_path / "disk with space%"

        def peek(offset, size):
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(size)

        def poke(offset, data):
            with path.open("r+b") as file:
                file.seek(offset)
                file.write(data)

        url = "file://" + str(path).replace("%", "%25").replace(" ", "%20")
        return VolumeWorld(registry=registry, url=url, peek=peek, poke=poke)


@pytest.mark.requirement("U1", "U2", "U4", "S1")
class TestFileSaveVolume(SaveVolumeSuite):
    between_processes = True

    @pytest.fixture
    def world(self, registry, tmp_path):
        directory = tmp_path / "save"

        def rot(data):
            places = [(path, path.read_bytes().find(data)) for path in directory.iterdir()]
            ((path, offset),) = [(path, offset) for path, offset in places if offset >= 0]
            with path.open("r+b") as file:
                file.seek(offset)
                file.write(bytes([data[0] ^ 1]))

        return SaveVolumeWorld(registry=registry, url=f"file://{directory}", rot=rot)
