"""A world for stories of recovery: small events, given again until they are done, whatever fails meanwhile.

The events are those of the simulator, so its checker looks after each. Besides, a story keeps an image of its own:
what users wrote where it must survive. In the end every site must hold just that (invariant 9), and each losing side
must show as salvage what it alone had.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from replkit.errors import ReplkitError
from replkit.recovery.salvage import SALVAGE
from replkit.replication.policy import change_policy, load_policy
from replkit.replication.primary import PrimaryReplica
from replkit.testing.sim.faults import STORE_FAULTS
from replkit.testing.sim.model import read_all
from replkit.testing.sim.simulation import STEPS, Simulation
from replkit.testing.sim.sites import Sites
from replkit.testing.sim.topology import FaultSite, Options
from replkit.testing.sim.workload import Event

from .buckets import BUCKET_FAULTS, BucketSite, make_site_in

BLOCKS = 40
ROUNDS = 240
PLAY_AT_ONCE = 9
"""Which change of a policy it is in the simulator's alphabet."""
ASK_EVERY = 12
"""Rounds after which a command that is not done is given again."""


class UnfinishedError(Exception):
    """A fault left the story where its next event cannot be done; healing shows what comes of it."""


class Variant(NamedTuple):
    """How a story is told: size of its blocks, and into how many of them users cut a write (0: none is cut)."""

    block_size: int = 512
    piece: int = 0


VARIANTS = (Variant(), Variant(512, 1), Variant(1024, 2), Variant(2048, 3))


