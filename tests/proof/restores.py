"""Stories of restore and repair: a past boundary on another disk, a snapshot in place, blocks that changed silently."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

from replkit.contracts.buffers import Buffer
from replkit.deltaset.header import Mark
from replkit.recovery.boundary import Boundaries
from replkit.recovery.restore import Restoration
from replkit.recovery.verify import PREFIX, Verification, answer_hashes
from replkit.site.restoring import PrimaryRestoring
from replkit.snapshot.restore import Restore
from replkit.testing.sim.devices import FaultDisk
from replkit.testing.sim.topology import FaultSite
from replkit.testing.sim.workload import Event

from .story import Story, UnfinishedError, Variant

TRIES = 12


class PastStory(Story):
    """B has two sets that it has not played; the first of them is restored onto a disk of its own."""

    def __init__(self, variant: Variant) -> None:
        super().__init__("ab", variant)
        self.sim.actions["restore-past"] = self._restore
        self.target = FaultDisk(self.site("b").plug, 48, block_size=self.size)
        self.number = 0
        self.wanted = b""
        self.is_restored = False

    def prepare(self) -> None:
        """Keep playback away, and let two sets arrive."""
        self.write("a", 0, 16)
        self.add("a", "b")
        self.hold_playback("b")
        for start in (6, 12):
            self.write("a", start, 8)
            self.cut("a")
            if not self.number:
                self.number, self.wanted = self.site("a").primary.root.last.number, bytes(self.image)
        self.until(lambda: self.site("b").secondary.root.last == self.site("a").primary.root.last)
        self.target.write(30, b"left from before" * (3 * self.size // 16))
        self.target.flush()

    def act_out(self) -> None:
        """Until the target is whole; then playback comes."""
        self.until(lambda: self.is_restored, lambda: self.act("restore-past", "b"))
        if bytes(self.target.durable) != self.wanted.ljust(self.target.size_bytes, b"\0"):
            self.checker.fail(9, "b", f"the boundary {self.number} was restored as something else")
        self.let_play("b")

    def _restore(self, site: FaultSite, _event: Event) -> None:
        if self.target.failed:
            self.target.lose_power(random.Random(1))
        secondary = site.secondary
        volume = secondary.volume
        boundaries = Boundaries(
            site.save, lambda: secondary.root, volume.open_snapshot, volume.delete_snapshot,
            secondary.player.make_snapshot, self.world.runtime, volume.block_count,
        )  # fmt: skip
        secondary.floors.append(boundaries.floor)
        boundary = boundaries.open(self.number)
        if boundary is None:
            return
        restoration = Restoration(boundary, self.target)
        while restoration.step():
            continue
        self.is_restored = True
        boundary.close()


class Inline(PrimaryRestoring):
    """Restores in the thread that asks; ``before_cut`` runs when all blocks are written back."""

    before_cut: Callable[[], None]

    def _start(self) -> None:
        self._run(threading.Event())

    def _finish(self, restore: Restore) -> None:
        self.before_cut()
        super()._finish(restore)


class SnapshotStory(Story):
    """A restores a snapshot in place, in small steps; users are away."""

    def __init__(self, variant: Variant) -> None:
        super().__init__("ab", variant)
        self.sim.actions["restore-in-place"] = self._restore
        self.is_restored = False
        self._wanted = b""

    def prepare(self) -> None:
        """A snapshot, and many changes after it."""
        self.write("a", 0, 24)
        self.add("a", "b")
        self.act("snapshot", "a", a=1)
        self._wanted = bytes(self.image)
        self.write("a", 4, 9)
        self.discard("a", 20, 3)
        self.write("a", 30, 5)
        self.in_step("a", "b")

    def act_out(self) -> None:
        """Given again until it is done; a restart in between goes on with it before anything else."""
        for _ in range(TRIES):
            self.act("restore-in-place", "a")
            if self.is_restored:
                break
        else:
            raise UnfinishedError
        self.image[:] = self._wanted
        self.in_step("a", "b")

    def _restore(self, site: FaultSite, _event: Event) -> None:
        users = self.checker.users["a"]

        def seen() -> None:
            users.wrote(0, bytes(site.stack.content))

        restoring = Inline(
            site.primary, site.save, close_export=lambda: None, open_export=lambda: None, step_bytes=4 * self.size
        )  # fmt: skip
        restoring.before_cut = seen
        for image in (bytes(len(self._wanted)), self._wanted):
            users.issue(0, image)
        try:
            if not restoring.resume():
                restoring.begin("user-1")
        finally:
            seen()
        self.is_restored = bool(restoring.progress()["done"])
        if self.is_restored and bytes(site.stack.content) != self._wanted:
            self.checker.fail(4, "a", "the restored volume is not what its snapshot shows")


class RepairStory(Story):
    """Blocks of B change silently; hashes find them, and one set repairs them. The checker must not tell before."""

    def __init__(self, variant: Variant) -> None:
        super().__init__("ab", variant, blind=frozenset({4, 5, 6, 7}))
        self.sim.actions |= {"verify-mark": self._mark, "verify": self._verify, "repair": self._repair}
        self._id, self._number = "", 0
        self.found: list[Any] | None = None

    def prepare(self) -> None:
        """In step, but for two blocks."""
        self.write("a", 0, 20)
        self.add("a", "b")
        disk = self.site("b").stack
        for block in (3, 11):
            for content in (disk.content, disk.durable):
                content[block * self.size : (block + 1) * self.size] = b"rot!" * (self.size // 4)

    def act_out(self) -> None:
        """Verify and repair, until nothing differs."""
        for _ in range(TRIES):
            self.found = None
            self.act("verify-mark", "a")
            self.in_step("a", "b")
            self.act("verify", "a")
            if self.found == []:
                return
            if self.found:
                self.act("repair", "a")
                self.in_step("a", "b")
        raise UnfinishedError

    def _mark(self, site: FaultSite, _event: Event) -> None:
        self._id, self._number = f"r{self.checker.next_stamp()}", 0
        mark = Mark(kind="verify", name=self._id)
        self._number = site.primary.cut(f"{PREFIX}{self._id}", (mark,)).number

    def _ask(
        self, _name: str, arguments: dict[str, Any], _payload: Buffer
    ) -> Callable[[], tuple[dict[str, Any], bytes]]:
        secondary = self.site("b").secondary
        answer = answer_hashes(secondary.volume.open_snapshot, lambda: secondary.player.position.number, arguments)
        return lambda: answer

    def _verify(self, site: FaultSite, _event: Event) -> None:
        snapshot = site.primary.open_snapshot(f"{PREFIX}{self._id}")
        verification = Verification(id=self._id, number=self._number, snapshot=snapshot, ask=self._ask, volume="vol")
        while verification.step():
            continue
        self.found = list(verification.differing)

    def _repair(self, site: FaultSite, _event: Event) -> None:
        site.primary.volume.mark_changed(self.found or [])
        site.primary.cut()
