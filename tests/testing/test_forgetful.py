"""The forgetful wrappers pass the suites, and forget exactly what was not synced when their process was killed."""

import pytest

from replkit.contracts.registry import default_registry
from replkit.contracts.volume import Capability
from replkit.errors import InvalidArgumentError, NotFoundError
from replkit.testing.savevolume_suite import SaveVolumeSuite, SaveVolumeWorld
from replkit.testing.simulator_suite import SaveVolumeInSimulator, VolumeInSimulator
from replkit.testing.volume_suite import BLOCK, VolumeSuite, VolumeWorld, block, read
from replkit.testing.worlds import run_and_kill

PLUGIN = "replkit.testing.forgetful"


@pytest.fixture
def registry():
    return default_registry([PLUGIN])


@pytest.fixture
def volumes(registry, tmp_path):
    """Nothing is to do to lose power: whoever opens it next takes back what was not flushed."""
    return VolumeWorld(registry=registry, url=f"forgetful+file://{tmp_path}/disk", lose_power=lambda: None)


@pytest.fixture
def save_volumes(registry, tmp_path):
    return SaveVolumeWorld(registry=registry, url=f"forgetful+file://{tmp_path}/save", lose_power=lambda: None)


class TestForgetfulVolume(VolumeSuite):
    discards = tells_in_use = resizes = Capability.NATIVE
    between_processes = True
    plugins = (PLUGIN,)

    @pytest.fixture
    def world(self, volumes):
        return volumes


class TestForgetfulSaveVolume(SaveVolumeSuite):
    between_processes = True
    plugins = (PLUGIN,)

    @pytest.fixture
    def world(self, save_volumes):
        return save_volumes


@pytest.mark.slow
class TestForgetfulVolumeInSimulator(VolumeInSimulator):
    """The file backend when the machine really loses what was not flushed."""

    resizes = Capability.NATIVE

    @pytest.fixture
    def world(self, volumes):
        return volumes


@pytest.mark.slow
class TestForgetfulSaveVolumeInSimulator(SaveVolumeInSimulator):
    @pytest.fixture
    def world(self, save_volumes):
        return save_volumes


def test_it_is_loaded_on_request_only():
    with pytest.raises(NotFoundError):
        default_registry().open_volume("forgetful+file:///nowhere")


def test_a_killed_process_loses_unflushed_writes(registry, tmp_path):
    url = f"forgetful+file://{tmp_path}/disk"
    run_and_kill(
        f"""
v = registry.open_volume(url, size_bytes=64 * {BLOCK}, create=True)
v.write(0, b"1" * {BLOCK * 4})
v.flush()
v.write(1, b"2" * {BLOCK})
v.discard(2, 1)
v.write(2, b"3" * {BLOCK})
v.write(9, b"4" * {BLOCK})
""",
        url,
        [PLUGIN],
    )
    with registry.open_volume(f"file://{tmp_path}/disk", read_only=True) as raw:
        assert read(raw, 1) == block(ord("2"))  # other processes see the page cache
    with registry.open_volume(url) as again:
        assert read(again, 0, 10) == block(ord("1"), 4) + block(0, 6)


def test_a_killed_process_loses_unsynced_puts_and_deletes(registry, tmp_path):
    url = f"forgetful+file://{tmp_path}/save"
    run_and_kill(
        """
s = registry.open_save_volume(url, create=True)
s.put("sets/a/0", [b"kept"])
s.sync()
s.put("sets/a/1", [b"lost"])
s.delete(["sets/a/0"])
s.swap("root", b"durable", 0)
assert s.list("") == ["sets/a/1"]
""",
        url,
        [PLUGIN],
    )
    with registry.open_save_volume(url) as again:
        assert again.list("") == ["sets/a/0"]
        assert bytes(again.get("sets/a/0")) == b"kept"
        assert again.load("root").value == b"durable"


def test_some_may_survive(registry, tmp_path):
    url = f"forgetful+file://{tmp_path}/disk?survive=1"
    run_and_kill(
        f'v = registry.open_volume(url, size_bytes={BLOCK}, create=True)\nv.write(0, b"1" * {BLOCK})', url, [PLUGIN]
    )
    with registry.open_volume(url) as again:
        assert read(again, 0) == block(ord("1"))


@pytest.mark.parametrize("query", ["survive=2", "survive=x", "other=1"])
def test_other_options_are_refused(registry, tmp_path, query):
    with pytest.raises(InvalidArgumentError):
        registry.open_volume(f"forgetful+file://{tmp_path}/disk?{query}", size_bytes=BLOCK, create=True)
