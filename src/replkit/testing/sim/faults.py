"""The faults of a run: each is planned by an event and comes true at a later call, message or step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from replkit.errors import ReplkitError
from replkit.recovery.states import State, state_of
from replkit.replication.primary import PrimaryReplica
from replkit.replication.secondary import SecondaryReplica
from replkit.testing.crashing import PowerFailure
from replkit.testing.sim.checker import Checker
from replkit.testing.sim.coverage import Coverage
from replkit.testing.sim.topology import FaultSite, Topology
from replkit.testing.sim.workload import Event

STORE_FAULTS = (
    "write error",
    "disk full",
    "flush error",
    "read error",
    "put error",
    "save full",
    "sync error",
    "swap error",
    "rot",
    "misdirected read",
)
WORLD_FAULTS = (
    "power failure",
    "link cut",
    "lost reply",
    "one-way partition",
    "partition",
    "slow peer",
    "garbled payload",
    "duplicate session",
    "pause",
    "fenced process",
    "clone",
    "rollback",
    "clock jump",
)
KINDS = (*WORLD_FAULTS, *STORE_FAULTS)


def phase_of(site: FaultSite) -> str:
    """What a site is doing, in a word."""
    replica = site.replica
    try:
        root = replica.root if replica is not None else None
    except ReplkitError:
        root = None
    if replica is None or root is None:
        return "opening"
    state = state_of(root)
    if isinstance(replica, SecondaryReplica):
        return "playing" if state is State.FOLLOWING and not replica.player.is_at_rest else PHASES[state]
    if state is not State.PRIMARY:
        return PHASES[state]
    if replica.cutter.is_cutting:
        return "cutting"
    copying = [each for each in root.members if each.state == "copying"]
    if any(each.difference is not None for each in copying):
        return "giving a difference"
    return "giving a copy" if copying else "primary"


PHASES = {
    State.PRIMARY: "primary",
    State.FENCED: "fenced",
    State.DRAINING: "draining",
    State.GRANTED: "granted",
    State.EMPTY: "empty",
    State.COPYING: "copying",
    State.FOLLOWING: "following",
    State.ASKING: "asking",
    State.RECEIVING: "resyncing",
}


class Faults:
    """Plans faults, and lets those come true that are acts of their own."""

    def __init__(self, world: Topology, checker: Checker, coverage: Coverage) -> None:
        self.world, self.checker, self.coverage = world, checker, coverage
        self._saved: dict[str, Any] = {}
        self._paused_until: dict[str, float] = {}
        self.actions: dict[str, Callable[[FaultSite, Event], object]] = {
            "power failure": lambda site, event: site.plug.fail_at(event.a),
            "link cut": lambda _site, event: world.net.break_after(event.a),
            "lost reply": lambda _site, event: world.lose_reply_after(event.a),
            "one-way partition": lambda site, event: self._mute([(site.name, event.other)], site),
            "partition": lambda site, event: self._mute([(site.name, event.other), (event.other, site.name)], site),
            "slow peer": self._slow,
            "garbled payload": lambda _site, event: setattr(world.net, "garble_after", event.a),
            "duplicate session": self._duplicate,
            "pause": self._pause,
            "fenced process": self._outlive,
            "clone": self._clone,
            "save state": self._save,
            "rollback": self._roll_back,
            "clock jump": self._jump,
            "mend": lambda _site, _event: world.net.heal(),
            "zombie step": self._zombie_step,
        }
        for kind in STORE_FAULTS:
            self.actions[kind] = lambda site, event, kind=kind: site.plug.break_at(kind, event.a)  # type: ignore[misc]

    def _meet(self, kind: str, site: FaultSite) -> None:
        self.coverage.add(kind, phase_of(site))

    def _mute(self, ways: list[tuple[str, str]], site: FaultSite) -> None:
        self.world.net.muted.update(ways)
        self._meet("partition" if len(ways) > 1 else "one-way partition", site)

    def _slow(self, site: FaultSite, event: Event) -> None:
        self.world.net.slow[site.name, event.other] = 2 + event.a
        self._meet("slow peer", site)

    def _duplicate(self, site: FaultSite, event: Event) -> None:
        """Two processes send to one member, as after a restart whose old process lives on."""
        sender = site.senders.pop(event.other, None)
        if sender is not None:
            site.ghosts.append(sender)
            del site.ghosts[:-2]
            self._meet("duplicate session", site)

    def _pause(self, site: FaultSite, event: Event) -> None:
        self._meet("pause", site)
        site.is_paused = True
        self._paused_until[site.name] = self.world.runtime.monotonic() + event.a / 10

    def wake(self) -> None:
        """End pauses whose time is up."""
        for name, until_s in list(self._paused_until.items()):
            if self.world.runtime.monotonic() >= until_s:
                del self._paused_until[name]
                self.world.fault_sites[name].is_paused = False

    def _outlive(self, site: FaultSite, _event: Event) -> None:
        """A process is opened anew while the old one still lives: the old one may publish nothing more."""
        if not isinstance(site.replica, PrimaryReplica) or site.needs_restart:
            return
        self._meet("fenced process", site)
        old, site.replica = site.replica, None
        site.stop()
        site.start()
        site.zombies.append(old)
        del site.zombies[:-1]

    def _zombie_step(self, site: FaultSite, event: Event) -> None:
        """The old process goes on where it was, short of writes to the disk, which nothing could fence."""
        for zombie in site.zombies:
            before = site.store.load("root")
            steps: list[Callable[[], object]] = [
                zombie.cut, zombie.trimmer.step, zombie.members.step, lambda z=zombie: z.pause(),  # type: ignore[misc]
            ]  # fmt: skip
            site.is_zombie_running = True
            try:
                steps[event.a % len(steps)]()
            except ReplkitError:
                pass
            except PowerFailure:
                site.crash()
                return
            finally:
                site.is_zombie_running = False
            if site.store.load("root") != before:
                self.checker.fail(8, site.name, "a process published after another one had taken the save volume")

    def _save(self, site: FaultSite, _event: Event) -> None:
        """An image of the whole machine, to go back to later."""
        if not site.stack.pending and not site.needs_restart:
            site.store.make_durable()
            self._saved[site.name] = (site.stack.state(), site.store.state(), site.durable_root().role)

    def _roll_back(self, site: FaultSite, _event: Event) -> None:
        """The machine goes back to that image: disk and save volume together."""
        saved = self._saved.pop(site.name, None)
        if saved is None or not self._others_stand(site):
            return
        self._meet("rollback", site)
        self._become(site, saved)

    def _clone(self, site: FaultSite, event: Event) -> None:
        """Another machine is made a copy of this one, and both run."""
        target = self.world.fault_sites[event.other]
        if target is site or not self._others_stand(target) or not self._stands(site):
            return
        self._meet("clone", site)
        site.stack.flush()
        site.store.make_durable()
        self._become(target, (site.stack.state(), site.store.state(), ""))

    def _become(self, site: FaultSite, state: Any) -> None:
        disk, save, _role = state
        site.halt()
        self.checker.forget_site(site)
        site.stack.become(disk)
        site.store.become(save)
        site.forget_root()
        self.checker.replaced(site)
        site.start()

    def _stands(self, site: FaultSite) -> bool:
        root = site.durable_root()
        return root.role == "primary" or root.is_at_boundary

    def _others_stand(self, site: FaultSite) -> bool:
        return any(self._stands(each) for each in self.world.fault_sites.values() if each is not site)

    def _jump(self, site: FaultSite, event: Event) -> None:
        self.world.runtime.jump_s += (event.a - 500) * 1000.0
        self._meet("clock jump", site)

    def calm(self) -> None:
        """No fault is planned, and none lasts."""
        self.world.net.heal()
        self.world.lose_reply_after(None)
        for site in self.world.fault_sites.values():
            site.plug.calm()
            site.is_paused = False
            site.zombies, site.ghosts = [], []
        self._paused_until.clear()
