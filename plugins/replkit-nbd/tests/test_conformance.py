"""The conformance suite of block volumes, and the simulator, over exports of our own server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from replkit.contracts.registry import Registry
from replkit.contracts.volume import BlockVolume, Capability
from replkit.site.nbd import Export, NbdServer
from replkit.testing.simulator_suite import VolumeInSimulator
from replkit.testing.volume_suite import VolumeSuite
from replkit.testing.worlds import VolumeWorld


class Served(VolumeWorld):
    """An export appears when the suite creates the volume: NBD itself cannot make one."""

    def prepare(self, folder: Path, server: NbdServer) -> None:
        self.folder, self.server = folder, server
        self.under: BlockVolume | None = None

    def open(self, **options: object) -> BlockVolume:
        if options.pop("create", False) and self.under is None and not options.get("read_only"):
            self.under = Registry().open_volume(f"file://{self.folder}/disk", create=True, **options)
            self.server.add_export("disk", Export(volume=self.under))
        return super().open(**options)


@pytest.fixture
def world(registry: Registry, tmp_path: Path) -> Iterator[VolumeWorld]:
    server = NbdServer({}, f"unix:{tmp_path}/s", on_error=lambda what, error: None)
    server.start()

    def peek(at: int, size: int) -> bytes:
        return (tmp_path / "disk").read_bytes()[at : at + size]

    def poke(at: int, data: bytes) -> None:
        with (tmp_path / "disk").open("r+b") as file:
            file.seek(at)
            file.write(data)

    world = Served(registry=registry, url=f"nbd+unix:///disk?socket={tmp_path}/s", peek=peek, poke=poke)
    world.prepare(tmp_path, server)
    yield world
    server.stop()
    if world.under is not None:
        world.under.close()


class TestNbdVolume(VolumeSuite):
    discards = Capability.NATIVE
    tells_in_use = Capability.NATIVE


class TestNbdVolumeInTheSimulator(VolumeInSimulator):
    """An export is the disk of a site: copies, cuts, failover, resync and failback go over NBD."""
