"""The configuration of a site: TOML in, a checked value out, all faults at once with their paths.

It seeds each volume once. Role, members and policy then live in cells of the save volume; where the file differs from
them, ``status`` shows drift, ``config apply`` applies the file, and a role is never taken from a file again.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlencode, urlsplit, urlunsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, ValidationError

from replkit.errors import ConfigError, InvalidArgumentError
from replkit.site.names import MAX_SOCKET_PATH_BYTES, NAME_RULE, default_control_socket, is_name
from replkit.site.places import place_faults
from replkit.site.policies import policy_changes, policy_faults
from replkit.site.sizes import parse_size

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
Fault = tuple[str, str]


def _size(value: object) -> object:
    try:
        return parse_size(value)  # type: ignore[arg-type]  # refuses what is neither text nor number
    except InvalidArgumentError as error:
        raise ValueError(str(error)) from None


def _name(value: str) -> str:
    if not is_name(value):
        raise ValueError(f"{value!r} is no name: {NAME_RULE}")
    return value


def _url(value: str) -> str:
    if not urlsplit(value).scheme:
        raise ValueError(f"{value!r} is no URL; write it as scheme:rest, for example file:///srv/disk.img")
    return value


def _power_of_two(value: int) -> int:
    if value < 512 or value & (value - 1):
        raise ValueError(f"a block size is a power of two of at least 512, not {value}")
    return value


def _socket_or_port(value: str) -> str:
    if value.startswith("unix:/"):
        if len(value.removeprefix("unix:").encode()) > MAX_SOCKET_PATH_BYTES:
            raise ValueError(f"the path of a Unix socket has at most {MAX_SOCKET_PATH_BYTES} bytes")
        return value
    host, separator, port = value.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{value!r} is neither unix:/path nor host:port")
    return value


Size = Annotated[int, BeforeValidator(_size), Field(gt=0)]
Name = Annotated[str, AfterValidator(_name)]
Url = Annotated[str, AfterValidator(_url)]
BlockSize = Annotated[int, BeforeValidator(_size), AfterValidator(_power_of_two)]
NbdAddress = Annotated[str, AfterValidator(_socket_or_port)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class SaveVolumeConfig(_Section):
    """Where a volume's deltas, before-images and cursors are kept, and how much room they have."""

    url: Url
    capacity: Size


class DestinationConfig(_Section):
    """A secondary of this volume: the peer that has it, and its name there (the same name where it is left out).

    With ``bucket`` in place of ``peer`` this site keeps the secondary itself, volume and save volume in that bucket.
    """

    peer: Name | None = None
    volume: Name | None = None
    bucket: Url | None = None
    name: Name = "bucket"
    endpoint: str | None = None
    region: str | None = None
    storage_class: str | None = None
    sse: str | None = None
    sse_key: str | None = None
    capacity: Size | None = None
    nbd: NbdAddress | None = None
    policy: dict[str, Any] = Field(default_factory=dict)

    @property
    def member(self) -> str:
        """Name of the member at the primary."""
        return self.peer or self.name


class PeerConfig(_Section):
    """Another site, by the address of its RCP listener."""

    url: Url


class PullConfig(_Section):
    """A secondary that asks for a newer version when it is used, at most once in ``min_interval_s`` (C5)."""

    peer: Name | None = None
    volume: Name | None = None
    member: Name | None = None
    min_interval_s: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    allow_full_copy: StrictBool = False


class VolumeConfig(_Section):
    """One volume of the site."""

    url: Url
    size: Size
    block_size: BlockSize = 4096
    save_volume: SaveVolumeConfig | None = None
    shared_with: Name | None = None
    role: Literal["primary", "secondary"]
    nbd: NbdAddress | None = None
    destinations: tuple[DestinationConfig, ...] = ()
    policy: dict[str, Any] = Field(default_factory=dict)
    catalogue: Url | None = None
    pull: PullConfig | None = None


class SiteConfig(_Section):
    """A whole site."""

    site: Name
    listen: Url | None = None
    advertise: Url | None = None
    allow_remote: StrictBool = False
    control: str | None = None
    plugins: tuple[str, ...] = ()
    peers: dict[Name, PeerConfig] = Field(default_factory=dict)
    volumes: dict[Name, VolumeConfig] = Field(default_factory=dict)

    @property
    def control_path(self) -> Path:
        """Where the daemon takes commands."""
        return Path(self.control) if self.control else default_control_socket(self.site)


def save_volume_of(config: SiteConfig, name: str) -> SaveVolumeConfig:
    """The save volume that a volume uses: its own, or that of the volume which it shares it with (S2)."""
    volume = config.volumes[name]
    save = volume.save_volume or config.volumes[volume.shared_with or name].save_volume
    if save is None:  # a checked configuration has it
        raise ConfigError(f"volume {name} has no save volume")
    return save


