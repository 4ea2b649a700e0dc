"""A secondary that asks its primary for a newer version, on access or by command (C5)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from replkit.errors import ControlError, InconsistentError, ProtocolError, ReplkitError
from replkit.recovery.ondemand import Pulled
from replkit.replication.secondary import SecondaryReplica
from replkit.site.calls import PeerLinks

_log = logging.getLogger(__name__)
ACCESS_TIMEOUT_S = 15.0
LOOK_S = 0.01
Fields = dict[str, Any]


class Pulling:
    """Asks for one secondary.

    Args:
        config: the table ``pull`` of the configuration; ``None``: nothing is asked on access.
        replica: gives the open replica.
        url: gives the address of the primary's site.
        member: what the primary calls this secondary.
    """

    def __init__(  # noqa: PLR0917 - what a call to another site needs
        self,
        volume: str,
        config: Fields | None,
        replica: Callable[[], SecondaryReplica],
        links: PeerLinks,
        url: Callable[[], str],
        member: str,
    ) -> None:
        config = config or {}
        self._is_on_access = bool(config)
        self._min_interval_s = float(config.get("min_interval_s") or 0.0)
        self._allow_copy = bool(config.get("allow_full_copy"))
        self._volume, self._member = str(config.get("volume") or volume), str(config.get("member") or member)
        self._replica, self._links, self._url = replica, links, url
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._asked_s: float | None = None

    @property
    def is_on_access(self) -> bool:
        """Whether users get a newer version when they connect."""
        return self._is_on_access

    def pull(self, want: int | None = None, *, allow_copy: bool = False, timeout_s: float = 60.0) -> Fields:
        """Ask for position ``want``, or the newest, and return when it is here: how it came, and where this stands."""
        root = self._replica().root
        if not root.is_at_boundary:
            raise InconsistentError(f"{self._volume}: a new copy or a resync is under way", hint="wait for its end")
        began_s = time.monotonic()
        result, _payload = self._links.caller(self._url()).call(
            "pull",
            {"volume": self._volume, "member": self._member, "have": msgspec.to_builtins(root.last), "want": want,
             "allow_copy": allow_copy},
        )  # fmt: skip
        try:
            pulled = msgspec.convert(result, Pulled)
        except msgspec.ValidationError as error:
            raise ProtocolError(f"the answer to pull makes no sense: {error}") from error
        if pulled.how != "nothing":
            self._wait_for(pulled.number or root.last.number + 1, pulled.how, began_s + timeout_s)
        last = self._replica().root.last
        return {
            "volume": self._volume,
            "how": pulled.how,
            "position": {"epoch": last.epoch.count, "number": last.number, "identity": last.identity},
            "duration_s": time.monotonic() - began_s,
        }

    def on_access(self) -> None:
        """Before a user's first read: ask, if the last time is long enough ago; whatever fails, what is here serves."""
        with self._lock:
            now_s = time.monotonic()
            if not self._is_on_access or (self._asked_s is not None and now_s - self._asked_s < self._min_interval_s):
                return
            self._asked_s = now_s
        try:
            self.pull(allow_copy=self._allow_copy, timeout_s=ACCESS_TIMEOUT_S)
        except ReplkitError as error:
            _log.warning("%s is served as it is here: %s", self._volume, error)

    def stop(self) -> None:
        """Wait no more."""
        self._ending.set()

    def _wait_for(self, number: int, how: str, deadline_s: float) -> None:
        while True:
            root = self._replica().root
            if root.is_at_boundary and root.last.number >= number:
                return
            if time.monotonic() > deadline_s or self._ending.wait(LOOK_S):
                raise ControlError(
                    f"position {number} is on its way ({how}) but not here yet: {root.last}",
                    hint="it comes by itself; see: replkit status",
                )
