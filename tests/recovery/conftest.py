"""``--stores bucket-disk``: the stories of recovery with site a in a bucket, site b on a disk, site c as a again.

    pytest tests/recovery --stores bucket-bucket

So every scenario that is told of disks is told of each mix, crashes included, with the same assertions. ``test_mixes``
tells one of them of every mix in the default run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from replkit.testing.crashing import CrashDisk
from replkit.testing.crashing_bucket import BucketDisk, BucketSave
from replkit.testing.sim import machines, sites
from replkit.testing.sim.machines import SimSaveVolume

DISKS: dict[str, Callable[..., Any]] = {"disk": CrashDisk, "bucket": BucketDisk}
SAVES: dict[str, Callable[..., Any]] = {"disk": SimSaveVolume, "bucket": BucketSave}


def in_turn(makers: Iterator[Callable[..., Any]]) -> Callable[..., Any]:
    """A maker that is another one at each call."""

    def make(*arguments: Any, **options: Any) -> Any:
        return next(makers)(*arguments, **options)

    return make


def use_stores(monkeypatch: pytest.MonkeyPatch, stores: str) -> None:
    """Each site that is made from now on takes the next kind, in turn."""
    kinds = stores.split("-")
    for module in (sites, machines):
        monkeypatch.setattr(module, "CrashDisk", in_turn(itertools.cycle([DISKS[kind] for kind in kinds])))
        monkeypatch.setattr(module, "SimSaveVolume", in_turn(itertools.cycle([SAVES[kind] for kind in kinds])))


@pytest.fixture(autouse=True)
def chosen_stores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``--stores`` says."""
    stores = request.config.getoption("--stores")
    if stores != "disk-disk":
        use_stores(monkeypatch, stores)
