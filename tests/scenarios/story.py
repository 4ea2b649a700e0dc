"""A story: what is done at real sites, and what each of them then shows, as text that is compared with a transcript."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from replkit.contracts.position import Position
from replkit.errors import CutAbandonedError, InconsistentError, LinkClosedError, ReplkitError
from replkit.recovery.handover import begin_handover
from replkit.recovery.plan import Plan
from replkit.recovery.salvage import SALVAGE, list_salvages, open_salvage
from replkit.recovery.states import state_of
from replkit.replication.cells import Resync
from replkit.snapshot.snapped import SnappedVolume
from replkit.testing.sim.model import read_all
from replkit.testing.sim.sites import Site, Sites, block

from .ledger import Ledger, different, picture, shortened
from .tap import Tap, Transfer, count, runs

TRANSCRIPTS = Path(__file__).parent / "transcripts"
_ID = re.compile(r"\b[0-9a-f]{16,32}\b")
HELD_BACK = b'{"play_interval_s": 1e9, "play_high_water_bytes": 1000000000}'


class Story:
    """Sites, the model beside them, and the transcript so far.

    Every ``show`` holds every site against the model, so a transcript cannot be written of a state that is wrong.
    """

    def __init__(self, name: str, about: str, names: str = "ab", *, retell: bool = False, **options: int) -> None:
        self.world = Sites(names, **{"blocks": 64, **options})
        self.ledger, self.tap = Ledger(self.world), Tap(self.world)
        self._path, self._retell = TRANSCRIPTS / f"{name}.txt", retell
        self._lines = [about.strip()]
        self.lost: dict[str, bytes] = {}

    # -- telling --

    @property
    def told(self) -> str:
        """The transcript so far."""
        return "\n".join(self._lines) + "\n"

    def say(self, text: str) -> None:
        """A paragraph."""
        self._lines += ["", *textwrap.wrap(" ".join(text.split()), 100)]

    def note(self, text: str) -> None:
        """What came of something; random ids are left out."""
        self._lines += [f"  {line}" for line in _ID.sub("(id)", text).splitlines()]

    def command(self, site: str, words: str) -> None:
        """A command that an operator gives at a site."""
        self._lines += ["", f"{site}$ replkit {words}"]

    @contextmanager
    def refused(self, error: type[ReplkitError]) -> Iterator[None]:
        """What is in it must be refused; says why, and what to do."""
        try:
            yield
        except error as caught:
            self.note(f"refused: {caught.message}" + (f"\n  -> {caught.hint}" if caught.hint else ""))
        else:
            raise AssertionError(f"{error.__name__} was not raised")

    def end(self) -> None:
        """Compare with the transcript, or write it anew with ``--retell``."""
        if self._retell:
            self._path.write_text(self.told)
        kept = self._path.read_text() if self._path.exists() else ""
        assert self.told == kept, f"{self._path.name} tells another story; if this one is right: pytest --retell"

    def _act(self, words: str) -> None:
        """What users do; a blank line before the first of several."""
        if self._lines[-1] and not self._lines[-1].startswith(">"):
            self._lines.append("")
        self._lines.append(f"> {words}")

    # -- users --

    def site(self, name: str) -> Site:
        return self.world.sites[name]

    def snapped(self, name: str) -> SnappedVolume:
        """The volume of a site with its snapshots."""
        site = self.site(name)
        return site.primary.volume.snapped if site.is_primary else site.secondary.volume

    def write(self, name: str, start: int, letters: str) -> None:
        """One block a letter."""
        data = b"".join(block(letter) for letter in letters)
        self.site(name).write(start, data)
        self.ledger.write(name, start, data)
        self._act(f"{name}: write {shortened(letters)} at {runs(list(range(start, start + len(letters))))}")

    def discard(self, name: str, start: int, count: int) -> None:
        """The blocks are no longer in use."""
        self.site(name).primary.volume.discard(start, count)
        self.ledger.write(name, start, bytes(len(block("0", count))))
        self._act(f"{name}: discard {runs(list(range(start, start + count)))}")

    def cut(self, name: str, snapshot: str | None = None) -> Position:
        """Make a set of what was written."""
        position = self.site(name).primary.cut(snapshot)
        self._act(f"{name}: cut {position}" + (f", with snapshot {snapshot}" if snapshot else ""))
        return position

    def try_cut(self, name: str) -> None:
        """As ``cut``, where there may be no room for the set: then its blocks stay changed."""
        try:
            self.cut(name)
        except CutAbandonedError:
            self._act(f"{name}: cut, given up: no room in the save volume")

    # -- what happens to sites and links --

    def in_step(self, letters: str = "0123456789") -> None:
        """The first site writes, and all others have a copy of it."""
        first, *others = self.world.sites
        self.write(first, 0, letters)
        self.world.follow(self.site(first), *map(self.site, others))
        self.travelled()

    def part(self) -> None:
        """No site reaches another one."""
        self.world.network.down.update(site.url for site in self.world.sites.values())
        self.world.network.break_links()

    def meet(self) -> None:
        """They do again."""
        self.world.network.down.clear()

    def lose(self, name: str) -> None:
        """Its power fails."""
        self.site(name).stop(power=True)

    def hold_playback(self, name: str) -> None:
        """A site receives and does not play."""
        self.site(name).save.swap("policy", HELD_BACK, self.site(name).save.load("policy").version)

    def equal(self, primary: str, member: str) -> bool:
        """The member has played the newest set of the primary, and nothing waits to be cut there."""
        source, target = self.site(primary), self.site(member)
        if not source.is_primary or target.replica is None or target.is_primary:
            return False
        if source.primary.volume.dirty_blocks:
            with suppress(CutAbandonedError):  # no room yet
                source.primary.cut()
        names = [each.name for each in source.primary.root.members]
        return member in names and self.world.is_equal(source, target)

    def until(self, done: Callable[[], bool]) -> list[Transfer]:
        """Let all services run until something is so; tells what travelled."""
        self.world.settle(done)
        return self.travelled()

    def rest(self, seconds: float = 120) -> None:
        """Nobody writes for a while: services do what they do at rest."""
        for _ in range(int(seconds)):
            self.world.round()
            self.world.runtime.advance(1)
        self.travelled()

    def received(self, name: str, position: Position) -> None:
        """Let all run until a secondary shows a boundary, played or not."""
        self.until(lambda: self.site(name).secondary.view().boundary == position)

    def travelled(self) -> list[Transfer]:
        """Tell what travelled since the last time."""
        found = self.tap.news()
        for transfer in found:
            self.note(transfer.told())
        return found

    # -- operators --

    def failover(self, name: str, mode: str = "received") -> Position:
        """At a secondary; the other sites are told, where they can be reached."""
        self.command(name, "failover vol" + (" --now" if mode == "now" else ""))
        site = self.site(name)
        position = site.secondary.promote(mode)  # type: ignore[arg-type]
        site.reopen()
        self.ledger.promoted(name, position)
        root = site.primary.root
        self.note(f"{name} is the primary from {position} on, in epoch {root.epoch.count}")
        for other in self.world.sites.values():
            if other is not site:
                with suppress(LinkClosedError):
                    self.world.peer(other.url).fence(root.epoch, root.lineage)
        return position

    def resync(self, name: str, primary: str, *, rewind: bool = False) -> Resync | None:
        """At the site that returns."""
        self.command(name, f"{'rewind' if rewind else 'resync'} vol")
        site = self.site(name)
        if site.is_primary:
            self.lost[name] = bytes(self.ledger.images[name])
        made = self.world.resync(site, self.site(primary), rewind=rewind)
        if made is not None:
            how = ", by a comparison of hashes" if made.compares else ""
            self.note(f"{name} leaves its history at {made.fork} and returns to {primary}{how}")
        return made

    def hand_over(self, source: str, target: str, words: str = "failback vol") -> None:
        """The primary gives its role to a member."""
        self.command(source, words)
        site = self.site(source)
        begin_handover(site.primary, target, f"{source}-{target}", own_url=site.url, own_name=source)

    def until_swapped(self, source: str, target: str) -> None:
        """Until the member is the primary, and the former one its member."""
        written = bytes(self.ledger.images[source])
        swapped = partial(self._has_swapped, source, target)
        self.world.settle(swapped)
        self.ledger.images[target] = bytearray(written)
        self.travelled()
        self.until(lambda: self.equal(target, source))

    def _has_swapped(self, source: str, target: str) -> bool:
        return self.site(target).is_primary and not self.site(source).is_primary

    # -- what is seen --

    def show(self, *names: str) -> None:
        """Every site, or some: role, state, epoch, position, content, what is kept. All are held against the model."""
        for name in self.world.sites:
            self.ledger.check(name)
        for name in names or self.world.sites:
            self._show(name)

    def _show(self, name: str) -> None:
        site = self.site(name)
        if site.replica is None:
            self.note(f"{name}  down")
            return
        root = site.replica.root
        if site.is_primary:
            changed = site.primary.volume.dirty_blocks
            where = f"cut {root.last}" + (f", {count(changed, 'block')} changed since" if changed else "")
        elif root.is_at_boundary:
            where = f"received {root.last}, played {site.secondary.player.position}"
        else:
            where = "at no boundary"
        self.note(f"{name}  {state_of(root).value}, epoch {root.epoch.count}, {where}")
        try:
            seen = picture(site.content if site.is_primary else read_all(site.secondary.view()))
        except InconsistentError:
            seen = "(can be neither read nor promoted)"
        self.note(f"   |{seen}|")
        self._show_kept(name)

    def _show_kept(self, name: str) -> None:
        site, volume = self.site(name), self.snapped(name)
        assert site.replica is not None
        root = site.replica.root
        for record in volume.snapshots():
            if record.name.startswith(SALVAGE):
                continue
            held = ", held" if record.held else ""
            at = f"at {record.stamp}" if record.at_boundary else "at no boundary"
            self.note(f"   snapshot {record.name.split('-')[0]} {at}{held}\n   |{self._picture(volume, record.name)}|")
        for each in list_salvages(site.replica.parts, volume):
            blocks = "blocks not known one by one" if each.blocks is None else count(each.blocks, "block")
            self.note(f"   salvage, {blocks}\n   |{picture(read_all(open_salvage(volume, each.id)))}|")
        for branch in root.branches:
            self.note(f"   sets {branch.first} to {branch.last} stay readable, outside the history")

    @staticmethod
    def _picture(volume: SnappedVolume, name: str) -> str:
        return picture(read_all(volume.open_snapshot(name)))

    def salvages(self, name: str) -> list[bytes]:
        """The images of the salvages of a secondary."""
        secondary = self.site(name).secondary
        found = list_salvages(secondary.parts, secondary.volume)
        return [read_all(open_salvage(secondary.volume, each.id)) for each in found]

    def show_plan(self, plan: Plan) -> Plan:
        """What a plan says."""
        lost = "not known" if plan.lost_sets is None else count(plan.lost_sets, "set")
        undone = "not known" if plan.undone_blocks is None else count(plan.undone_blocks, "block")
        sent = (
            "not known" if plan.send_blocks is None else f"{count(plan.send_blocks, 'block')}, {plan.send_bytes} bytes"
        )
        fork = "" if plan.fork is None else f", the histories part at {plan.fork}"
        self.note(f"stands then at {plan.position}{fork}")
        self.note(
            f"lost: {lost}; undone here: {undone} in {count(plan.undone_sets, 'set')}; travels: {sent}, as {plan.way}"
        )
        return plan

    def cost(self, transfers: list[Transfer], before: bytes, after: bytes) -> tuple[set[int], set[int]]:
        """Tell what travelled against what differs by the model: the blocks of both."""
        moved = {number for each in transfers for number in each.order}
        differs = set(different(before, after))
        in_use = len(different(after, bytes(len(after))))
        self.note(f"= {count(len(differs), 'block')} differed, {len(moved)} travelled; a full copy has {in_use}")
        return moved, differs
