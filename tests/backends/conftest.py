"""A file save volume that a test opens as often as it likes."""

import pytest

from replkit.backends.file.savevolume import FileSaveVolume
from replkit.contracts.registry import SaveVolumeOptions

CAPACITY = 32 << 20


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "save"


@pytest.fixture
def opened(directory):
    """Open the save volume, again and again; all are closed at the end."""
    held = []

    def open_again():
        for save in held:
            save.close()
        options = SaveVolumeOptions(capacity_bytes=CAPACITY, create=True)
        held.append(FileSaveVolume(directory, f"file://{directory}", options))
        return held[-1]

    yield open_again
    for save in held:
        save.close()
