"""Checks of a secondary: its views, its disk, its history, its status against what is durable."""

from __future__ import annotations

import msgspec

from replkit.contracts.position import Position
from replkit.errors import InconsistentError, ReplkitError
from replkit.recovery.boundary import Boundaries
from replkit.replication.cells import Root
from replkit.replication.secondary import SecondaryReplica
from replkit.testing.sim.model import read_all
from replkit.testing.sim.record import Record, differ
from replkit.testing.sim.topology import FaultSite


class SecondaryChecks(Record):
    """What can be seen at a secondary (invariants 5, 6, 7, 8, 10, 13)."""

    def compare_view(self, name: str, position: Position, content: bytes) -> None:
        """A view that somebody holds is the boundary that it says it is (invariant 5)."""
        self._compare(5, name, position, content)

    def _look_at_secondary(self, site: FaultSite, replica: SecondaryReplica, root: Root, closely: bool) -> None:
        name = site.name
        if root.inconsistent is not None and root.inconsistent.base is None:
            self._check_copy_asked(site, root.inconsistent.copy_id)
        if root.role != "secondary":
            return
        if not root.is_at_boundary:
            if closely:
                self._check_unreadable(site, replica)
            return
        position = replica.player.position
        here = (root.last.identity, position.identity, replica.player.is_at_rest, root.epoch)
        if self._looked.get(name) != here:
            self._looked[name] = here
            self._ascend(f"{name} received", root.epoch.count, root.last.number, 5)
            self._ascend(f"{name} played", root.epoch.count, position.number, 5)
            self._check_history(site, root)
            if replica.player.is_at_rest:
                self._compare(6, name, position, bytes(site.stack.content[: site.disk.size_bytes]))
                self._check_durable(site, position)
            closely = True
        if closely:
            self._check_view(site, replica)
            self._check_status(site, replica, root, position)
            past = (root.last, root.first_kept, root.snapshots)
            if self._checked_past.get(name) != past:
                self._checked_past[name] = past
                self._check_past(site, replica, root)

    def _check_durable(self, site: FaultSite, position: Position) -> None:
        """Invariant 7: what is said to be played would be there after a power failure now."""
        durable = site.stack.durable
        wanted = self.boundaries.get(position.identity)
        if wanted is not None and len(wanted.image) == len(durable) and wanted.image != durable:
            self.fail(
                7, site.name, f"{position} is played, but sectors {differ(wanted.image, durable)[:10]} are not durable"
            )

    def _check_view(self, site: FaultSite, replica: SecondaryReplica) -> None:
        try:
            view = replica.view()
            boundary, content = view.boundary, read_all(view)
        except InconsistentError:
            return
        except ReplkitError:  # a bad sector or a rotted record: told, not hidden
            return
        self._compare(5, site.name, boundary, content)

    def _check_past(self, site: FaultSite, replica: SecondaryReplica, root: Root) -> None:
        """Every boundary that ``restore`` and ``export --at`` offer is what it says (X2)."""
        volume = replica.volume
        past = Boundaries(
            site.save, lambda: root, volume.open_snapshot, volume.delete_snapshot, lambda _name: None,
            site.faults.runtime, volume.block_count,
        )  # fmt: skip
        try:
            for moment in past.moments():
                boundary = past.open(moment.position.number)
                if boundary is not None:
                    content = read_all(boundary)
                    boundary.close()
                    self._compare(5, site.name, moment.position, content)
        except ReplkitError:  # a bad sector, a rotted record, or trimmed meanwhile: told, not hidden
            return

    def _check_unreadable(self, site: FaultSite, replica: SecondaryReplica) -> None:
        try:
            read_all(replica.view())
        except ReplkitError:
            return
        self.fail(6, site.name, "can be read in the middle of a copy or a resync")

    def _check_status(self, site: FaultSite, replica: SecondaryReplica, root: Root, position: Position) -> None:
        status = replica.status()
        if status["received"] != root.last.number or status["identity"] != root.last.identity:
            self.fail(13, site.name, f"status says {status['position']}, durable is {root.last}")
        if int(str(status["played"])) > position.number or status["epoch"] != root.epoch.count:
            self.fail(13, site.name, f"status says played {status['played']}, durable is {position}")
        cell = site.store.load("playing")
        playing = msgspec.json.decode(cell.value) if cell.value else {}
        durable = root.base.position.number if root.base is not None else 0
        if root.base is not None and playing.get("copy_id") == root.base.copy_id:
            durable = playing["position"][1]
        if int(str(status["played"])) > durable:
            self.fail(13, site.name, f"status says played {status['played']}, the cell has {durable}")

    def _compare(self, invariant: int, name: str, position: Position, content: bytes) -> None:
        wanted = self.boundaries.get(position.identity)
        if wanted is None:
            self.fail(5, name, f"stands at {position}, which nobody ever cut")
            return
        image = wanted.image
        if invariant == 5:  # a view has the size of the volume, which follows when the set is played
            image, content = image[: len(content)], content[: len(image)]
        if content != image:
            self.fail(invariant, name, f"differs from {position} in sectors {differ(image, content)[:10]}")

    def _ascend(self, key: str, epoch: int, number: int, invariant: int) -> None:
        now = (epoch, number)
        if now < self._highest.get(key, (0, 0)) and not self.replaced_sites:
            self.fail(invariant, key, f"fell from {self._highest[key]} to {now}")
        self._highest[key] = now

    def _check_history(self, site: FaultSite, root: Root) -> None:
        """Invariant 8: where a site stands is in the history of its epoch, or is the history before that began."""
        began = self.promotions.get(root.epoch)
        known, fork = self.boundaries.get(root.last.identity), self.boundaries.get(began or "")
        if known is None or fork is None:
            return
        if known.number > fork.number:
            if known.epoch != root.epoch:
                self.fail(
                    8, site.name, f"stands at {root.last} of epoch {known.epoch.count} in epoch {root.epoch.count}"
                )
            return
        if self.replaced_sites:  # clones share epochs and numbers, not identities: a hello does not tell them apart
            return
        at = began or ""
        while at and self.boundaries[at].number > known.number:
            at = self.boundaries[at].parent
        if at != root.last.identity:
            self.fail(8, site.name, f"stands at {root.last}, which is not in the history of epoch {root.epoch.count}")

    def _check_copy_asked(self, site: FaultSite, copy_id: str) -> None:
        if copy_id not in self._copies and site.name not in self.replaced_sites:
            self.fail(10, site.name, f"a full copy {copy_id} is made that no command asked for")
