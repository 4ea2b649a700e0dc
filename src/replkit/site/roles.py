"""Which worker has a volume follows its role: when a root says another one, the volume moves (DESIGN section 7).

The root is the truth, the workers follow: whatever crashes in between, the next look, or the next start of the daemon,
brings the volume to where it belongs.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from replkit.errors import ControlError, ReplkitError
from replkit.site.config import SiteConfig
from replkit.site.plan import REPLICA, WorkerSpecs, role_of
from replkit.site.plugins import site_registry
from replkit.site.processes import WorkerProcess

_log = logging.getLogger(__name__)
MOVE_TIMEOUT_S = 120.0
SETTLE_TIMEOUT_S = 60.0
LOOK_EVERY_S = 1.0


class Placement:
    """The workers of a site, by the roles of its volumes."""

    def __init__(self, config: SiteConfig) -> None:
        self._config = config
        self._registry = site_registry(config.plugins)
        self._moving = threading.RLock()
        self._ended = False
        self._ending = threading.Event()
        self.roles = {name: role_of(self._registry, volume, config.site) for name, volume in config.volumes.items()}
        self.specs = WorkerSpecs(config)
        self.workers = {name: WorkerProcess(name, kind, spec) for name, kind, spec in self.specs.workers(self.roles)}

    def start(self) -> None:
        """Start all; returns when each has started, or failed for the first time."""
        threading.Thread(target=self._watch, name="roles", daemon=True).start()
        for worker in self.all():
            worker.start()
        for worker in self.all():
            worker.wait_settled(SETTLE_TIMEOUT_S)

    def _watch(self) -> None:
        """A worker that died in the middle of a change of role may find that its volume is not its own any more."""
        while not self._ending.wait(LOOK_EVERY_S):
            for name in self._config.volumes:
                try:
                    if not self.owner(name).status()["ready"]:
                        self.follow(name)
                except ControlError:
                    continue  # it moves just now
                except Exception:
                    _log.exception("the role of volume %s cannot be followed", name)

    def stop(self) -> None:
        """End all of them cleanly, at the same time."""
        self._ended = True  # a move that is under way goes on to its end, and none begins
        self._ending.set()
        _stop_all(self.all())

    def all(self) -> list[WorkerProcess]:
        """The workers as they are now."""
        return list(self.workers.values())

    def owner(self, volume: str) -> WorkerProcess:
        """The worker that has a volume open; ``ControlError`` while it moves."""
        worker = self.workers.get(f"primary.{volume}" if self.roles[volume] == "primary" else REPLICA)
        if worker is None:
            raise ControlError(f"volume {volume} is changing its role", hint="try again in a moment")
        return worker

    def sender(self, volume: str) -> WorkerProcess | None:
        """The worker with the senders of a volume, where it is a primary."""
        return self.workers.get(f"sender.{volume}")

    def follow(self, name: str) -> str:
        """Move a volume to the worker of the role that its root has now; that role."""
        with self._moving:
            role = role_of(self._registry, self._config.volumes[name], self._config.site)
            if role != self.roles[name] and not self._ended:
                _log.info("volume %s is a %s now", name, role)
                if role == "primary":
                    self._to_primary(name)
                else:
                    self._to_secondary(name)
            return self.roles[name]

    def _to_primary(self, name: str) -> None:
        self.roles[name] = "primary"
        replica = self.workers[REPLICA]
        replica.respec(self.specs.replica(self.roles))  # before: one that starts again must not open it
        try:
            replica.request("release", {"volume": name}, MOVE_TIMEOUT_S)
        except ControlError as error:
            _log.info("the replica worker let go of %s by ending: %s", name, error)
        new = [WorkerProcess(*spec) for spec in self.specs.primary(name)]
        for worker in new:
            self.workers[worker.name] = worker
            worker.start()
        for worker in new:
            worker.wait_settled(SETTLE_TIMEOUT_S)

    def _to_secondary(self, name: str) -> None:
        ended = [self.workers.pop(key, None) for key in (f"sender.{name}", f"primary.{name}")]
        _stop_all([worker for worker in ended if worker is not None])
        self.roles[name] = "secondary"
        replica = self.workers[REPLICA]
        replica.respec(self.specs.replica(self.roles))
        try:
            replica.request("hold", {"volume": name, "spec": self.specs.volume(name)}, MOVE_TIMEOUT_S)
        except ReplkitError as error:
            _log.warning("the replica worker opens %s when it has started again: %s", name, error)

    def applied(self, name: str, spec: dict[str, Any]) -> None:
        """The workers of a volume are told ``spec`` when they start the next time; those that run are not touched."""
        with self._moving:
            self.specs.apply(name, spec)
            for worker_name, _, new in self.specs.workers(self.roles):
                if worker_name in self.workers:
                    self.workers[worker_name].respec(new)

    def describe(self) -> list[dict[str, Any]]:
        """All workers, for status."""
        return [worker.status() for worker in self.all()]


def _stop_all(workers: list[WorkerProcess]) -> None:
    """End workers cleanly, at the same time: a sender only reads what the primary writes."""
    stops = [threading.Thread(target=worker.stop, daemon=True) for worker in workers]
    for thread in stops:
        thread.start()
    for thread in stops:
        thread.join()
