"""What an operator does about disasters: failover, resync, rewind, handover; and the one that heals a world."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from replkit.errors import ReplkitError
from replkit.recovery.handover import begin_handover, cancel_handover
from replkit.recovery.leftbehind import delete_left_behind
from replkit.recovery.resync import full_copy
from replkit.recovery.salvage import SALVAGE, delete_salvage
from replkit.recovery.states import State, state_of
from replkit.replication.cells import Root
from replkit.replication.primary import PrimaryReplica
from replkit.replication.secondary import SecondaryReplica
from replkit.testing.crashing import PowerFailure
from replkit.testing.sim.checker import Checker
from replkit.testing.sim.sites import VOLUME
from replkit.testing.sim.topology import FaultSite, Topology
from replkit.testing.sim.workload import Event

IMPATIENT = 6
"""With so much patience spent an operator gives up handovers that do not end, and room that snapshots hold."""


class Commands:
    """Changes of role, each told to the checker before it is made."""

    def __init__(self, world: Topology, checker: Checker) -> None:
        self.world, self.checker = world, checker
        self.actions: dict[str, Callable[[FaultSite, Event], object]] = {
            "promote": self._promote,
            "begin-epoch": self._begin_epoch,
            "resync": lambda site, event: self.resync(site, self._site(event.other)),
            "rewind": lambda site, event: self.resync(site, self._site(event.other), rewind=True),
            "handover": self._hand_over,
            "cancel": lambda site, _event: cancel_handover(site.primary),
            "full-copy": self._full_copy,
            "drop-salvage": self._drop_salvage,
            "operate": lambda _site, event: Operator(self).pass_once(0 if event.a else IMPATIENT),
        }

    def _site(self, name: str) -> FaultSite:
        return self.world.fault_sites[name]

    def _promote(self, site: FaultSite, event: Event) -> None:
        self.promote(site, "now" if event.a else "received", f"p{event.b}")

    def promote(self, site: FaultSite, mode: str, request: str, *, force: bool = False) -> None:
        """Failover to a site; with ``force`` also to one that granted its role to a site that is lost."""
        before, crashes = site.durable_root(), site.crashes
        with self._allowed(site):
            site.secondary.promote(mode, None, request, force=force)  # type: ignore[arg-type]
            self.checker.promoted(site, before, site.crashes != crashes)
            site.reopen()

    def _begin_epoch(self, site: FaultSite, event: Event) -> None:
        with self._allowed(site):
            site.primary.begin_epoch(f"e{event.b}")
            self.checker.look(site)

    @contextmanager
    def _allowed(self, site: FaultSite) -> Iterator[None]:
        """A new epoch may begin in the command, or in the crash that ends it: a swap that failed may have been made."""
        with self.checker.allowing(site.name):
            try:
                yield
            except PowerFailure:
                site.crash()
            except ReplkitError:
                if site.needs_restart:
                    site.crash()
                elif (site.durable_root().role == "primary") != site.is_primary:  # made, and no answer came
                    site.reopen()
                else:
                    self.checker.look(site)
                raise

    def resync(self, site: FaultSite, primary: FaultSite, *, rewind: bool = False) -> None:
        """A site returns to a primary; what it held beyond the fork is expected as salvage."""
        replica, crashes = site.replica, site.crashes
        users = self.checker.users.get(site.name)
        image = bytes(users.image) if users is not None else None
        before = site.durable_root().resync
        if replica is None or site is primary:
            return
        try:
            self.world.resync(site, primary, rewind=rewind)
        except PowerFailure:
            site.crash()
        finally:
            now = site.durable_root().resync
            if now is not None and now != before and (before is None or before.salvage != now.salvage):
                known = image if image is not None and site.crashes == crashes else bytes(site.stack.content)
                self.checker.expect_salvage(site, now.salvage, known)

    def _hand_over(self, site: FaultSite, event: Event) -> None:
        self.checker.handovers.add(f"h{event.b}")
        begin_handover(site.primary, event.other, f"h{event.b}", own_url=site.url, own_name=site.name)

    def _full_copy(self, site: FaultSite, _event: Event) -> None:
        full_copy(site.secondary)
        site.reopen()

    def _drop_salvage(self, site: FaultSite, _event: Event) -> None:
        replica = site.replica
        assert replica is not None
        snapped = replica.volume if isinstance(replica, SecondaryReplica) else replica.volume.snapped
        names = [record.name for record in snapped.snapshots() if record.name.startswith(SALVAGE)]
        resync = replica.root.resync
        if names and (resync is None or resync.salvage != names[0]):
            self.checker.drop_salvage(site, names[0])
            delete_salvage(replica.parts, snapped, names[0].removeprefix(SALVAGE))


class Operator:
    """Looks at all sites and does the next thing that brings them back to one primary and its members."""

    def __init__(self, commands: Commands) -> None:
        self._commands, self._world, self._checker = commands, commands.world, commands.checker
        self._sites = list(self._world.fault_sites.values())
        self.full_copies = 0

    def pass_once(self, patience: int = 0) -> None:
        """One look; ``patience`` counts the looks that changed nothing: full copies come last."""
        if patience > 3:
            self._make_room(patience)
        winner = self.winner()
        if winner is None:
            self._choose_primary(patience)
            return
        root = winner.primary.root
        if root.fenced is not None or self._is_contested(winner, root):
            self._commands.actions["begin-epoch"](
                winner, Event("begin-epoch", winner.name, b=self._checker.next_stamp())
            )
            return
        if root.handover is not None and patience > 4:
            cancel_handover(winner.primary)
        if root.paused:
            winner.primary.resume()
        if any(each.name == winner.name for each in root.members):  # a clone of its former primary
            winner.primary.remove_member(winner.name)
        for site in self._sites:
            if site is not winner and site.replica is not None:
                try:
                    self._bring_back(site, winner, patience)
                except ReplkitError as error:
                    site.hooks.errors.append(f"operator: {type(error).__name__}: {error}")

    def winner(self) -> FaultSite | None:
        """The primary with the highest epoch; of equal ones the one with the most sets."""
        primaries = [
            each for each in self._sites if isinstance(each.replica, PrimaryReplica) and not each.needs_restart
        ]
        return max(primaries, key=_rank, default=None)

    def _is_contested(self, winner: FaultSite, root: Root) -> bool:
        """Whether another primary, or another promotion of the same count, is known anywhere: a new epoch decides."""
        for site in self._sites:
            epoch = site.durable_root().epoch
            if site is not winner and site.is_primary and epoch.count >= root.epoch.count:
                return True
            if epoch.count == root.epoch.count and epoch != root.epoch:
                return True
        return False

    def _choose_primary(self, patience: int) -> None:
        """Nobody is a primary: a granted role may be on its way; else the best member is promoted.

        A site that granted its role comes last, unless the one that has it now has lost what it had and cannot take it.
        """
        roots = [(each, each.durable_root()) for each in self._sites]
        granted = [each for each, root in roots if state_of(root) is State.GRANTED]
        if granted and patience < IMPATIENT:
            return
        standing = [each for each, root in roots if root.role == "secondary" and root.is_at_boundary]
        takers = [each for each in standing if each not in granted or self._is_grant_lost(each.durable_root())]
        if standing:
            best = max(takers or standing, key=_rank)
            mode = "now" if patience % 2 else "received"
            self._commands.promote(best, mode, f"o{self._checker.next_stamp()}", force=best in granted)

    def _is_grant_lost(self, root: Root) -> bool:
        """Whether the role was granted to a site that has lost what it had, so that it cannot take it."""
        if root.handover is None:
            return False
        member = next(each for each in self._sites if each.url == root.handover.peer).durable_root()
        return member.role == "secondary" and (not member.is_at_boundary or member.last != root.last)

    def _make_room(self, patience: int) -> None:
        """Where playback or a writer waits for room for before-images, the oldest held snapshots go, salvage last.

        Where a cut finds no room, what a failover left behind goes.
        """
        for site in self._sites:
            replica, errors = site.replica, site.hooks.errors[-3:]
            is_told = any("left behind, take room" in error for error in errors)
            if is_told and isinstance(replica, PrimaryReplica) and replica.root.branches:
                delete_left_behind(replica)
            if replica is None or not any("WouldWait" in error for error in errors):
                continue
            snapped = replica.volume if isinstance(replica, SecondaryReplica) else replica.volume.snapped
            kinds = ("user-", "verify.", "view.") if patience < 8 else ("user-", "verify.", "view.", SALVAGE)
            for record in snapped.snapshots():
                if record.name.startswith(kinds) and record.valid:
                    self._checker.drop_salvage(site, record.name)
                    snapped.delete_snapshot(record.name)
                    break

    def _bring_back(self, site: FaultSite, winner: FaultSite, patience: int) -> None:
        root, primary = site.durable_root(), winner.primary
        member = next((each for each in primary.root.members if each.name == site.name), None)
        if site.is_primary:
            self._commands.resync(site, winner)
        elif root.resync is not None:
            if root.resync.peer != winner.url:
                self._commands.resync(site, winner)
            elif patience > 10:
                self._copy(site, winner)
        elif not root.is_at_boundary:
            if member is None or (patience > 10 and patience % 5 == 0):
                self._copy(site, winner)
        elif root.epoch != primary.root.epoch or member is None or (patience > 6 and patience % 5 == 0):
            if patience > 12 and patience % 5 == 0:
                self._copy(site, winner)
            else:
                self._commands.resync(site, winner)
        elif member.state == "stale":
            self._catch_up(site, winner)
        elif member.state == "paused":
            primary.resume(site.name)

    def _catch_up(self, site: FaultSite, winner: FaultSite) -> None:
        try:
            winner.primary.members.catch_up(site.name)
        except ReplkitError:
            self._copy(site, winner)

    def _copy(self, site: FaultSite, winner: FaultSite) -> None:
        """The last resort, and the first thing for a new site."""
        if site.durable_root().resync is not None:
            full_copy(site.secondary)
            site.reopen()
        if site.durable_root().base is not None:
            self.full_copies += 1
        self._checker.ask_copy(site.name)
        if any(each.name == site.name for each in winner.primary.root.members):
            winner.primary.copy_again(site.name)
        else:
            winner.primary.add_member(site.name, site.url, VOLUME)


def _rank(site: FaultSite) -> tuple[int, int, str]:
    root = site.durable_root()
    return (root.epoch.count, root.last.number, site.name)
