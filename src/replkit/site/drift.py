"""Where the configuration differs from what is in force: in the cells, and in the processes that run."""

from __future__ import annotations

from typing import Any

from replkit.site.config import SiteConfig

APPLIED = ("members", "policy", "role", "size_bytes")
"""Fields of a volume's spec that ``config apply`` compares or changes; addresses stay as they were opened."""
_BY_COMMANDS = {"destinations", "policy", "role", "size"}
"""What a running volume is brought to by commands, or not at all; all else of a volume is read when it is opened."""


def with_applied(spec: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What a worker serves, with what the file says now about that which can change meanwhile."""
    return {**spec, **{field: new[field] for field in APPLIED}}


def needs_restart(running: SiteConfig, new: SiteConfig) -> list[str]:
    """Paths of what differs and is read only when the daemon starts, sorted."""
    found = [name for name in SiteConfig.model_fields if name != "volumes" and _differ(running, new, name)]
    found += [f"volumes.{name}" for name in running.volumes.keys() ^ new.volumes.keys()]
    for name in running.volumes.keys() & new.volumes.keys():
        before, after = running.volumes[name], new.volumes[name]
        fields = type(before).model_fields.keys() - _BY_COMMANDS
        found += [f"volumes.{name}.{field}" for field in fields if _differ(before, after, field)]
    return sorted(found)


def _differ(one: object, other: object, field: str) -> bool:
    return bool(getattr(one, field) != getattr(other, field))


def drift_of(spec: dict[str, Any], *, role: str, policy: dict[str, Any], members: list[dict[str, Any]]) -> list[str]:
    """Sentences, one a difference; empty when the configuration is what is in force."""
    found = []
    if spec["role"] != role:
        found.append(f"role is {role}, the configuration says {spec['role']} (a configuration never changes a role)")
    for name, value in sorted(spec["policy"].items()):
        if policy.get(name) != value:
            found.append(f"policy {name} is {policy.get(name)}, the configuration says {value}")
    wanted = {member["name"]: member for member in spec["members"]}
    present = {member["name"]: member for member in members}
    if role == "primary":
        found += [f"member {name} is not in the configuration" for name in sorted(present.keys() - wanted.keys())]
        found += [f"member {name} is only in the configuration" for name in sorted(wanted.keys() - present.keys())]
        for name in sorted(wanted.keys() & present.keys()):
            for field in ("url", "destination_volume"):
                is_now, is_wanted = present[name][field], wanted[name][field]
                if is_now != is_wanted:
                    found.append(f"member {name}: {field} is {is_now}, the configuration says {is_wanted}")
    return found
