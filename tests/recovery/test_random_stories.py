"""Three sites to which anything happens, from a seed: failovers, handovers, returns, crashes, broken links (R1-R9)."""

from __future__ import annotations

import random

import pytest

from replkit.errors import ReplkitError
from replkit.recovery.handover import begin_handover
from replkit.replication.root import read_root
from replkit.testing.crashing import PowerFailure
from replkit.testing.sim.model import read_all
from replkit.testing.sim.sites import BLOCK, Site, Sites

BLOCKS = 96
ACTS = 40


class Story:
    """Random acts; what a refused one changes is nothing, and a power failure ends only its machine."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = Sites("abc", seed=seed, blocks=BLOCKS)
        self.sites = list(self.world.sites.values())
        self.acts = {
            "write": 8,
            "cut": 4,
            "rounds": 10,
            "failover": 2,
            "handover": 2,
            "return": 4,
            "crash": 2,
            "link": 2,
        }
        self.done: dict[str, int] = dict.fromkeys(self.acts, 0)
        self.written: set[tuple[str, int]] = set()

    def run(self) -> None:
        world = self.world
        world.a.write(0, b"0" * 40 * BLOCK)
        world.follow(world.a, world.b, world.c)
        for number in range(ACTS):
            (what,) = self.random.choices(list(self.acts), list(self.acts.values()))
            site = self.random.choice(self.sites)
            try:
                getattr(self, f"do_{what}")(site, number)
                self.done[what] += 1
            except PowerFailure:
                site.crash()
            except ReplkitError as error:
                site.hooks.errors.append(str(error))
            self.follow_roles()
            self.check()

    def follow_roles(self) -> None:
        for site in self.sites:
            if site.replica is not None and (read_root(site.save).role == "primary") != site.is_primary:
                site.reopen()

    def do_write(self, site: Site, number: int) -> None:
        if site.is_primary and not site.primary.volume.stats()["writes_suspended"]:
            start = self.random.randrange(BLOCKS - 4)
            site.write(start, bytes([number + 1]) * BLOCK * self.random.randrange(1, 5))
            if self.random.random() < 0.5:
                site.primary.volume.flush()

    def do_cut(self, site: Site, _number: int) -> None:
        if site.is_primary:
            site.primary.cut()

    def do_rounds(self, _site: Site, _number: int) -> None:
        for _ in range(self.random.randrange(1, 25)):
            self.world.round()

    def do_failover(self, site: Site, number: int) -> None:
        if not site.is_primary:
            site.secondary.promote(self.random.choice(["received", "now"]), request_id=f"f{number}")  # type: ignore[arg-type]

    def do_handover(self, site: Site, number: int) -> None:
        if site.is_primary and site.primary.root.members:
            member = self.random.choice(site.primary.root.members).name
            begin_handover(site.primary, member, f"h{number}", own_url=site.url, own_name=site.name)

    def do_return(self, site: Site, _number: int) -> None:
        winner = self.winner()
        if winner is not None and winner is not site:
            self.world.resync(site, winner, rewind=self.random.random() < 0.2)

    def do_crash(self, site: Site, _number: int) -> None:
        site.power.fail_at(self.random.randrange(1, 60))

    def do_link(self, site: Site, _number: int) -> None:
        self.world.network.down ^= {site.url}
        self.world.network.break_links(site.url)

    def winner(self) -> Site | None:
        """The primary of the highest epoch, if there is one."""
        primaries = [site for site in self.sites if site.replica is not None and site.is_primary]
        return max(primaries, key=lambda site: site.primary.root.epoch, default=None)

    def check(self) -> None:
        """Invariants 5, 6 and 8, from outside."""
        epochs = [read_root(site.save).epoch for site in self.sites if read_root(site.save).role == "primary"]
        assert len(set(epochs)) == len(epochs), "two primaries in one epoch"
        for site in self.sites:
            if site.replica is not None and not site.is_primary and not site.secondary.root.is_at_boundary:
                with pytest.raises(ReplkitError):
                    read_all(site.secondary.view())

    def heal(self) -> Site:
        """Mend everything, decide for one primary as an operator would, and bring the others back to it."""
        world = self.world
        world.network.down.clear()
        for site in self.sites:
            site.power.fail_at(None)
            site.crash()
        for _ in range(60):
            world.round()
        winner = self.winner()
        if winner is None:
            standing = [site for site in self.sites if site.secondary.root.is_at_boundary]
            winner = max(standing, key=lambda site: (site.secondary.root.epoch, site.secondary.root.last.number))
            winner.secondary.promote()
            winner.reopen()
        for site in self.sites:
            winner.primary.fence(read_root(site.save).epoch)
        if winner.primary.root.fenced is not None:
            winner.primary.begin_epoch("decided")
        for site in self.sites:
            for _ in range(30):
                if site is winner or self.is_member(winner, site):
                    break
                try:
                    world.resync(site, winner)
                except ReplkitError as error:
                    site.hooks.errors.append(str(error))
                    world.round()
                    winner = self.winner() or winner
        return winner

    def is_member(self, winner: Site, site: Site) -> bool:
        if site.is_primary:
            return False
        resync = site.secondary.root.resync
        if resync is not None:
            return resync.peer == winner.url and site.secondary.root.epoch == winner.primary.root.epoch
        return any(member.name == site.name for member in winner.primary.root.members) and world_knows(winner, site)

    def has_converged(self) -> bool:
        winner = self.winner()
        if winner is None or sum(site.is_primary for site in self.sites) != 1:
            return False
        if winner.primary.volume.dirty_blocks:
            winner.primary.cut()
        names = {member.name for member in winner.primary.root.members}
        others = [site for site in self.sites if site is not winner]
        return all(site.name in names and self.world.is_equal(winner, site) for site in others)


def world_knows(winner: Site, site: Site) -> bool:
    return site.secondary.root.epoch == winner.primary.root.epoch


@pytest.mark.requirement("R1", "R2", "R3", "R4", "R6", "R7", "R9")
@pytest.mark.parametrize("seed", range(40))
def test_whatever_happened_the_sites_come_together_again(seed: int) -> None:
    story = Story(seed)
    story.run()
    story.heal()
    story.world.settle(story.has_converged, rounds=1500)
    contents = {site.content for site in story.sites}
    assert len(contents) == 1