class Story:
    """Sites ``a``, ``b``, …; ``a`` is the primary at first, the others are empty."""

    def __init__(
        self,
        names: str,
        variant: Variant = VARIANTS[0],
        *,
        blind: frozenset[int] = frozenset(),
        buckets: str = "",
    ) -> None:
        """Sites of names in ``buckets`` have their volume and save volume there."""
        self.size, self._piece = variant.block_size, variant.piece
        options = Options(names=names, blocks=BLOCKS, block_size=self.size)
        seed, make_site = 1 + VARIANTS.index(variant), make_site_in(buckets)
        self.sim = Simulation(seed, options=options, blind=blind, make_site=make_site)
        self.world, self.checker = self.sim.world, self.sim.checker
        self._look_past_faults()
        self.image = bytearray(BLOCKS * self.size)
        """What every site must hold in the end."""
        self.beyond: dict[str, dict[int, bytes]] = {}
        """Site: the blocks that it wrote and will lose, flushed."""
        self.may_copy = False
        """Whether a new copy is part of the story."""

    def _look_past_faults(self) -> None:
        look = self.checker.look

        def quietly(site: FaultSite, *, closely: bool = False) -> None:
            with ExitStack() as stack:
                for each in self.world.fault_sites.values():
                    if isinstance(each, BucketSite):
                        stack.enter_context(each.bucket.quiet())
                look(site, closely=closely)

        if any(isinstance(site, BucketSite) for site in self.world.fault_sites.values()):
            self.checker.look = quietly  # type: ignore[method-assign]

    def store_faults(self, name: str) -> tuple[str, ...]:
        """What can go wrong at the stores of a site."""
        return BUCKET_FAULTS if isinstance(self.site(name), BucketSite) else STORE_FAULTS

    def site(self, name: str) -> FaultSite:
        """A site by its name."""
        return self.world.fault_sites[name]

    def act(self, kind: str, site: str, other: str = "", a: int = 0, b: int = 0) -> None:
        """One event."""
        self.sim.apply(Event(kind, site, other, a, b))

    def round(self) -> None:
        """Every service of every site once."""
        for site in self.world.fault_sites.values():
            for name in dict.fromkeys(site.step_names()):
                self.act(STEPS, site.name, name)
        self.world.runtime.advance(0.05)

    def until(self, done: Callable[[], bool], ask: Callable[[], object] | None = None, rounds: int = ROUNDS) -> None:
        """Run all services until ``done``, with ``ask`` now and then."""
        for number in range(rounds):
            if _is(done):
                return
            if ask is not None and number % ASK_EVERY == 0:
                ask()
            if not _is(done):
                self.round()
        if not _is(done):
            raise UnfinishedError

    # -- users --

    def write(self, name: str, start: int, count: int, *, lost: bool = False, by: str = "flush") -> None:
        """Write, and flush or cut; again, until both returned and no crash came between."""
        piece = self._piece or count
        writes = [("write", at, min(piece, start + count - at)) for at in range(start, start + count, piece)]
        self._make_durable(name, writes, by)
        part = slice(start * self.size, (start + count) * self.size)
        data = bytes(self.checker.users[name].image[part])
        if lost:
            blocks = {start + at: data[at * self.size : (at + 1) * self.size] for at in range(count)}
            self.beyond.setdefault(name, {}).update(blocks)
        else:
            self.image[part] = data

    def discard(self, name: str, start: int, count: int) -> None:
        """Write, and discard, as ``write`` does."""
        self._make_durable(name, [("write", start, count), ("discard", start, count)])
        self.image[start * self.size : (start + count) * self.size] = bytes(count * self.size)

    def _make_durable(self, name: str, writes: list[tuple[str, int, int]], by: str = "flush") -> None:
        site = self.site(name)
        for _ in range(12):
            before = (site.crashes, self.sim.counts["refused"])
            for kind, start, count in writes:
                self.act(kind, name, "", start, count)
            self.act(by, name)
            if site.is_primary and before == (site.crashes, self.sim.counts["refused"]):
                return
            self.round()
        raise UnfinishedError

    def cut(self, name: str) -> None:
        """Until nothing waits to be cut."""
        self.until(lambda: not self.site(name).primary.volume.dirty_blocks, lambda: self.act("cut", name))

    def in_step(self, primary: str, *members: str) -> None:
        """Until the members have played all that was written."""

        def done() -> bool:
            at = self.site(primary)
            equal = all(Sites.is_equal(at, self.site(name)) and self._rests(name) for name in members)
            return equal and not at.primary.volume.dirty_blocks and not at.primary.cutter.is_cutting

        self.until(done, lambda: self.act("cut", primary))

    def _rests(self, name: str) -> bool:
        return self.site(name).secondary.player.is_at_rest and self.site(name).durable_root().resync is None

    def hold_playback(self, name: str) -> None:
        """Sets that arrive are not played; before the faults."""
        change_policy(self.site(name).save, play_interval_s=1e9, play_high_water_bytes=1 << 30)

    def let_play(self, name: str) -> None:
        """Sets are played at once."""
        self.until(
            lambda: load_policy(self.site(name).save).play_interval_s == 0,
            lambda: self.act("policy", name, a=PLAY_AT_ONCE),
        )

    # -- operators --

    def add(self, primary: str, *members: str) -> None:
        """New copies."""
        for name in members:
            self.until(lambda: self._knows(primary, name), lambda: self.act("add", primary, name))  # noqa: B023
        self.in_step(primary, *members)

    def cut_off(self, *names: str) -> None:
        """Nothing goes from or to these sites, in either direction."""
        for name in names:
            for other in self.world.fault_sites:
                if other != name:
                    self.act("partition", name, other)

    def mend(self) -> None:
        """All links are there again."""
        self.act("mend", next(iter(self.world.fault_sites)))

    def fail_over(self, name: str, *, now: bool = False) -> None:
        """Promote a secondary."""
        stamp, before = self.checker.next_stamp(), self.site(name).durable_root().epoch.count
        self.until(
            lambda: self.site(name).is_primary and self.site(name).durable_root().epoch.count > before,
            lambda: self.act("promote", name, "", int(now), stamp),
        )

    def resync(self, name: str, primary: str, *, rewind: bool = False, wait: bool = True) -> None:
        """An old primary returns."""

        def ask() -> None:
            root, epoch = self.site(name).durable_root(), self.site(primary).durable_root().epoch
            peer = root.resync.peer if root.resync is not None else ""
            if self.site(name).is_primary or peer not in {"", self.site(primary).url} or (
                not peer and (root.epoch != epoch or not self._knows(primary, name))
            ):  # fmt: skip
                self.act("rewind" if rewind else "resync", name, primary)

        if wait:
            self.until(lambda: not self.site(name).is_primary and self._knows(primary, name), ask)
            self.in_step(primary, name)
        else:
            self.until(lambda: self.site(name).durable_root().resync is not None, ask)

    def hand_over(self, name: str, to: str) -> None:
        """Switchover, failback, reverse: until the other is the primary, and this one its member."""
        stamp = self.checker.next_stamp()

        def ask() -> None:
            if self.site(name).is_primary and self.site(name).durable_root().handover is None:
                self.act("handover", name, to, b=stamp)

        self.until(lambda: self.site(to).is_primary and not self.site(name).is_primary and self._knows(to, name), ask)
        self.in_step(to, name)

    def _knows(self, primary: str, name: str) -> bool:
        return any(member.name == name for member in self.site(primary).primary.root.members)

    # -- the end --

    def finish(self, primary: str, *, done: bool) -> None:
        """Heal, and compare; ``done`` when the story came to its end, so that it is known who is the primary."""
        self.sim.heal()
        sites = self.world.fault_sites.values()
        if not done:
            return
        if [site.name for site in sites if site.is_primary] != [primary]:
            self.checker.fail(9, primary, "is not the primary in the end")
        for site in sites:
            if bytes(site.stack.content) != bytes(self.image):
                self.checker.fail(9, site.name, "holds something else than the boundary at failover and later writes")
        for name, blocks in self.beyond.items():
            self._check_salvage(self.site(name), blocks)
        if self.sim.counts["full copies at the end"] and not self.may_copy:
            self.checker.fail(10, primary, "only a full copy brought a site back")

    def _check_salvage(self, site: FaultSite, blocks: dict[int, bytes]) -> None:
        replica = site.replica
        assert replica is not None
        snapped = replica.volume.snapped if isinstance(replica, PrimaryReplica) else replica.volume
        for record in snapped.snapshots():
            if record.name.startswith(SALVAGE) and record.valid:
                content = read_all(snapped.open_snapshot(record.name))
                if all(content[at * self.size : (at + 1) * self.size] == data for at, data in blocks.items()):
                    return
        self.checker.fail(9, site.name, "what it had beyond the fork is in no salvage")


def _is(done: Callable[[], bool]) -> bool:
    try:
        return done()
    except (ReplkitError, KeyError):
        return False
    except AssertionError as error:
        if "is no primary" in str(error) or "is no secondary" in str(error):
            return False
        raise
