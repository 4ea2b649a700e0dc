"""The restore of a snapshot step by step: stopped anywhere it goes on; no set is cut and nobody served meanwhile."""

from __future__ import annotations

import os

import pytest

from replkit.contracts.position import Epoch
from replkit.contracts.registry import default_registry
from replkit.errors import WrongRoleError
from replkit.replication.primary import PrimaryReplica
from replkit.site.restoring import PrimaryRestoring
from replkit.site.runtime import SiteRuntime

BLOCK = 4096
BLOCKS = 256


class Site:
    """A primary on files, opened again and again."""

    def __init__(self, folder):
        self.folder, self.served = folder, []
        self.registry = default_registry()

    def open(self):
        self.volume = self.registry.open_volume(
            (self.folder / "disk").as_uri(), size_bytes=BLOCKS * BLOCK, block_size=BLOCK, create=True
        )
        self.save = self.registry.open_save_volume(
            (self.folder / "save").as_uri(), capacity_bytes=64 << 20, create=True
        )
        self.primary = PrimaryReplica.open(self.volume, self.save, SiteRuntime(), self.registry.hooks, "disk")
        self.restoring = PrimaryRestoring(
            self.primary, self.save, close_export=lambda: self.served.append("closed"),
            open_export=lambda: self.served.append("open"), step_bytes=8 * BLOCK,
        )  # fmt: skip

    def crash(self):
        """The restore ends where it is, nothing is made durable any more."""
        self.restoring.stop()
        self.primary.close(clean=False)
        self.save.close()

    def image(self):
        return (self.folder / "disk").read_bytes()


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    site.open()
    site.primary.volume.write(0, os.urandom(128 * BLOCK))
    site.primary.cut("then")
    yield site
    site.crash()


def stop_after(site, steps):
    """Let the restore of this opening stop after so many swaps of its cell."""
    swap, ending, left = site.restoring._cell.set, site.restoring._ending, [steps]

    def counted(value):
        swap(value)
        left[0] -= 1
        if left[0] <= 0:
            ending.set()

    site.restoring._cell.set = counted


@pytest.mark.requirement("P6")
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_restore_that_was_cut_short_goes_on_in_the_next_opening(site, steps):
    site.primary.volume.flush()
    then = site.image()
    for block in range(0, BLOCKS, 2):
        site.primary.volume.write(block, os.urandom(BLOCK))
    stop_after(site, steps)
    site.restoring.begin("then")
    site.restoring._thread.join(30)
    assert site.restoring.is_pending
    site.primary.volume.flush()
    assert site.image() != then
    assert site.served == ["closed"], "nobody is served a volume that is half restored"
    assert site.primary.volume.snapped.snapshot("then").held
    before = site.primary.root.last.number
    site.crash()
    site.open()
    assert site.restoring.is_pending
    assert site.restoring.resume()
    site.restoring._thread.join(30)
    assert site.restoring.progress()["done"], site.restoring.progress()
    assert site.image() == then
    assert site.served == ["closed", "open"]
    assert site.primary.root.last.number == before + 1, "one set, after the end"
    assert not site.primary.volume.snapped.snapshot("then").held, "it was not held before"
    assert not site.restoring.resume()


@pytest.mark.requirement("P6", "R9")
def test_a_restore_of_an_epoch_that_is_over_is_not_gone_on_with(site):
    for block in range(BLOCKS):
        site.primary.volume.write(block, os.urandom(BLOCK))
    stop_after(site, 2)
    site.restoring.begin("then")
    site.restoring._thread.join(30)
    site.crash()
    site.open()
    site.primary.begin_epoch()
    assert not site.restoring.resume()
    assert site.restoring.snapshot == ""


@pytest.mark.requirement("P6", "R9")
def test_a_volume_that_takes_no_writes_is_not_restored(site):
    site.primary.fence(Epoch(9, "x"))
    with pytest.raises(WrongRoleError, match="on its way to another site"):
        site.restoring.begin("then")
    assert not site.restoring.is_pending
    assert site.served == []