def load_config(path: Path, *, places: bool = True) -> SiteConfig:
    """Read and check a file; ``ConfigError`` with every fault of it. ``places``: also that plugins open its URLs."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path} cannot be read: {error}", hint="name it with --config") from error
    return parse_config(text, str(path), place_faults if places else lambda _: [])


def parse_config(
    text: str, origin: str = "config", more: Callable[[dict[str, Any]], list[Fault]] = lambda _: []
) -> SiteConfig:
    """Check TOML text; ``origin`` names it in errors, ``more`` finds further faults in the raw data."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin} is no TOML: {error}", faults=[("", str(error))]) from error
    faults: list[Fault] = []
    config: SiteConfig | None = None
    try:
        config = SiteConfig.model_validate(data)
    except ValidationError as error:
        faults += [(_path(fault["loc"]), fault["msg"].removeprefix("Value error, ")) for fault in error.errors()]
    faults += _cross_faults(data) + more(data)
    if config is not None and not faults:
        config, faults = _with_buckets(config)
    if faults or config is None:
        listed = "".join(f"\n  {path or '(file)'}: {what}" for path, what in faults)
        raise ConfigError(f"{origin} has {len(faults)} fault(s):{listed}", faults=faults)
    return config


def _with_buckets(config: SiteConfig) -> tuple[SiteConfig, list[Fault]]:
    """The secondaries that this site keeps in buckets, as volumes of it; each has the size of its primary (U3)."""
    volumes, faults = dict(config.volumes), list[Fault]()
    for name, volume in config.volumes.items():
        for index, one in enumerate(volume.destinations):
            if one.bucket is None:
                continue
            path, there = f"volumes.{name}.destinations.{index}", bucket_volume(name, one)
            if there in volumes or not is_name(there):
                faults.append((f"{path}.name", f"it would be volume {there!r} here, which is taken or no name"))
            top, capacity = bucket_url(one), one.capacity or save_volume_of(config, name).capacity
            volumes[there] = VolumeConfig(
                url=_below(top, name, "volume"), size=volume.size, block_size=volume.block_size, role="secondary",
                save_volume=SaveVolumeConfig(url=_below(top, name, "save"), capacity=capacity), nbd=one.nbd,
                policy=one.policy, catalogue=top,
            )  # fmt: skip
    places = [(key, volume.url) for key, volume in volumes.items()]
    for (one_name, place), (other, same) in itertools.combinations(places, 2):
        if place == same:
            faults.append((f"volumes.{other}.url", f"{place} is used by volumes.{one_name} already"))
    return config.model_copy(update={"volumes": volumes}), faults


def bucket_volume(name: str, destination: DestinationConfig) -> str:
    """Name at this site of the secondary in a bucket of volume ``name``."""
    return f"{name}-{destination.name}"


def bucket_of(config: SiteConfig, name: str) -> str | None:
    """The volume of this site of which ``name`` is a secondary in a bucket."""
    for source, volume in config.volumes.items():
        if any(one.bucket and bucket_volume(source, one) == name for one in volume.destinations):
            return source
    return None


def bucket_url(destination: DestinationConfig) -> str:
    """The place in the bucket, with the options of the destination."""
    split = urlsplit(destination.bucket or "")
    options = {key: getattr(destination, key) for key in ("endpoint", "region", "storage_class", "sse", "sse_key")}
    added = urlencode({key: value for key, value in options.items() if value}, safe=":/")
    return urlunsplit(split._replace(query="&".join(part for part in (split.query, added) if part)))


def _below(url: str, *parts: str) -> str:
    split = urlsplit(url)
    return urlunsplit(split._replace(path="/".join([split.path.rstrip("/"), *parts])))


def policy_of(volume: VolumeConfig) -> dict[str, object]:
    """The policy fields that the file gives, sizes in bytes."""
    return policy_changes(volume.policy)


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location if part != "[key]")


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _cross_faults(data: dict[str, Any]) -> list[Fault]:
    """Faults between sections; works on the raw data, so that it finds them even where a section has others."""
    faults: list[Fault] = []
    peers, volumes = _table(data.get("peers")), _table(data.get("volumes"))
    seen: dict[str, str] = {}
    for name, volume in volumes.items():
        faults += _volume_faults(f"volumes.{name}", _table(volume), peers)
        faults += _sharing_faults(name, _table(volume), volumes)
        save = _table(_table(volume).get("save_volume")).get("url")
        for key, place in (
            ("url", _table(volume).get("url")),
            ("save_volume.url", save),
            ("nbd", _table(volume).get("nbd")),
        ):
            if isinstance(place, str):
                path = f"volumes.{name}.{key}"
                if place in seen:
                    faults.append((path, f"{place} is used by {seen[place]} already"))
                seen.setdefault(place, path)
    fed = [_table(volume) for volume in volumes.values() if "shared_with" not in _table(volume)]
    held = any(volume.get("role") == "secondary" or "'bucket':" in str(volume.get("destinations")) for volume in fed)
    if held and not data.get("listen"):
        faults.append(
            ("listen", "a site with a secondary volume needs an address to listen at, as tcp://127.0.0.1:7077")
        )
    faults += _listen_faults(data)
    faults += [
        fault for name, volume in volumes.items() for fault in _nbd_faults(name, _table(volume).get("nbd"), data)
    ]
    control = data.get("control")
    if isinstance(control, str) and len(control.encode()) > MAX_SOCKET_PATH_BYTES:
        faults.append(("control", f"the path of a Unix socket has at most {MAX_SOCKET_PATH_BYTES} bytes"))
    return faults


