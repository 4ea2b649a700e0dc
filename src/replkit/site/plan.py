"""Which workers a configuration needs, and what each is told: plain values that go over the socket as JSON.

The role of a volume is what its root says; the configuration decides it only for a volume that never had one, so an old
configuration cannot promote a site again (invariant 8).
"""

from __future__ import annotations

import logging
from typing import Any

from replkit.contracts.registry import Registry
from replkit.errors import NotFoundError, ReplkitError
from replkit.replication.root import read_root
from replkit.site.buckets import promoted_elsewhere
from replkit.site.config import SiteConfig, VolumeConfig, bucket_of, bucket_volume, policy_of, save_volume_of
from replkit.site.drift import with_applied
from replkit.site.shared import SHARED_URL

_log = logging.getLogger(__name__)
REPLICA = "replica"
"""Name of the worker that listens and holds the secondaries."""


def role_of(registry: Registry, volume: VolumeConfig, site: str = "") -> str:
    """The role in force. Where the root cannot be read now, the configured one; the worker refuses if it is wrong."""
    if volume.save_volume is None:  # it reads its primary's, whose root is not about it
        return "secondary"
    try:
        if volume.catalogue and promoted_elsewhere(registry, volume.catalogue, volume.save_volume.url, site):
            return "secondary"  # the replica worker finds out, and stops the writes of its old primary
        with registry.open_save_volume(volume.save_volume.url, producer=False) as save:
            return read_root(save).role
    except NotFoundError:
        return volume.role
    except ReplkitError as error:
        _log.warning("%s: its role cannot be read yet: %s", volume.save_volume.url, error)
        return volume.role


def volume_spec(config: SiteConfig, name: str) -> dict[str, Any]:
    """One volume as its worker is told."""
    volume, save = config.volumes[name], save_volume_of(config, name)
    shared = volume.shared_with
    return {
        "name": name,
        "url": volume.url,
        "size_bytes": volume.size,
        "block_size": volume.block_size,
        "save_url": save.url,
        "save_capacity_bytes": save.capacity,
        "shared_with": shared,
        "source_url": None if shared is None else config.volumes[shared].url,
        "catalogue": volume.catalogue,
        "bucket_of": bucket_of(config, name),
        "own_url": config.listen,
        "site": config.site,
        "nbd": volume.nbd,
        "role": volume.role,
        "policy": policy_of(volume),
        "pull": None if volume.pull is None else volume.pull.model_dump(),
        "members": members_of(config, name),
    }


def members_of(config: SiteConfig, name: str) -> list[dict[str, Any]]:
    """The secondaries that the configuration names for a volume: at peers, and those that share its save volume."""
    members: list[dict[str, Any]] = [
        {
            "name": one.member,
            "url": config.listen if one.peer is None else config.peers[one.peer].url,
            "destination_volume": bucket_volume(name, one) if one.bucket else one.volume or name,
            "shared": False,
            "save_url": save_volume_of(config, bucket_volume(name, one)).url if one.bucket else None,
        }
        for one in config.volumes[name].destinations
    ]
    members += [
        {"name": other, "url": f"{SHARED_URL}{other}", "destination_volume": other, "shared": True, "save_url": None}
        for other, volume in config.volumes.items()
        if volume.shared_with == name
    ]
    return members


def site_spec(config: SiteConfig) -> dict[str, Any]:
    """What every worker is told of the site."""
    return {
        "site": config.site,
        "plugins": list(config.plugins),
        "listen": config.listen,
        "allow_remote": config.allow_remote,
        "run_dir": str(config.control_path.parent),
        "control": str(config.control_path),
        "own_url": config.advertise or config.listen or "",
        "peers": {name: peer.url for name, peer in config.peers.items()},
    }


class WorkerSpecs:
    """What each worker of a site is told: the configuration that was read at the start, and what was applied since."""

    def __init__(self, config: SiteConfig) -> None:
        self._config = config
        self._applied: dict[str, dict[str, Any]] = {}

    def apply(self, name: str, spec: dict[str, Any]) -> None:
        """A worker that starts from now on compares what is in force with ``spec``, where that can change meanwhile."""
        self._applied[name] = spec

    def volume(self, name: str) -> dict[str, Any]:
        """One volume."""
        spec = volume_spec(self._config, name)
        return with_applied(spec, self._applied.get(name, spec))

    def primary(self, name: str) -> list[tuple[str, str, dict[str, Any]]]:
        """The workers of a primary: NBD and the volume stack are alone in a process (DESIGN section 3)."""
        spec = {**site_spec(self._config), "volume": self.volume(name)}
        return [(f"primary.{name}", "primary", spec), (f"sender.{name}", "sender", spec)]

    def replica(self, roles: dict[str, str]) -> dict[str, Any]:
        """What the worker that listens is told: the secondaries that it holds."""
        config = self._config
        held = [self.volume(name) for name in config.volumes if roles[name] != "primary"]
        primaries = {name: save_volume_of(config, name).url for name in config.volumes if roles[name] == "primary"}
        return {**site_spec(config), "volumes": held, "primaries": primaries}

    def workers(self, roles: dict[str, str]) -> list[tuple[str, str, dict[str, Any]]]:
        """``(worker name, kind, spec)``. The replica worker is there without a secondary too: others may call."""
        specs = [spec for name in self._config.volumes if roles[name] == "primary" for spec in self.primary(name)]
        if self._config.listen or any(role != "primary" for role in roles.values()):
            specs.append((REPLICA, "replica", self.replica(roles)))
        return specs
