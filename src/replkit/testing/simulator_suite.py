"""A plugin in the simulator: subclass, define the fixture ``world`` (or make a transport), and run pytest.

::

    class TestMyVolumeInTheSimulator(VolumeInSimulator):
        @pytest.fixture
        def world(self, registry, tmp_path):
            return VolumeWorld(registry=registry, url=f"mine:{tmp_path}/disk")

One site of a simulated replication has its volume, or its save volume, in the backend; or all sites talk over the
transport. The standard scenarios (copy, rounds of writes, cuts and playback, failover, resync, failback) run from a
seed, without and with power failures, and random events too; the simulator's checker, which knows nothing of the code,
looks on. The worlds are those of the conformance suites.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import pytest

from replkit.contracts.transport import Transport
from replkit.contracts.volume import BlockVolume, Capability
from replkit.testing.plugged.devices import PluggedDevices, SavePlug, VolumePlug
from replkit.testing.plugged.story import run_random, run_story
from replkit.testing.sim.topology import Devices
from replkit.testing.worlds import SaveVolumeWorld, VolumeWorld

EVENTS = 400
CAPACITY = 64 << 20


class _Scenarios:
    """What each of the three runs; ``devices`` is where the plugin comes in."""

    @pytest.mark.parametrize("at", ["a", "b"])
    def test_the_standard_scenarios(self, devices: PluggedDevices, at: str) -> None:
        """Copy, rounds, failover, resync and failback, at either of two sites."""
        outcome = run_story(1, devices.moved(at), faults=False)
        assert outcome.counts["epochs"] == 3, "a failover and a failback are two more epochs"

    @pytest.mark.parametrize("seed", [1, 2])
    def test_the_standard_scenarios_under_faults(self, devices: PluggedDevices, seed: int) -> None:
        """The same with power failures, cut links and errors; what was made durable is there after each."""
        outcome = run_story(seed, devices.moved("ab"[seed % 2]))
        assert outcome.counts["crashes"] > 0, "no power failure happened"

    @pytest.mark.parametrize("seed", [4, 6])
    def test_random_events_break_no_invariant(self, devices: PluggedDevices, seed: int) -> None:
        """All that users, operators and fate can do, drawn from the seed."""
        assert run_random(seed, EVENTS, devices).events >= EVENTS


class VolumeInSimulator(_Scenarios):
    """A plugin's volume is the disk of a site (X3, U4)."""

    resizes = Capability.NONE
    keeps_bytes = True
    """Whether another opener, after a close, meets the bytes again."""
    block_size = 512
    """The smallest block that the backend can have."""

    @pytest.fixture
    def devices(self, world: VolumeWorld) -> Devices:
        """The world's volume at site ``a``."""

        def open_volume(size_bytes: int, block_size: int, create: bool) -> BlockVolume:
            return world.open(size_bytes=size_bytes if create else None, block_size=block_size, create=create)

        volume = VolumePlug(
            open_volume,
            block_size=self.block_size,
            keeps_bytes=self.keeps_bytes,
            lose_power=world.lose_power,
        )
        return PluggedDevices(volume=volume, resizes=self.resizes)


class SaveVolumeInSimulator(_Scenarios):
    """A plugin's save volume is that of a site (X3, U4)."""

    keeps_bytes = True

    @pytest.fixture
    def devices(self, world: SaveVolumeWorld) -> Devices:
        """The world's save volume at site ``a``."""
        save = SavePlug(
            lambda create: world.open(capacity_bytes=CAPACITY if create else None, create=create),
            keeps_bytes=self.keeps_bytes,
            lose_power=world.lose_power,
        )
        return PluggedDevices(save=save)


class TransportInSimulator(_Scenarios, ABC):
    """A plugin's transport is between all sites (X3, U4)."""

    @abstractmethod
    def make_transport(self) -> Transport:
        """The transport under test."""

    @abstractmethod
    def make_url(self) -> str:
        """A URL where nothing listens yet."""

    @pytest.fixture
    def devices(self) -> Devices:
        """The transport for every link."""
        return PluggedDevices(transport=(self.make_transport(), self.make_url))


__all__ = ["SaveVolumeInSimulator", "TransportInSimulator", "VolumeInSimulator"]