def _sharing_faults(name: str, volume: dict[str, Any], volumes: dict[str, Any]) -> list[Fault]:
    """A volume has a save volume, or shares that of a primary on this machine, which is its exact image (S2)."""
    path, other = f"volumes.{name}.shared_with", volume.get("shared_with")
    if other is None:
        return [] if "save_volume" in volume else [(f"volumes.{name}.save_volume", "is needed, or else shared_with")]
    primary = _table(volumes.get(other)) if isinstance(other, str) else {}
    named = primary.get("destinations")
    destinations = named if isinstance(named, list) else []
    checks = (
        ("save_volume" in volume, path, "the volume has a save volume of its own; give one of the two"),
        (volume.get("role") != "secondary", f"volumes.{name}.role", "what shares a save volume is a secondary"),
        (bool(volume.get("policy")), f"volumes.{name}.policy", f"the policy of {other} is in force; change that"),
        (not primary, path, f"no volume is called {other!r}"),
        (bool(primary) and "shared_with" in primary, path, f"{other} shares a save volume itself; name its primary"),
        (bool(primary) and primary.get("role") != "primary", path, f"{other} is no primary in this file"),
        (any(_table(one).get("peer") == name for one in destinations), path, f"{other} has a destination {name!r} too"),
    )
    faults = [(place, what) for is_wrong, place, what in checks if is_wrong]
    for key, default in (("size", None), ("block_size", 4096)):
        if primary and _same_size(volume.get(key, default)) != _same_size(primary.get(key, default)):
            faults.append((f"volumes.{name}.{key}", f"must be that of {other}"))
    return faults


def _same_size(value: object) -> object:
    try:
        return parse_size(value)  # type: ignore[arg-type]  # refuses what is neither text nor number
    except InvalidArgumentError:
        return value


def _listen_faults(data: dict[str, Any]) -> list[Fault]:
    listen = data.get("listen")
    if not isinstance(listen, str) or not listen.startswith("tcp:") or data.get("allow_remote") is True:
        return []
    try:
        host = urlsplit(listen).hostname
    except ValueError as error:
        return [("listen", str(error))]
    if host in _LOOPBACK:
        return []
    return [("listen", f"{host} is not loopback and RCP is not encrypted; tunnel it, or set allow_remote = true")]


def _nbd_faults(name: str, address: object, data: dict[str, Any]) -> list[Fault]:
    if not isinstance(address, str) or address.startswith("unix:") or data.get("allow_remote") is True:
        return []
    host = address.rpartition(":")[0].strip("[]")
    if not host or host in _LOOPBACK:
        return []
    return [(f"volumes.{name}.nbd", f"{host} is not loopback and NBD is not encrypted; set allow_remote = true")]


def _destination_faults(item: dict[str, Any]) -> list[Fault]:
    own = ("name", "endpoint", "region", "storage_class", "sse", "sse_key", "capacity", "nbd", "policy")
    if ("bucket" in item) == ("peer" in item):
        return [("peer", "name a peer, or a bucket as s3://bucket/prefix")]
    if "bucket" in item:
        faults = [("volume", "what is in a bucket has the name of its primary")] if "volume" in item else []
        return faults + [(f"policy.{name}", what) for name, what in policy_faults(_table(item.get("policy")))]
    return [(key, "is for a bucket") for key in own if key in item]


def _volume_faults(path: str, volume: dict[str, Any], peers: dict[str, Any]) -> list[Fault]:
    faults: list[Fault] = []
    destinations = volume.get("destinations")
    listed = [_table(item) for item in destinations] if isinstance(destinations, list) else []
    named = [item.get("name", "bucket") if "bucket" in item else item.get("peer") for item in listed]
    for index, (item, peer) in enumerate(zip(listed, named, strict=True)):
        faults += [(f"{path}.destinations.{index}.{key}", what) for key, what in _destination_faults(item)]
        if "bucket" in item and peer not in named[:index]:
            continue
        if isinstance(peer, str) and peer not in peers and "bucket" not in item:
            faults.append((f"{path}.destinations.{index}.peer", f"no peer is called {peer!r}"))
        if isinstance(peer, str) and peer in named[:index]:
            faults.append((f"{path}.destinations.{index}.peer", f"peer {peer!r} is named twice"))
    if volume.get("role") == "secondary" and named:
        faults.append((f"{path}.destinations", "only a primary has destinations"))
    faults += [(f"{path}.policy.{name}", what) for name, what in policy_faults(_table(volume.get("policy")))]
    return faults
