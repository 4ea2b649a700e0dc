"""The registry of a site: installed plugins, those that the configuration names, and those of the environment."""

from __future__ import annotations

import os
from collections.abc import Iterable

from replkit.contracts.registry import Registry, default_registry

PLUGINS_VARIABLE = "REPLKIT_PLUGINS"


def site_registry(plugins: Iterable[str] = ()) -> Registry:
    """A registry with ``plugins`` loaded, and those of ``$REPLKIT_PLUGINS``: names of modules, with commas between.

    ``NotFoundError`` names the one that cannot be loaded.
    """
    named = (name.strip() for name in os.environ.get(PLUGINS_VARIABLE, "").split(","))
    return default_registry((*plugins, *filter(None, named)))
