"""The members of a primary by command: added, copied again, caught up, removed (C1, T6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from replkit.contracts.registry import Registry
from replkit.errors import InvalidArgumentError, NotFoundError, WrongRoleError
from replkit.replication.primary import PrimaryReplica
from replkit.site.control import Arguments
from replkit.site.names import check_name


class Membership:
    """Carries the commands about members of one volume out; ``wake`` lets the services look at once."""

    def __init__(
        self, primary: Callable[[], PrimaryReplica], registry: Registry, name: str, wake: Callable[[], None]
    ) -> None:
        self._of, self._registry, self._name, self._wake = primary, registry, name, wake

    def commands(self) -> dict[str, Callable[[Arguments], dict[str, Any]]]:
        """Handlers by the names of their commands."""
        return {
            "pause": lambda a: self._pause(a, True),
            "replica-add": self._add,
            "replica-catch-up": self._catch_up,
            "replica-copy": self._copy,
            "replica-remove": self._remove,
            "resume": lambda a: self._pause(a, False),
        }

    def _add(self, arguments: Arguments) -> dict[str, Any]:
        name = check_name(arguments.get("name", ""), "replica")
        target = check_name(arguments.get("destination_volume") or self._name, "volume")
        url = arguments.get("url")
        if not isinstance(url, str) or ":" not in url:
            raise InvalidArgumentError(f"{url!r} is no URL of a site", hint="write it as tcp://host:port")
        self._registry.open_transport(url)  # refuses what no plugin can reach, before it is a member
        self._of().add_member(name, url, target, on_demand=bool(arguments.get("on_demand")))
        self._wake()
        return {"volume": self._name, "member": name, "url": url, "destination_volume": target}

    def _remove(self, arguments: Arguments) -> dict[str, Any]:
        name = check_name(arguments.get("name", ""), "replica")
        self._of().remove_member(name)
        return {"volume": self._name, "member": name}

    def _catch_up(self, arguments: Arguments) -> dict[str, Any]:
        """What changed since a stale member stopped, by the block lists (T6)."""
        name = check_name(arguments.get("name", ""), "replica")
        self._find(name)
        self._of().members.catch_up(name)
        self._wake()
        return {"volume": self._name, "member": name}

    def _copy(self, arguments: Arguments) -> dict[str, Any]:
        """A new copy for a member that has one; with ``dry_run`` only what would travel."""
        name = check_name(arguments.get("name", ""), "replica")
        member, volume = self._find(name), self._of().volume
        in_use_bytes = sum(extent.count for extent in volume.in_use()) * volume.block_size
        dry_run = bool(arguments.get("dry_run"))
        if not dry_run:
            self._of().copy_again(name)
            self._wake()
        return {
            "volume": self._name,
            "member": name,
            "destination_volume": member.destination_volume,
            "was": member.state,
            "in_use_bytes": in_use_bytes,
            "begun": not dry_run,
        }

    def _pause(self, arguments: Arguments, paused: bool) -> dict[str, Any]:
        member = arguments.get("member")
        if member is not None and self._find(str(member)).state == "stale":
            raise WrongRoleError(
                f"secondary {member} of {self._name} is stale: what it lacks is kept no longer",
                hint=f"send it what changed with: replkit replica catch-up {self._name} {member}",
            )
        if paused:
            self._of().pause(member)
        else:
            self._of().resume(member)
        return {"volume": self._name, "member": member, "paused": paused}

    def _find(self, name: str) -> Any:
        members = {member.name: member for member in self._of().root.members}
        if name not in members:
            raise NotFoundError(
                f"{self._name} has no secondary {name!r}", hint=f"it has: {', '.join(sorted(members)) or 'none'}"
            )
        return members[name]
