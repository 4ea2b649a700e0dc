"""A site that runs the next version of replkit: what it may say that this version does not know, and what it may not.

There is one version of each format. What can be held against the code is its rule: a hello offers versions and may have
more fields, as may a refusal, an argument of a call and a result; a record of another format is refused, and stays as
it is. So a site of the next version offers two versions, says more, and still speaks this one; or it speaks this one
no more, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from replkit.contracts.savevolume import CellValue
from replkit.errors import CorruptRecordError, ReplkitError
from replkit.rcp import messages as m
from replkit.replication.cells import ROOT, ROOT_FORMAT
from replkit.replication.primary import PrimaryReplica
from replkit.replication.secondary import SecondaryReplica
from replkit.testing.crashing import PowerFailure
from replkit.testing.sim.checker import Checker
from replkit.testing.sim.sites import VOLUME
from replkit.testing.sim.topology import FaultSite, Topology
from replkit.testing.sim.workload import Event

BOTH: Final = (m.VERSION + 1, m.VERSION)
ONLY_NEXT: Final = (m.VERSION + 1,)


class Versions:
    """Restarts sites as the next version and back."""

    def __init__(self, world: Topology, checker: Checker) -> None:
        self.world, self.checker = world, checker
        self.actions: dict[str, Callable[[FaultSite, Event], object]] = {
            "upgrade": lambda site, event: self._become(site, ONLY_NEXT if event.a else BOTH),
            "downgrade": lambda site, _event: self._become(site, ()),
            "newer format": self._open_newer_format,
        }

    def calm(self) -> None:
        """A version that speaks no version of its peers is replaced by one that does; the world stays mixed."""
        for name in self.world.net.offers:
            self.world.net.offers[name] = BOTH

    def _become(self, site: FaultSite, offers: tuple[int, ...]) -> None:
        if offers:
            self.world.net.offers[site.name] = offers
        else:
            self.world.net.offers.pop(site.name, None)
        site.reopen()

    def _open_newer_format(self, site: FaultSite, _event: Event) -> None:
        """This version meets a root that the next one wrote: a typed error, and nothing is changed (invariant 12)."""
        if site.needs_restart:
            return
        try:
            site.stop()
        except PowerFailure:
            site.crash()
            return
        records, cells = before = site.store.state()
        root = cells[ROOT]
        newer = {**msgspec.json.decode(root.value), "format": ROOT_FORMAT + 1, "added_later": {"a": [1]}}
        written = (records, {**cells, ROOT: CellValue(msgspec.json.encode(newer), root.version)})
        site.store.become(written)
        disk = bytes(site.stack.content)
        try:
            self._expect_refusal(site, is_primary=newer["role"] == "primary")
            if site.store.state() != written or bytes(site.stack.content) != disk:
                self.checker.fail(12, site.name, "a save volume of a newer format was changed by a version before it")
        finally:
            site.store.become(before)
            site.forget_root()
            site.start()

    def _expect_refusal(self, site: FaultSite, *, is_primary: bool) -> None:
        runtime, hooks = self.world.runtime, site.hooks
        replica: PrimaryReplica | SecondaryReplica
        try:
            if is_primary:
                replica = PrimaryReplica.open(site.disk, site.save, runtime, hooks, VOLUME)
            else:
                replica = SecondaryReplica.open(site.disk, site.save, runtime, hooks, VOLUME, site=site.name)
        except CorruptRecordError as error:
            if f"format {ROOT_FORMAT + 1}" not in str(error):
                self.checker.fail(12, site.name, f"of a newer format it is said: {error}")
        except (ReplkitError, PowerFailure):
            return  # a fault that was planned came first
        else:
            self.checker.fail(12, site.name, f"opened a save volume of a newer format: {replica.root.last}")
