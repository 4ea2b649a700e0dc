"""The independent checker: after each event it compares what sites claim with what is known by itself."""

from __future__ import annotations

from typing import Any

import msgspec

from replkit.errors import ReplkitError
from replkit.replication.cells import Member, MemberProgress, Root, sent_cell
from replkit.replication.secondary import SecondaryReplica
from replkit.testing.sim.following import SecondaryChecks
from replkit.testing.sim.model import read_all
from replkit.testing.sim.record import CHECKS, BrokenInvariantError, differ
from replkit.testing.sim.topology import FaultSite


class Checker(SecondaryChecks):
    """All checks: those of primaries, of snapshots and of the healed world are here."""

    def look(self, site: FaultSite, *, closely: bool = False) -> None:
        """Every invariant that can be seen at a site now; ``closely`` reads views and snapshots too."""
        replica = site.replica
        if replica is None or site.needs_restart:
            return
        root = site.durable_root()
        if root.epoch not in self.promotions:
            self._learn_epoch(site, root)
        if isinstance(replica, SecondaryReplica):
            self._look_at_secondary(site, replica, root, closely)
        elif root.role == "primary":
            self._look_at_primary(site, root, closely)
        snapshots = (root.snapshots, root.epoch)
        before = self._checked_snapshots.get(site.name, ((), 0))
        if before[0] != snapshots or (closely and before[1] != site.stack.sequence):  # else they show what they showed
            self._checked_snapshots[site.name] = (snapshots, site.stack.sequence)
            self._check_snapshots(site, root)
        self.checks += 1

    def _look_at_primary(self, site: FaultSite, root: Root, closely: bool) -> None:
        users = self.users.get(site.name)
        if users is not None and root.last.identity != users.last:
            if root.last.identity in self.boundaries:
                users.last = root.last.identity
            else:  # the store did not say whether the set was committed: it was, and nobody was told
                self._register(site, root.last)
        states = tuple((each.name, each.state, each.copy_id) for each in root.members)
        before = self._states.get(site.name)
        if states != before:
            known = {name: (state, copy_id) for name, state, copy_id in before or ()}
            self._check_stale(site, root, {name: state for name, (state, _copy_id) in known.items()})
            self._learn_copies(root, known)
            self._states[site.name] = states
        for partition in ("sets", "areas"):
            store: Any = site.store
            if store.used_bytes(partition) > store.capacity_bytes(partition):
                self.fail(11, site.name, f"{partition} hold more than their quota")
        here = ("primary", root.first_kept, root.last.number, states)
        if closely or self._looked.get(site.name) != here:
            self._looked[site.name] = here
            self._check_kept(site, root)
        for member in root.members:
            self._check_acknowledged(site, root, member)

    def _learn_copies(self, root: Root, before: dict[str, tuple[str, str]]) -> None:
        """Which full copies a command asked for; one that lost its snapshot begins again under another id."""
        for member in root.members:
            if member.difference is None and member.needs_copy and member.copy_id not in self._copies:
                state, copy_id = before.get(member.name, ("", ""))
                if member.name in self._asked or (state == "copying" and copy_id in self._copies):
                    self._asked.discard(member.name)
                    self._copies.add(member.copy_id)

    def _check_stale(self, site: FaultSite, root: Root, before: dict[str, str]) -> None:
        """Invariant 11: whoever stops keeping sets for a member says so, loudly."""
        told = site.told
        fresh = [
            each.name for each in root.members if each.state == "stale" and before.get(each.name) not in {None, "stale"}
        ]
        if fresh and told <= self._told.get(site.name, 0):
            self.fail(11, site.name, f"members {fresh} went stale in silence")
        self._told[site.name] = told

    def _check_acknowledged(self, site: FaultSite, root: Root, member: Member) -> None:
        target = self._member_site(site, member)
        cell = site.store.load(sent_cell(member.name))
        if target is None or not cell.value:
            return
        its = target.durable_root()
        if its.role != "secondary" or its.epoch != root.epoch or not its.is_at_boundary or target.replica is None:
            return
        progress = msgspec.json.decode(cell.value, type=MemberProgress)
        received, played = progress.received_by(member, root), progress.played_by(member, root)
        if received is not None and received.number > its.last.number:
            self.fail(7, member.name, f"acknowledged {received}, only {its.last} is durable")
        if isinstance(target.replica, SecondaryReplica) and played is not None and not target.needs_restart:
            position = target.replica.player.position
            if played.number > position.number:
                self.fail(7, member.name, f"acknowledged {played} as played, only {position} is")

    def _check_kept(self, site: FaultSite, root: Root) -> None:
        """Invariant 7: what a member has not played is there, unless it is stale or a later set spans it."""
        first_kept, members = self._kept.get(site.name, (root.first_kept, {}))
        self._kept[site.name] = (root.first_kept, {each.name: each.copy_id for each in root.members})
        if root.given_up is not None or root.first_kept == first_kept:
            return
        for member in root.members:
            target = self._member_site(site, member)
            if target is None or member.state != "following" or members.get(member.name) != member.copy_id:
                continue
            its = target.durable_root()
            if its.epoch != root.epoch or not its.is_at_boundary or its.role != "secondary" or target.needs_restart:
                continue
            if not isinstance(target.replica, SecondaryReplica) or target.replica.player.position.number < member.hold:
                continue
            played = target.replica.player.position.number
            spanned = any(span.first <= played + 1 < root.first_kept <= span.last for span in root.spans)
            if played + 1 < root.first_kept and not spanned:
                self.fail(7, site.name, f"trimmed up to {root.first_kept}, {member.name} has played {played}")

    def _member_site(self, site: FaultSite, member: Member) -> FaultSite | None:
        target = site.faults.fault_sites.get(member.url.removeprefix("sim:"))
        if target is None or target.name in self.replaced_sites:
            return None
        return None if target is site else target

    def _check_snapshots(self, site: FaultSite, root: Root) -> None:
        replica = site.replica
        assert replica is not None
        snapped = replica.volume if isinstance(replica, SecondaryReplica) else replica.volume.snapped
        for record in root.snapshots:
            wanted = self._salvages.get((site.name, record.name))
            if wanted is not None and not record.valid:
                self.fail(9, site.name, f"salvage {record.name} was invalidated")
            if not record.valid:
                if not record.why_invalid and record.held:
                    self.fail(4, site.name, f"held snapshot {record.name} is invalid and says no reason")
                continue
            if wanted is None and record.at_boundary and record.stamp is not None:
                known = self.boundaries.get(record.stamp.identity)
                wanted = known.image if known is not None else None
            try:
                content = read_all(snapped.open_snapshot(record.name))
            except ReplkitError:
                continue
            if wanted is None:  # at no boundary that is known: what it showed first it has to show always
                made = (site.name, record.name, record.created_s)
                wanted = self._snapshots.setdefault(made, content)
            if content[: len(wanted)] != wanted[: len(content)]:
                number = 9 if (site.name, record.name) in self._salvages else 4
                self.fail(
                    number,
                    site.name,
                    f"snapshot {record.name} differs from what it was made of: {differ(wanted, content)[:10]}",
                )
        names = {record.name for record in root.snapshots}
        for made in [made for made in self._snapshots if made[0] == site.name and made[1] not in names]:
            del self._snapshots[made]
        for owner, name in list(self._salvages):
            if owner == site.name and name not in names:
                self.fail(9, site.name, f"salvage {name} is gone")

    def expect_salvage(self, site: FaultSite, name: str, content: bytes) -> None:
        """A replica left its history: what it held must stay readable under this name."""
        if name:
            self._salvages.setdefault((site.name, name), content)

    def drop_salvage(self, site: FaultSite, name: str) -> None:
        """A command deleted it."""
        self._salvages.pop((site.name, name), None)

    def check_equal(self, primary: FaultSite, members: list[FaultSite]) -> None:
        """After healing every site equals the primary, and the primary is what its users wrote (invariant 9)."""
        image = bytes(self.users[primary.name].image)
        wrong = differ(image, primary.stack.content)
        if wrong:
            self.fail(1, primary.name, f"the volume is not what was written in sectors {wrong[:10]}")
        for member in members:
            wrong = differ(image, member.stack.content)
            if wrong:
                self.fail(9, member.name, f"differs from the primary in sectors {wrong[:10]} after all is healed")


__all__ = ["CHECKS", "BrokenInvariantError", "Checker"]
