"""The registry: which plugin opens which URL. Built-ins enter by the same door as anyone else's (U1, U2).

The name of an entry point of the group ``replkit`` is a URL scheme; its module is imported when the first URL with that
scheme is opened, so a plugin that is installed and not used costs nothing and cannot break anything.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Literal, TypeVar

import pluggy

from replkit.contracts.guard import GuardedSaveVolume, GuardedVolume
from replkit.contracts.hooks import PROJECT, REGISTRATION_HOOKS, EventHooks, Hooks
from replkit.contracts.savevolume import SaveVolume
from replkit.contracts.transport import Transport
from replkit.contracts.volume import BlockVolume
from replkit.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError, ReplkitError

DEFAULT_BLOCK_SIZE = 4096
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):")


@dataclass(frozen=True, kw_only=True)
class VolumeOptions:
    """How to open a volume. ``create`` makes it where it is absent; then ``size_bytes`` is needed."""

    size_bytes: int | None = None
    block_size: int = DEFAULT_BLOCK_SIZE
    read_only: bool = False
    create: bool = False


@dataclass(frozen=True, kw_only=True)
class SaveVolumeOptions:
    """How to open a save volume. Without ``capacity_bytes`` it has the capacity with which it was created."""

    capacity_bytes: int | None = None
    producer: bool = True
    create: bool = False


VolumeFactory = Callable[[str, VolumeOptions], BlockVolume]
SaveVolumeFactory = Callable[[str, SaveVolumeOptions], SaveVolume]
TransportFactory = Callable[[str], Transport]
_Factory = TypeVar("_Factory")
Kind = Literal["volume", "save volume", "transport"]


@dataclass(frozen=True, kw_only=True)
class SchemeListing:
    """One scheme for ``replkit plugins``: what it opens, who brought it, and why it cannot be used, if so."""

    scheme: str
    kinds: tuple[str, ...]
    origin: str
    problem: str = ""


class Registry:
    """Opens volumes, save volumes and transports by URL, and calls the hooks of all plugins."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(Hooks)
        self._volumes: dict[str, VolumeFactory] = {}
        self._save_volumes: dict[str, SaveVolumeFactory] = {}
        self._transports: dict[str, TransportFactory] = {}
        self._origins: dict[str, str] = {}
        self._origin = ""
        self.hooks = EventHooks(self._manager)
        for name in REGISTRATION_HOOKS:  # historic: a plugin that comes later is called when it comes
            getattr(self._manager.hook, name).call_historic(kwargs={"registry": self})

    # -- what plugins call --

    def add_volume_scheme(self, scheme: str, factory: VolumeFactory) -> None:
        """Let ``factory(url, options)`` open volumes whose URL begins with ``scheme:``."""
        self._add(self._volumes, "volume", scheme, factory)

    def add_save_volume_scheme(self, scheme: str, factory: SaveVolumeFactory) -> None:
        """Let ``factory(url, options)`` open save volumes whose URL begins with ``scheme:``."""
        self._add(self._save_volumes, "save volume", scheme, factory)

    def add_transport_scheme(self, scheme: str, factory: TransportFactory) -> None:
        """Let ``factory(url)`` make the transport for URLs that begin with ``scheme:``."""
        self._add(self._transports, "transport", scheme, factory)

    def _add(self, table: dict[str, _Factory], kind: str, scheme: str, factory: _Factory) -> None:
        if not _SCHEME.fullmatch(f"{scheme}:"):
            raise InvalidArgumentError(f"{scheme!r} is no URL scheme (plugin {self._origin or 'without a name'})")
        if scheme in table:
            raise AlreadyExistsError(f"{kind} scheme {scheme!r} of plugin {self._origin} is already registered")
        table[scheme] = factory
        self._origins.setdefault(scheme, self._origin)

    # -- plugins --

    def register(self, plugin: object, name: str | None = None) -> None:
        """Register a plugin object or module; its registration hooks run at once, and unknown hooks are refused."""
        self._origin = name or str(getattr(plugin, "__name__", type(plugin).__name__))
        tables: tuple[dict[str, object], ...] = (self._volumes, self._save_volumes, self._transports, self._origins)  # type: ignore[assignment]
        before = [dict(table) for table in tables]
        try:
            self._manager.register(plugin, name=name)
            self._manager.check_pending()
        except Exception as error:
            if self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
            for table, old in zip(tables, before, strict=True):
                table.clear()
                table.update(old)
            if isinstance(error, ReplkitError):
                raise
            raise InvalidArgumentError(f"plugin {self._origin} cannot be registered: {error}") from error

    def load(self, name: str) -> None:
        """Load a plugin by the name of its entry point or of its module; once only."""
        if self._manager.has_plugin(name):
            return
        for entry_point in entry_points(group=PROJECT, name=name):
            self.register(_import(name, entry_point.load), name)
            return
        self.register(_import(name, lambda: importlib.import_module(name)), name)

    def schemes(self) -> list[SchemeListing]:
        """Every scheme of every installed plugin; one that cannot be loaded is listed with its problem."""
        problems = {}
        for entry_point in entry_points(group=PROJECT):
            try:
                self.load(entry_point.name)
            except ReplkitError as error:
                problems[entry_point.name] = SchemeListing(
                    scheme=entry_point.name, kinds=(), origin=entry_point.value, problem=str(error)
                )
        kinds = (("volume", self._volumes), ("save volume", self._save_volumes), ("transport", self._transports))
        for scheme, origin in self._origins.items():
            having = tuple(kind for kind, table in kinds if scheme in table)
            problems[scheme] = SchemeListing(scheme=scheme, kinds=having, origin=origin)
        return [problems[scheme] for scheme in sorted(problems)]

    # -- opening --

    def open_volume(
        self,
        url: str,
        *,
        size_bytes: int | None = None,
        block_size: int = DEFAULT_BLOCK_SIZE,
        read_only: bool = False,
        create: bool = False,
    ) -> BlockVolume:
        """Open a volume, with the guard around it. ``NotFoundError`` where it is absent and ``create`` is not set."""
        if block_size < 512 or block_size & (block_size - 1):
            raise InvalidArgumentError(f"{url}: a block size is a power of two of at least 512, not {block_size}")
        if size_bytes is not None and size_bytes < 0:
            raise InvalidArgumentError(f"{url}: a volume cannot have {size_bytes} bytes")
        factory = self._factory(self._volumes, "volume", url)
        options = VolumeOptions(size_bytes=size_bytes, block_size=block_size, read_only=read_only, create=create)
        return GuardedVolume(factory(url, options), url)

    def open_save_volume(
        self, url: str, *, capacity_bytes: int | None = None, producer: bool = True, create: bool = False
    ) -> SaveVolume:
        """Open a save volume, with the guard around it. ``SaveVolumeBusyError`` where it has a producer already."""
        if create and not producer:
            raise InvalidArgumentError(f"{url}: only a producer can create a save volume")
        factory = self._factory(self._save_volumes, "save volume", url)
        options = SaveVolumeOptions(capacity_bytes=capacity_bytes, producer=producer, create=create)
        return GuardedSaveVolume(factory(url, options), url)

    def open_transport(self, url: str) -> Transport:
        """The transport that reaches ``url``; nothing is connected yet."""
        return self._factory(self._transports, "transport", url)(url)

    def why_not(self, kind: Kind, url: str) -> str:
        """Why no plugin opens ``url`` as a ``kind``; empty where one does. Nothing is opened."""
        tables: dict[Kind, dict[str, Any]] = {
            "volume": self._volumes, "save volume": self._save_volumes, "transport": self._transports,
        }  # fmt: skip
        try:
            self._factory(tables[kind], kind, url)
        except ReplkitError as error:
            return str(error)
        return ""

    def _factory(self, table: dict[str, _Factory], kind: str, url: str) -> _Factory:
        match = _SCHEME.match(url)
        if not match:
            raise InvalidArgumentError(f"{url!r} is no URL", hint="write it as scheme:rest, for example file:///disk")
        scheme = match.group(1)
        if scheme not in table and any(entry_points(group=PROJECT, name=scheme)):
            self.load(scheme)
        if scheme not in table:
            known = ", ".join(listing.scheme for listing in self.schemes() if not listing.problem)
            if scheme not in table:  # listing has loaded every plugin, and one of them may have brought the scheme
                raise NotFoundError(f"no plugin opens a {kind} at {url}", hint=f"schemes are {known}")
        return table[scheme]


def _import(name: str, load: Callable[[], object]) -> object:
    try:
        return load()
    except Exception as error:  # whatever the module of a plugin does when it is imported
        raise NotFoundError(f"plugin {name!r} cannot be loaded: {type(error).__name__}: {error}") from error


def default_registry(plugins: Iterable[str] = ()) -> Registry:
    """A registry with the installed plugins, loaded when a URL needs them, and with ``plugins`` loaded at once.

    Name in ``plugins`` what serves no scheme (a plugin of event hooks only) or has no entry point.
    """
    registry = Registry()
    for name in plugins:
        registry.load(name)
    return registry
