"""``nbd://host:port/export``: a volume on any NBD server.

Comes in: a URL. Goes out: an ``NbdVolume``. ``wire`` has the numbers of the protocol, ``negotiation`` the handshake,
``connection`` requests and replies of one connection, ``pool`` several of them, ``volume`` the contract on top.
"""

from __future__ import annotations

from replkit.contracts.hooks import hookimpl
from replkit.contracts.registry import Registry
from replkit_nbd.volume import NbdVolume

__all__ = ["NbdVolume"]


@hookimpl
def replkit_register_volumes(registry: Registry) -> None:
    """Serve ``nbd:`` volumes."""
    registry.add_volume_scheme("nbd", NbdVolume.open)
