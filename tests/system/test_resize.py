"""A volume is resized while it is replicated, by command; it is opened again with its new size (X5)."""

from __future__ import annotations

import os
import signal

import pytest

from replkit.errors import LinkClosedError
from replkit.site.nbd.client import NbdClient

from .test_site import SIZE, World, follows


@pytest.mark.requirement("X5")
def test_a_volume_grows_and_its_secondary_follows_through_restarts(tmp_path):
    world = World(tmp_path)
    try:
        world.start(world.a)
        world.start(world.b)
        world.write(0, os.urandom(1 << 20))
        world.ask("replica", "add", "disk", "b", world.b.url)
        follows(world)
        assert world.ask("resize", "disk", str(2 * SIZE))["size_bytes"] == 2 * SIZE
        world.write(2 * SIZE - 4096, b"beyond".ljust(4096))
        world.ask("wait", "disk", "--played", "--timeout", "60")
        assert world.b.image.read_bytes() == world.a.image.read_bytes()
        assert world.volume()["size_bytes"] == 2 * SIZE
        assert any(f"size is {2 * SIZE}" in line for line in world.volume()["drift"])
        with NbdClient(world.a.nbd_address, "disk") as client:
            assert client.size_bytes == 2 * SIZE
        world.is_so(lambda: exported(world.b) == 2 * SIZE, "the secondary's view has the new size")
        os.kill(world.pid("primary.disk"), signal.SIGKILL)
        world.daemons["b"].kill()
        world.start(world.b)
        world.is_so(lambda: not world.volume().get("problem"), "it is opened with its new size")
        assert world.volume()["size_bytes"] == 2 * SIZE
        assert "gets no smaller" in world.run("resize", "disk", "16MiB", code=2)
        assert "secondary here" in world.run("resize", "disk", "1GiB", site=world.b, code=2)
    finally:
        world.stop()


def exported(site):
    """The size that a new client sees; ``None`` while the export is being served again."""
    try:
        with NbdClient(site.nbd_address, "disk") as client:
            return client.size_bytes
    except LinkClosedError:
        return None
