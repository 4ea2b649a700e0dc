"""``nbd+unix:///export?socket=/path``: the same volumes over a Unix socket."""

from __future__ import annotations

from replkit.contracts.hooks import hookimpl
from replkit.contracts.registry import Registry
from replkit_nbd.volume import NbdVolume


@hookimpl
def replkit_register_volumes(registry: Registry) -> None:
    """Serve ``nbd+unix:`` volumes."""
    registry.add_volume_scheme("nbd+unix", NbdVolume.open)
