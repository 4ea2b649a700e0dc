"""The NBD server: any BlockVolume becomes a disk for virtual machines, file systems and databases (X1).

Comes in: volumes with names (``Export``), an address, and bytes from clients that are believed only after they are
checked. Goes out: the fixed newstyle protocol with structured replies and ``base:allocation``, over a Unix socket or
TCP.

``protocol`` has the numbers, ``codec`` turns replies into bytes, ``negotiation`` is the handshake without I/O,
``access`` turns byte ranges into calls on blocks, ``requests`` answers the requests that come seldom, ``transmission``
is the hot loop of one connection, ``exports`` the table of what is served, ``server`` the listener with its limits;
``client`` is the small client that the demo and ``compare`` need.
"""

from replkit.site.nbd.exports import Export
from replkit.site.nbd.server import NbdServer

__all__ = ["Export", "NbdServer"]
