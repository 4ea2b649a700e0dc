"""What users and operators do to a volume while it is replicated: an alphabet of small events, like fsx has."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from replkit.deltaset.header import Mark
from replkit.errors import FencedError, ReplkitError, WrongRoleError
from replkit.replication.policy import change_policy
from replkit.replication.secondary import SecondaryReplica
from replkit.replication.view import PinnedView
from replkit.snapshot.restore import Restore
from replkit.testing.crashing import PowerFailure
from replkit.testing.sim.checker import Checker
from replkit.testing.sim.devices import SECTOR
from replkit.testing.sim.model import read_all
from replkit.testing.sim.sites import VOLUME
from replkit.testing.sim.topology import FaultSite, Topology

STEPS = "step"
"""One step of one service: the kind of most events."""
_STAMP = struct.Struct("<QII")


class Event(NamedTuple):
    """One line of a trace; all that it needs to be repeated."""

    kind: str
    site: str
    other: str = ""
    a: int = 0
    b: int = 0

    def __str__(self) -> str:
        return f"{self.kind} {self.site}" + "".join(f" {each}" for each in self[2:] if each)


class Workload:
    """Carries out events of users at a primary, and of an operator who cares for members."""

    def __init__(self, world: Topology, checker: Checker) -> None:
        self.world, self.checker = world, checker
        self.pins: dict[str, list[tuple[int, PinnedView]]] = {}
        self.actions: dict[str, Callable[[FaultSite, Event], object]] = {
            "write": self._write,
            "zero": self._zero,
            "discard": self._discard,
            "flush": self._flush,
            "cut": lambda site, _event: site.primary.cut(),
            "snapshot": lambda site, event: site.primary.create_snapshot(f"user-{event.a}"),
            "delete-snapshot": lambda site, event: site.primary.delete_snapshot(f"user-{event.a}"),
            "restore": self._restore,
            "verify": self._verify,
            "resize": self._resize,
            "policy": self._policy,
            "add": self._add,
            "remove": lambda site, event: site.primary.remove_member(event.other),
            "pause": lambda site, event: site.primary.pause(event.other or None),
            "resume": lambda site, event: site.primary.resume(event.other or None),
            "stale": lambda site, _event: site.primary.congestion.mark_stale("drawn"),
            "catch-up": lambda site, event: site.primary.members.catch_up(event.other),
            "copy-again": self._copy_again,
            "pin": self._pin,
            "read-pin": self._read_pin,
            "unpin": self._unpin,
            "restart": lambda site, _event: site.reopen(),
            "sleep": lambda _site, event: self.world.runtime.advance(event.a),
        }

    # -- writes --

    def _write(self, site: FaultSite, event: Event) -> None:
        size = site.disk.block_size
        sectors = event.b * size // SECTOR
        stamp = self.checker.next_stamp()
        data = b"".join(_STAMP.pack(stamp, event.a, index) * (SECTOR // _STAMP.size) for index in range(sectors))
        self._issue(site, event.a, data, lambda: site.primary.volume.write(event.a, data))

    def _zero(self, site: FaultSite, event: Event) -> None:
        data = bytes(event.b * site.disk.block_size)
        self._issue(site, event.a, data, lambda: site.primary.volume.write(event.a, data))

    def _discard(self, site: FaultSite, event: Event) -> None:
        data = bytes(event.b * site.disk.block_size)
        self._issue(site, event.a, data, lambda: site.primary.volume.discard(event.a, event.b))

    def _issue(self, site: FaultSite, start: int, data: bytes, work: Callable[[], None]) -> None:
        """Note the write, make it, and judge how it ended."""
        offset = start * site.disk.block_size
        users = self.checker.users.get(site.name)
        if users is None or offset + len(data) > site.disk.size_bytes:
            return
        before = site.stack.sequence
        users.issue(offset, data)
        fenced = site.primary.root.fenced is not None
        try:
            work()
        except PowerFailure:
            raise
        except ReplkitError:
            if site.stack.sequence == before:
                return  # refused before anything was written
            users.wrote(offset, bytes(site.stack.content[offset : offset + len(data)]))
            raise
        users.wrote(offset, data)
        if fenced:
            self.checker.fail(8, site.name, "took a write though it is fenced")

    def _flush(self, site: FaultSite, _event: Event) -> None:
        site.primary.volume.flush()
        users = self.checker.users[site.name]
        users.flush()
        if bytes(site.stack.durable) != bytes(users.image):
            self.checker.fail(1, site.name, "a flush returned, and what was written before is not durable")

    def _restore(self, site: FaultSite, event: Event) -> None:
        """Users are stopped: one event to its end, or to a crash."""
        primary, name = site.primary, f"user-{event.a}"
        record = primary.volume.snapped.snapshot(name)
        if not record.valid or record.size_bytes != site.disk.size_bytes or primary.root.fenced is not None:
            return
        wanted = read_all(primary.open_snapshot(name))
        users = self.checker.users[site.name]
        primary.cut()
        users.issue(0, bytes(len(wanted)))
        users.issue(0, wanted)
        try:
            restore = Restore(primary.volume.snapped, primary.volume, Restore.begin(primary.volume.snapped, name))
            while not restore.progress.done:
                restore.step()
        finally:
            users.wrote(0, bytes(site.stack.content))
        if bytes(site.stack.content) != wanted:
            self.checker.fail(4, site.name, f"restored from {name}, the volume is not what it shows")
        primary.cut()

    def _resize(self, site: FaultSite, event: Event) -> None:
        size_bytes, primary = event.a * site.disk.block_size, site.primary
        users = self.checker.users[site.name]
        if site.stack.pending:
            primary.volume.flush()
            users.flush()
        primary.cut()
        old_bytes = site.stack.size_bytes
        users.issue(size_bytes, bytes(max(0, old_bytes - size_bytes)))  # a shrink discards what goes
        try:
            primary.resize(size_bytes)
        except BaseException:
            if site.stack.size_bytes == old_bytes:  # some of it may be discarded, and is not flushed
                users.image[size_bytes:] = site.stack.content[size_bytes:]
            else:
                users.take(site.stack.content)
            raise
        users.take(site.stack.content)

    # -- cuts, members --

    def _verify(self, site: FaultSite, event: Event) -> None:
        site.primary.cut(marks=(Mark(kind="verify", name=f"v{event.a}"),))

    @staticmethod
    def _policy(site: FaultSite, event: Event) -> None:
        changes: tuple[dict[str, object], ...] = (
            {"interval_s": 0.2},
            {"interval_s": 2.0},
            {"compression": "zstd"},
            {"compression": "none"},
            {"chunk_bytes": 8192},
            {"chunk_bytes": 4096},
            {"congestion": "pull-ahead"},
            {"congestion": "block"},
            {"play_interval_s": 5.0},
            {"play_interval_s": 0.0},
            {"keep_sets": 5},
            {"keep_sets": 0},
        )
        replica = site.replica
        if isinstance(replica, SecondaryReplica):
            change_policy(site.save, **changes[event.a % len(changes)])
        elif replica is not None:
            replica.set_policy(**changes[event.a % len(changes)])

    def _add(self, site: FaultSite, event: Event) -> None:
        """As an operator would: not over a site that is a primary or holds what only it has."""
        target = self.world.fault_sites[event.other]
        root = target.durable_root()
        if root.role == "primary" or root.resync is not None or target is site:
            raise WrongRoleError(f"{event.other} is not free to take a copy")
        if root.is_at_boundary and root.epoch != site.primary.root.epoch:
            raise FencedError(f"{event.other} is to resync first")
        self.checker.ask_copy(target.name)
        site.primary.add_member(target.name, target.url, VOLUME)

    def _copy_again(self, site: FaultSite, event: Event) -> None:
        self.checker.ask_copy(event.other)
        site.primary.copy_again(event.other)

    # -- readers --

    def _pin(self, site: FaultSite, _event: Event) -> None:
        pins = self.pins.setdefault(site.name, [])
        if len(pins) < 2:
            pins.append((site.generation, site.secondary.pin()))

    def _read_pin(self, site: FaultSite, _event: Event) -> None:
        for generation, pin in self.pins.get(site.name, []):
            if generation == site.generation:
                try:
                    content = read_all(pin)
                except ReplkitError:
                    continue
                self.checker.compare_view(site.name, pin.boundary, content)

    def _unpin(self, site: FaultSite, _event: Event) -> None:
        for generation, pin in self.pins.pop(site.name, []):
            if generation == site.generation:
                pin.close()
