"""A secondary volume on the machine of its primary, which reads the primary's save volume: nothing is sent (S2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from replkit.contracts.savevolume import SaveVolume
from replkit.errors import ReplkitError, WrongRoleError
from replkit.replication.new_copy import find_member
from replkit.replication.primary import Service
from replkit.replication.root import read_root
from replkit.replication.shared import SharedReplica
from replkit.replication.view import View
from replkit.site.control import Arguments
from replkit.site.holding import Held
from replkit.site.opening import open_volume
from replkit.site.statuses import shared_status

SHARED_URL = "shared:"
"""The URL of such a member begins so: it is reached by no transport."""


class HeldShared(Held[SharedReplica]):
    """Opens its own volume, and beside the primary's process the save volume as a reader and the volume read-only."""

    def view(self, *, pinned: bool) -> View:
        """A view that follows playback, or one that stays at the newest boundary."""
        return self.replica.pin() if pinned else self.replica.view()

    def handle(self, command: str, arguments: Arguments, errors: list[str], exports: list[Any]) -> object:
        """``status`` and ``apply``; all else is done at the primary, whose save volume and policy it shares."""
        if command == "status":
            return {**self._status(), "errors": errors, "exports": exports}
        if command == "apply":
            self.spec = arguments["spec"]
            return []
        primary = self.spec["shared_with"]
        raise WrongRoleError(
            f"{self.name} shares the save volume of {primary}: {command} is for that volume",
            hint=f"name {primary} in its place",
        )

    def _status(self) -> dict[str, Any]:
        status = shared_status(self.replica, self.save, self.spec)
        drift = []
        if find_member(read_root(self.save), self.name) is None:
            drift.append(f"{self.spec['shared_with']} has no secondary {self.name}: replkit config apply adds it")
        return {**status, "drift": drift}

    def _open(self) -> tuple[SharedReplica, SaveVolume, Iterable[Service]]:
        spec = self.spec
        save = self._stack.enter_context(self._registry.open_save_volume(spec["save_url"], producer=False))
        source = self._stack.enter_context(
            self._registry.open_volume(spec["source_url"], block_size=spec["block_size"], read_only=True)
        )
        volume = self._stack.enter_context(open_volume(self._registry, spec))
        replica = SharedReplica(volume, save, source, self._runtime, self._registry.hooks, self.name)
        return replica, save, [(name, self._when_member(save, step)) for name, step in replica.services()]

    def _when_member(self, save: SaveVolume, step: Callable[[], float]) -> Callable[[], float]:
        """A member that was removed is no error that is told again and again: ``status`` says it as drift."""

        def call() -> float:
            try:
                return step()
            except ReplkitError:
                if find_member(read_root(save), self.name) is None:
                    return 1.0
                raise

        return call
