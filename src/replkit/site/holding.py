"""What all volumes of a replica worker have in common: opened again and again, driven, and closed on their own."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, Generic, TypeVar

from replkit.contracts.registry import Registry
from replkit.contracts.savevolume import SaveVolume
from replkit.errors import ControlError, ReplkitError
from replkit.replication.primary import Service
from replkit.replication.view import View
from replkit.site.driver import Driver
from replkit.site.runtime import SiteRuntime

TRY_TO_OPEN_S = 2.0
WAIT_FOR_BUCKET_S = 20.0
R = TypeVar("R")


class Held(ABC, Generic[R]):
    """Opens its volume, again and again where that fails, so that one bad volume does not stop the others."""

    def __init__(
        self, spec: dict[str, Any], registry: Registry, site: str, fail: Callable[[BaseException], None]
    ) -> None:
        self.spec = spec
        self.name: str = spec["name"]
        self.problem = ""
        self.on_open: Callable[[R], None] = lambda _replica: None
        self._registry, self._site, self._fail = registry, site, fail
        self._runtime = SiteRuntime()
        self._stack = ExitStack()
        self._ending = threading.Event()
        self._drivers: list[Driver] = []
        self._replica: R | None = None
        self._save: SaveVolume | None = None
        self._opener: Driver | None = None
        self._tried = threading.Event()

    def begin(self) -> None:
        """Try to open now, and go on trying; what is in a bucket, which may be slow or away, is not waited for long."""
        is_slow = bool(self.spec.get("catalogue"))
        if is_slow:
            self.problem = "it is being opened"
        if is_slow or self._try_open() is not None:
            self._opener = Driver(f"{self.name}-open", self._try_open, on_error=self._say, on_fatal=self._fail)
        if is_slow:
            self._tried.wait(WAIT_FOR_BUCKET_S)

    @property
    def is_open(self) -> bool:
        """Whether it can be asked."""
        return self._replica is not None

    @property
    def replica(self) -> R:
        """The open replica; ``ControlError`` says why it is not."""
        if self._replica is None:
            raise ControlError(f"volume {self.name} is not open: {self.problem}", hint="it is tried again by itself")
        return self._replica

    @property
    def save(self) -> SaveVolume:
        """Its save volume."""
        if self._save is None:
            raise ControlError(f"volume {self.name} is not open: {self.problem}", hint="it is tried again by itself")
        return self._save

    @abstractmethod
    def view(self, *, pinned: bool) -> View:
        """A view that follows playback, or one that stays at the newest boundary."""

    def wake(self) -> None:
        """Something arrived or changed: the services look now."""
        for driver in self._drivers:
            driver.wake()

    def stop(self) -> None:
        """End the services; the volume stays at a boundary, or is known to be in a pass (C4)."""
        self._ending.set()
        if self._opener is not None:
            self._opener.stop()
        self._end_links()
        ended = [driver.stop() for driver in self._drivers]
        if self._replica is not None and all(ended):
            self._close(self._replica)
        self._stack.close()

    @abstractmethod
    def _open(self) -> tuple[R, SaveVolume, Iterable[Service]]:
        """Open it, with what is to be closed on the stack; the replica, its save volume, its services."""

    def _close(self, replica: R) -> None:
        """Make what the replica has in memory durable."""

    def _end_links(self) -> None:
        """Return when nothing comes in any more."""

    def _try_open(self) -> float | None:
        """None once it is open."""
        if self._replica is not None:
            return None
        try:
            replica, save, services = self._open()
            self.on_open(replica)
        except ReplkitError as error:
            self.problem = str(error)
            self._stack.close()
            self._tried.set()
            return TRY_TO_OPEN_S
        self._save = save
        self._drivers = [
            Driver(f"{self.name}-{name}", step, on_error=self._say, on_fatal=self._fail) for name, step in services
        ]
        self._replica = replica
        self.problem = ""
        self._tried.set()
        return None

    def _say(self, name: str, error: ReplkitError) -> None:
        self._registry.hooks.replkit_error(volume=self.name, message=f"{name}: {error}", error=error)
