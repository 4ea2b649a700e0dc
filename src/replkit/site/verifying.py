"""Verifications in the daemons: the cut at the primary, the hashes at the member, and who clears up after them (X4).

The primary's snapshot goes with the job; the member's when the primary says so, or when nobody asked for it for a
while. A primary that starts again deletes those that a crash left: no job outlives the daemon.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from replkit.contracts.buffers import Buffer
from replkit.contracts.runtime import Runtime
from replkit.deltaset.header import Mark
from replkit.errors import InvalidArgumentError, NotFoundError, ReplkitError, WrongRoleError
from replkit.recovery.verify import PREFIX, answer_end, answer_hashes
from replkit.replication.primary import PrimaryReplica
from replkit.replication.secondary import SecondaryReplica
from replkit.site.calls import PeerLinks
from replkit.site.control import Arguments
from replkit.site.jobs import Fields, Jobs

_log = logging.getLogger(__name__)
FORGOTTEN_AFTER_S = 900.0
"""A member deletes a snapshot of a verification of which it heard nothing for so long."""
LOOK_S = 5.0
BLANK: Fields = {
    "id": "", "position": None, "block_size": 0, "checked": 0, "total": 0, "members": [], "repair": None,
}  # fmt: skip
CALLS = frozenset({"verify-hashes", "verify-end"})
"""Calls that a member answers."""


class Verifications(Jobs):
    """The verifications of a site."""

    def __init__(self) -> None:
        super().__init__("verify", BLANK)

    def verify(self, name: str, ask: Callable[[str, Arguments], Any], spec: Fields, arguments: Arguments) -> Fields:
        """Begin one, or join the one that runs. ``ask`` asks the primary's process."""
        begun: Fields = {}

        def prepare() -> Fields:
            begun.update(ask("verify-cut", {"member": arguments.get("member")}))
            return {**spec, **begun, "repair": bool(arguments.get("repair"))}

        return self.begin(name, prepare, lambda: ask("verify-over", {"id": begun["id"]}))


class PrimaryVerifying:
    """The primary's part: cuts with a mark, takes blocks that are to be sent again, and clears up."""

    def __init__(self, replica: PrimaryReplica, links: PeerLinks, name: str, runtime: Runtime) -> None:
        self._replica, self._links, self._name, self._runtime = replica, links, name, runtime
        for record in replica.snapshots():  # of a verification that ended with the process before this one
            if record.name.startswith(PREFIX):
                replica.delete_snapshot(record.name)

    def commands(self) -> dict[str, Callable[[Arguments], object]]:
        """What a primary's worker is asked."""
        return {"verify-cut": self._cut, "verify-over": self._over, "verify-repair": self._repair}

    def _cut(self, arguments: Arguments) -> Fields:
        members = self._members(arguments.get("member"))
        id_ = self._runtime.random_bytes(4).hex()
        position = self._replica.cut(f"{PREFIX}{id_}", (Mark(kind="verify", name=id_),))
        return {
            "id": id_,
            "position": {"epoch": position.epoch.count, "number": position.number, "identity": position.identity},
            "members": members,
        }

    def _members(self, wanted: object) -> list[Fields]:
        members = self._replica.root.members
        chosen = [member for member in members if wanted in {None, member.name}]
        if not chosen:
            known = ", ".join(member.name for member in members) or "none"
            raise NotFoundError(
                f"{self._name} has no secondary{f' {wanted!r}' if wanted else ''}", hint=f"it has: {known}"
            )
        for member in chosen:
            if member.shared or member.state != "following":
                why = "reads this save volume itself" if member.shared else f"is {member.state}"
                raise WrongRoleError(
                    f"secondary {member.name} of {self._name} cannot be verified: it {why}",
                    hint="name another one, or compare the volumes with: replkit compare" if member.shared
                    else "wait until it follows, or name another one",
                )  # fmt: skip
        return [{"name": each.name, "url": each.url, "volume": each.destination_volume} for each in chosen]

    def _repair(self, arguments: Arguments) -> Fields:
        """Put blocks into the change log, so that the next set has them as they are here; with ``cut``, now."""
        extents = arguments.get("extents")
        try:
            blocks = [(int(start), int(count)) for start, count in extents or ()]
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(f"{extents!r:.100} are no extents") from error
        self._replica.volume.mark_changed(blocks)
        return {"number": self._replica.cut().number if arguments.get("cut") else None}

    def _over(self, arguments: Arguments) -> Fields:
        """Delete the snapshots on both sides; a member that cannot be reached forgets its own by itself."""
        id_ = str(arguments["id"])
        if any(record.name == f"{PREFIX}{id_}" for record in self._replica.snapshots()):
            self._replica.delete_snapshot(f"{PREFIX}{id_}")
        for member in self._replica.root.members:
            if not member.shared:
                threading.Thread(
                    target=self._tell, args=(member.url, member.destination_volume, id_), daemon=True
                ).start()
        return {}

    def _tell(self, url: str, volume: str, id_: str) -> None:
        try:
            self._links.caller(url).call("verify-end", {"volume": volume, "id": id_})
        except ReplkitError as error:
            _log.info("%s forgets verification %s by itself: %s", url, id_, error)


class MemberVerifying:
    """A member's part: answers with hashes, and deletes snapshots that nobody asks for any more."""

    def __init__(
        self, replica: SecondaryReplica, runtime: Runtime, forgotten_after_s: float = FORGOTTEN_AFTER_S
    ) -> None:
        self._replica, self._runtime, self._after_s = replica, runtime, forgotten_after_s
        self._heard_s: dict[str, float] = {}

    def answer(self, name: str, arguments: dict[str, Any]) -> tuple[dict[str, Any], Buffer]:
        """Carry out one of ``CALLS``."""
        volume, player = self._replica.volume, self._replica.player
        if name == "verify-end":
            return answer_end(volume.snapshots, volume.delete_snapshot, arguments), b""
        self._heard_s[f"{PREFIX}{arguments.get('id')}"] = self._runtime.monotonic()
        return answer_hashes(volume.open_snapshot, lambda: player.position.number, arguments)

    def step(self) -> float:
        """Delete what is forgotten; a service."""
        now_s = self._runtime.monotonic()
        names = {record.name for record in self._replica.volume.snapshots() if record.name.startswith(PREFIX)}
        for name in names:
            if now_s - self._heard_s.setdefault(name, now_s) >= self._after_s:
                self._replica.volume.delete_snapshot(name)
        self._heard_s = {
            name: heard_s for name, heard_s in self._heard_s.items() if name in names or now_s - heard_s < self._after_s
        }
        return min(LOOK_S, self._after_s)
