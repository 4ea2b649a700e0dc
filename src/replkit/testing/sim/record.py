"""What a simulation knows by itself: naive full images of every boundary, users' ledgers, promotions, commands.

It believes nothing that the code says of itself: it knows what was issued, what the disks hold, and what the roots
claim. A position is known by its identity, so forks of history are just other positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, NoReturn

import msgspec

from replkit.contracts.position import Epoch, Position
from replkit.errors import ReplkitError
from replkit.recovery.salvage import SALVAGE
from replkit.replication.cells import Root
from replkit.replication.set_reader import SetReader
from replkit.testing.sim.devices import SECTOR
from replkit.testing.sim.model import InvariantError
from replkit.testing.sim.topology import FaultSite
from replkit.testing.sim.users import Users

CHECKS = {
    1: "an acknowledged flush is never lost",
    2: "a set has every block that differs between its boundaries",
    3: "the volume is flushed before the set that carries its blocks is committed",
    4: "a snapshot is whole or visibly invalid",
    5: "a secondary always equals one boundary, and never falls",
    6: "what is unfinished is neither read nor promoted, and a pass is redone after a crash",
    7: "acknowledged means durable, and nothing is trimmed that a member needs",
    8: "the highest epoch wins, and nothing of an older one becomes visible",
    9: "after recovery the volume is the boundary at failover and later writes; the rest is salvage",
    10: "nothing that can destroy data runs on its own",
    11: "full stores push back or say what they gave up",
    12: "wrong input is met with a typed error",
    13: "status claims nothing that is not durable",
}
"""Number of the invariant (DESIGN section 8), and what its check says."""


CONTRACT = -1
"""In the place of the number of an invariant: a backend broke its contract."""


class BrokenInvariantError(InvariantError):
    """A check failed; ``invariant`` is its number, 0 for the last one: that a healed world converges."""

    def __init__(self, invariant: int, site: str, text: str) -> None:
        super().__init__(f"invariant {invariant} ({CHECKS.get(invariant, 'convergence')}): {site}: {text}")
        self.invariant = invariant


class BrokenContractError(BrokenInvariantError):
    """A backend that was plugged in answered what its contract forbids."""

    def __init__(self, site: str, text: str) -> None:
        InvariantError.__init__(self, f"contract of the backend at {site}: {text}")
        self.invariant = CONTRACT


class Boundary(NamedTuple):
    """What the model knows of a position."""

    number: int
    epoch: Epoch
    parent: str
    image: bytes


class Record:
    """Watches a topology. ``blind`` names checks that are left out, to prove that each is needed."""

    def __init__(self, blind: frozenset[int] = frozenset()) -> None:
        self.blind = blind
        self.boundaries: dict[str, Boundary] = {}
        self.users: dict[str, Users] = {}
        self.promotions: dict[Epoch, str] = {}
        """Epoch: identity of the position at which it began."""
        self.handovers: set[str] = set()
        """Ids of handovers that a command began."""
        self.replaced_sites: set[str] = set()
        """Sites that were cloned over or rolled back: what they had acknowledged may be gone."""
        self.on_closing: Callable[[FaultSite], None] = lambda _site: None
        self._allowed: set[str] = set()
        self._asked: set[str] = set()
        """Sites for which a full copy was asked and has no id yet."""
        self._copies: set[str] = set()
        """Ids of full copies that a command asked for."""
        self._stamp = 0
        self._highest: dict[str, tuple[int, int]] = {}
        self._salvages: dict[tuple[str, str], bytes] = {}
        self._snapshots: dict[tuple[str, str, float], bytes] = {}
        """Site, name and time of a snapshot at no known boundary: what it showed when it was seen first."""
        self._looked: dict[str, tuple[object, ...]] = {}
        self._checked_snapshots: dict[str, tuple[tuple[object, ...], int]] = {}
        self._checked_past: dict[str, tuple[object, ...]] = {}
        self._states: dict[str, tuple[tuple[str, str, str], ...]] = {}
        self._told: dict[str, int] = {}
        self.failure: BrokenInvariantError | None = None
        self._kept: dict[str, tuple[int, dict[str, str]]] = {}
        self.checks = 0

    def fail(self, invariant: int, site: str, text: str) -> None:
        """The invariant is broken."""
        if invariant not in self.blind:
            error = BrokenInvariantError(invariant, site, text)
            self.failure = self.failure or error  # the code under test may catch it: then it is raised after the event
            raise error

    def blame(self, site: str, text: str) -> NoReturn:
        """A backend that was plugged in has broken its contract."""
        error = BrokenContractError(site, text)
        self.failure = self.failure or error
        raise error

    def freeze(self, site: FaultSite) -> None:
        """A cut comes: keep the image."""
        users = self.users.get(site.name)
        if users is not None:
            users.freeze(site.stack)
            wrong = differ(users.frozen, site.stack.content)
            if wrong:
                self.fail(1, site.name, f"the volume is not what was written in sectors {wrong[:10]}")

    def was_cut(self, site: FaultSite, position: Position) -> None:
        """A set was committed at a primary."""
        users = self.users[site.name]
        oldest = site.stack.oldest_pending
        if oldest is not None and oldest <= users.frozen_sequence:
            self.fail(3, site.name, f"write {oldest} is not flushed, set {position} was cut at {users.frozen_sequence}")
        parent = self.boundaries[users.last]
        self._register(site, position)
        users.committed()
        self._check_delta(site, position, parent.image)

    def _check_delta(self, site: FaultSite, position: Position, before: bytes) -> None:
        size, after = site.disk.block_size, self.boundaries[position.identity].image
        try:
            reader = SetReader(site.save, lambda: site.primary.root, site.disk.block_count)
            has = {
                n for piece in reader.block_list(position.number) for n in range(piece.start, piece.start + piece.count)
            }
        except ReplkitError:  # a rotted record, read just now
            return
        missing = [
            block
            for block in range(len(after) // size)
            if block not in has and _block(after, block, size) != _block(before, block, size)
        ]
        if missing:
            self.fail(2, site.name, f"set {position} lacks blocks {missing[:10]}, which differ from the set before")

    def _register(self, site: FaultSite, position: Position) -> None:
        users = self.users[site.name]
        known = self.boundaries.get(position.identity)
        if known is None:
            self.boundaries[position.identity] = Boundary(position.number, position.epoch, users.last, users.frozen)
        elif known.image != users.frozen and known.number != 0:
            self.fail(5, site.name, f"position {position} has one identity and two contents")
        users.last = position.identity

    def closing(self, site: FaultSite) -> None:
        """What was issued is in the ledger already."""
        self.on_closing(site)

    def publishing(self, site: FaultSite, value: bytes) -> None:
        """Invariant 4: what a snapshot shows is flushed before it is published, as it is read live at first."""
        oldest = site.stack.oldest_pending
        if oldest is None or not site.store.load("root").version:
            return
        known = {record.name for record in site.durable_root().snapshots}
        fresh = [each for each in msgspec.json.decode(value, type=Root).snapshots if each.name not in known]
        users = self.users.get(site.name)
        for record in fresh:
            at_cut = users is not None and not record.name.startswith(SALVAGE)
            moment = users.frozen_sequence if at_cut and users is not None else site.stack.sequence
            if record.valid and oldest <= moment:
                self.fail(4, site.name, f"snapshot {record.name} is published, and write {oldest} is not flushed")

    def next_stamp(self) -> int:
        """A number that was not used before."""
        self._stamp += 1
        return self._stamp

    def ask_copy(self, name: str) -> None:
        """A command asks for a full copy at a site."""
        self._asked.add(name)

    @contextmanager
    def allowing(self, name: str) -> Iterator[None]:
        """A command begins an epoch at a site."""
        self._allowed.add(name)
        try:
            yield
        finally:
            self._allowed.discard(name)

    def replaced(self, site: FaultSite) -> None:
        """Another machine's, or an older, state is at this site now."""
        self.replaced_sites.add(site.name)
        root = site.durable_root()
        if root.role == "primary":
            self.users[site.name] = Users(bytes(site.stack.content), root.last.identity)

    def crashed(self, site: FaultSite) -> None:
        """Invariants 1 and 3: each sector holds its last flushed or committed value, or a later one."""
        self._forget(site)
        users = self.users.get(site.name)
        if users is None:
            return
        wrong = users.crashed(site.stack)
        if wrong:
            self.fail(1, site.name, f"sectors {wrong[:10]} lost what was flushed or committed")

    def started(self, site: FaultSite) -> None:
        """Roles are read off the roots; after a crash the change log covers what differs (invariant 2)."""
        self._forget(site)
        root = site.durable_root()
        self._learn_epoch(site, root)
        if not site.is_primary:
            self.users.pop(site.name, None)
            return
        users = self.users.get(site.name)
        if users is None:
            self._begin(site, root)
            return
        if root.last.identity not in self.boundaries:
            self._register(site, root.last)
        users.last = root.last.identity
        self._check_change_log(site, root)

    def _check_change_log(self, site: FaultSite, root: Root) -> None:
        before, now = self.boundaries[root.last.identity].image, site.stack.content
        if root.given_up is not None or len(before) != len(now):
            return
        size, changed = site.disk.block_size, site.primary.volume.changelog.current
        for block in range(len(now) // size):
            part = slice(block * size, (block + 1) * size)
            if now[part] != before[part] and block not in changed:
                self.fail(2, site.name, f"after a restart block {block} differs from {root.last} and is not in the log")

    def _begin(self, site: FaultSite, root: Root) -> None:
        """A site became a primary: users find the boundary at failover there (invariant 9)."""
        content = bytes(site.stack.content)
        if not self.boundaries:
            self.boundaries[root.last.identity] = Boundary(0, root.epoch, "", content)
        wanted = self.boundaries.get(root.last.identity)
        if wanted is None:
            self.fail(9, site.name, f"became a primary at {root.last}, which nobody ever cut")
        elif wanted.image != content:
            self.fail(
                9,
                site.name,
                f"became a primary at {root.last} with another content in {differ(wanted.image, content)[:10]}",
            )
        self.users[site.name] = Users(content, root.last.identity)

    def _learn_epoch(self, site: FaultSite, root: Root) -> None:
        if root.epoch in self.promotions or not root.history:
            return
        if root.role == "secondary" and (root.handover is None or root.handover.phase != "granted"):
            self.fail(8, site.name, f"knows epoch {root.epoch.count}, which no command began")
        if self.promotions:
            if site.name not in self._allowed and (root.handover is None or root.handover.id not in self.handovers):
                self.fail(10, site.name, f"began epoch {root.epoch.count} without a command")
            if any(epoch.count >= root.epoch.count for epoch in self._ancestors(root)):
                self.fail(8, site.name, f"began epoch {root.epoch.count}, which is not above all that it had seen")
        start = root.restart if root.restart is not None and root.role == "primary" else root.last
        self.promotions[root.epoch] = start.identity

    @staticmethod
    def _ancestors(root: Root) -> list[Epoch]:
        return [entry.epoch for entry in root.history[:-1]]

    def promoted(self, site: FaultSite, before: Root, crashed: bool) -> None:
        """A promotion was asked for: it must be refused in the middle of a copy or a resync (invariant 6)."""
        root = site.durable_root()
        if not before.is_at_boundary and before.role == "secondary" and root.role == "primary" and not crashed:
            self.fail(6, site.name, "was promoted in the middle of a copy or a resync")

    def forget_site(self, site: FaultSite) -> None:
        """The site was cloned or rolled back: what it had is not expected there any more."""
        self._forget(site)
        self.users.pop(site.name, None)
        for key in [key for key in self._highest if key.startswith(f"{site.name} ")]:
            del self._highest[key]
        for pair in [pair for pair in self._salvages if pair[0] == site.name]:
            del self._salvages[pair]
        for made in [made for made in self._snapshots if made[0] == site.name]:
            del self._snapshots[made]
        self._states.pop(site.name, None)
        self._kept.pop(site.name, None)

    def _forget(self, site: FaultSite) -> None:
        self._looked.pop(site.name, None)
        self._checked_snapshots.pop(site.name, None)


def differ(left: bytes | bytearray, right: bytes | bytearray) -> list[int]:
    """Numbers of the sectors in which two images differ."""
    if left == right:
        return []
    count = max(len(left), len(right)) // SECTOR
    return [n for n in range(count) if left[n * SECTOR : (n + 1) * SECTOR] != right[n * SECTOR : (n + 1) * SECTOR]]


def _block(image: bytes, block: int, size: int) -> bytes:
    return image[block * size : (block + 1) * size].ljust(size, b"\0")
