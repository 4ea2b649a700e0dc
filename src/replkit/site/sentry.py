"""A primary asks the sites that it knows whether its epoch is over, without waiting to be told (R9, invariant 8).

A sender that is paused, or that has no member any more, meets nobody; and a primary that comes back after a failover
must not serve its users first and ask later.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping

from replkit.errors import ReplkitError
from replkit.recovery.history import Relation, relation
from replkit.replication.primary import PrimaryReplica
from replkit.site.calls import PeerLinks

_log = logging.getLogger(__name__)
LOOK_EVERY_S = 3.0
FIRST_LOOK_S = 2.0
"""How long the opening of a primary waits for the answers of other sites; who is out of reach is asked again later."""


class Sentry:
    """A service of a primary. ``peers`` are names and URLs of the sites that the configuration knows."""

    def __init__(self, primary: PrimaryReplica, name: str, links: PeerLinks, peers: Mapping[str, str]) -> None:
        self._primary, self._name, self._links = primary, name, links
        self._peers = dict(peers)

    def first_look(self) -> None:
        """Ask all at once before users are served; returns when all answered, or after ``FIRST_LOOK_S``."""
        asking = [threading.Thread(target=self._ask, args=place, daemon=True) for place in self._places()]
        for thread in asking:
            thread.start()
        deadline_s = time.monotonic() + FIRST_LOOK_S
        for thread in asking:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def step(self) -> float:
        """Ask one after another; seconds until the next call."""
        for place in self._places():
            self._ask(*place)
        return LOOK_EVERY_S

    def _places(self) -> list[tuple[str, str]]:
        """URL and volume of every replica that is known; a member's volume may have another name there."""
        members = {member.url: member.destination_volume for member in self._primary.root.members if not member.shared}
        return list((dict.fromkeys(self._peers.values(), self._name) | members).items())

    def _ask(self, url: str, volume: str) -> None:
        try:
            info = self._links.peer(url, volume).info()
            root = self._primary.root
            is_over = relation(root.epoch, info.epoch) in {Relation.NEWER, Relation.DIVERGED}
            if info.lineage == root.lineage and is_over:
                self._primary.fence(info.epoch)
        except ReplkitError as error:  # out of reach, or without such a volume
            _log.debug("%s was not asked for the epoch of %s: %s", url, volume, error)
