"""Our own backends in the simulator, by the suites that plugin authors subclass (X3, U4)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from replkit.backends.memory import forget
from replkit.contracts.registry import Registry, default_registry
from replkit.contracts.transport import Transport
from replkit.contracts.volume import Capability
from replkit.testing.plugged.devices import PluggedDevices, SavePlug, VolumePlug
from replkit.testing.plugged.story import run_story
from replkit.testing.sim.topology import Devices
from replkit.testing.simulator_suite import SaveVolumeInSimulator, TransportInSimulator, VolumeInSimulator
from replkit.testing.worlds import SaveVolumeWorld, VolumeWorld

_numbers = itertools.count()


@pytest.mark.requirement("X3", "U4")
class TestFileVolume(VolumeInSimulator):
    resizes = Capability.NATIVE

    @pytest.fixture
    def world(self, registry: Registry, tmp_path: Any) -> VolumeWorld:
        return VolumeWorld(registry=registry, url=f"file://{tmp_path}/disk")


@pytest.mark.requirement("X3", "U4")
class TestMemorySaveVolume(SaveVolumeInSimulator):
    @pytest.fixture
    def world(self, registry: Registry, request: pytest.FixtureRequest) -> Any:
        forget(request.node.name)
        yield SaveVolumeWorld(registry=registry, url=f"memory:{request.node.name}")
        forget(request.node.name)


@pytest.mark.requirement("X3", "U4")
class TestLocalTransport(TransportInSimulator):
    def make_transport(self) -> Transport:
        return default_registry().open_transport("local:any")

    def make_url(self) -> str:
        return f"local:simulated-{next(_numbers)}"


@pytest.mark.slow
class TestMemoryVolume(VolumeInSimulator):
    resizes = Capability.NATIVE
    block_size = 4096

    @pytest.fixture
    def world(self, registry: Registry, request: pytest.FixtureRequest) -> Any:
        forget(request.node.name)
        yield VolumeWorld(registry=registry, url=f"memory:{request.node.name}")
        forget(request.node.name)


@pytest.mark.slow
class TestFileSaveVolume(SaveVolumeInSimulator):
    @pytest.fixture
    def world(self, registry: Registry, tmp_path: Any) -> SaveVolumeWorld:
        return SaveVolumeWorld(registry=registry, url=f"file://{tmp_path}/save")


@pytest.mark.slow
class TestTcp(TransportInSimulator):
    def make_transport(self) -> Transport:
        return default_registry().open_transport("tcp://127.0.0.1:0")

    def make_url(self) -> str:
        return "tcp://127.0.0.1:0"


@pytest.mark.requirement("X3")
def test_a_seed_gives_the_same_run_whatever_backend_is_plugged_in(registry: Registry, tmp_path: Any) -> None:
    """The simulator's own devices, and a file, a save volume and a transport in their place: one and the same trace."""

    def open_volume(size_bytes: int, block_size: int, create: bool) -> Any:
        size = size_bytes if create else None
        return registry.open_volume(f"file://{tmp_path}/disk", size_bytes=size, block_size=block_size, create=create)

    def open_save(create: bool) -> Any:
        return registry.open_save_volume(f"memory:{tmp_path.name}", create=create)

    plugged = PluggedDevices(
        "b",
        volume=VolumePlug(open_volume),
        save=SavePlug(open_save),
        transport=(registry.open_transport("local:any"), lambda: f"local:same-{next(_numbers)}"),
        resizes=Capability.NATIVE,
    )
    bare, with_plugin = run_story(3, Devices()), run_story(3, plugged)
    forget(tmp_path.name)
    assert with_plugin.counts["crashes"] > 0
    assert with_plugin.trace_hash == bare.trace_hash
    assert run_story(4, Devices()).trace_hash != bare.trace_hash
