"""Whether a plugin opens what a configuration names: asked before anything is opened, with all other faults."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from replkit.contracts.registry import Kind
from replkit.errors import ReplkitError
from replkit.site.plugins import site_registry


def place_faults(data: dict[str, Any]) -> list[tuple[str, str]]:
    """``(path, what)`` for each plugin that cannot be loaded and each URL that none opens.

    ``data`` is the raw file, so that they are found where a section has other faults too.
    """
    plugins = data.get("plugins", [])
    try:
        registry = site_registry(name for name in plugins if isinstance(name, str))
    except (ReplkitError, TypeError) as error:  # a plugin's own fault, or no list
        return [("plugins", str(error))]
    faults = [(path, registry.why_not(kind, url)) for path, kind, url in _places(data)]
    return [(path, what) for path, what in faults if what]


def _places(data: dict[str, Any]) -> Iterator[tuple[str, Kind, str]]:
    """Path, kind and URL; what is no URL is left out, as whoever checks each section has told it already."""
    for path, kind, url in _fields(data):
        with suppress(ValueError):
            if isinstance(url, str) and urlsplit(url).scheme:
                yield path, kind, url


def _fields(data: dict[str, Any]) -> list[tuple[str, Kind, object]]:
    peers, volumes = _table(data.get("peers")), _table(data.get("volumes"))
    found: list[tuple[str, Kind, object]] = [("listen", "transport", data.get("listen"))]
    found += [(f"peers.{name}.url", "transport", _table(peer).get("url")) for name, peer in peers.items()]
    for name, volume in volumes.items():
        save = _table(_table(volume).get("save_volume"))
        found.append((f"volumes.{name}.url", "volume", _table(volume).get("url")))
        found.append((f"volumes.{name}.save_volume.url", "save volume", save.get("url")))
    return found


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
