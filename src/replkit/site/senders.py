"""The sender worker of a primary volume: one sender a member, each on a thread with a link of its own (T1).

It opens the save volume as a reader and the volume read-only, so it can be stopped, started or moved at any time (T6).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

from replkit.contracts.registry import Registry
from replkit.contracts.savevolume import SaveVolume
from replkit.contracts.volume import BlockVolume
from replkit.errors import InvalidArgumentError, NotFoundError, ReplkitError
from replkit.replication.cells import Member
from replkit.replication.root import read_root
from replkit.replication.sender import Sender
from replkit.site.ahead import AheadTransport
from replkit.site.broadcast import broadcast
from replkit.site.control import Arguments
from replkit.site.driver import Driver
from replkit.site.opening import reading_stores
from replkit.site.plugins import site_registry
from replkit.site.runtime import SiteRuntime
from replkit.site.sizing import SIZE

_log = logging.getLogger(__name__)
WAIT_FOR_ANSWER_S = 0.2
LOOK_FOR_MEMBERS_S = 0.5


class SenderWorker:
    """Keeps a sender for each member that the root names."""

    def __init__(self, fail: Callable[[BaseException], None]) -> None:
        self._fail = fail
        self._runtime = SiteRuntime()
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._senders: dict[str, tuple[Sender, Driver, str]] = {}
        self._stores: tuple[BlockVolume, SaveVolume] | None = None
        self._look: Driver | None = None
        self._shared_members: list[str] = []
        self._size_version: object = None

    def start(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Begin to look for members; the primary may still be making the save volume."""
        self._spec = spec["volume"]
        self._site = spec["site"]
        self._registry: Registry = site_registry(spec["plugins"])
        self._look = Driver("members", self._step, on_error=self._say, on_fatal=self._fail)
        return {}

    def handle(self, command: str, arguments: Arguments) -> object:
        """``wake`` after a change of the root; ``status``: figures newer than the cells; ``command``: to members."""
        with self._lock:
            senders = dict(self._senders)
        if command == "wake":
            self._wake(driver for _, driver, _ in senders.values())
            return {}
        if command == "command":
            known = {name: sender for name, (sender, _, _) in senders.items()}
            wake = lambda: self._wake(driver for _, driver, _ in senders.values())  # noqa: E731 - said where it is used
            return broadcast(arguments, known, wake, self._shared_members)
        if command == "status":
            return {name: _figures(sender.status()) for name, (sender, _, _) in senders.items()}
        raise InvalidArgumentError(f"a sender has no command {command!r}")

    def _wake(self, drivers: Iterable[Driver]) -> None:
        for driver in (self._look, *drivers):
            if driver is not None:
                driver.wake()

    def stop(self) -> None:
        """End every session in order; what was acknowledged is recorded."""
        if self._look is not None:
            self._look.stop()
        with self._lock:
            senders, self._senders = self._senders, {}
        for sender, driver, _ in senders.values():
            if driver.stop(5.0):
                sender.close()
        self._stack.close()

    def _step(self) -> float:
        """Match the senders with the members of the root."""
        if self._stores is None:
            self._open()
        if self._stores is None:
            return LOOK_FOR_MEMBERS_S / 2
        volume, save = self._stores
        if save.load(SIZE).version != self._size_version:  # resized: open the volume again
            self._reopen()
            return 0.0
        members = {member.name: member for member in read_root(save).members}
        self._shared_members = [member.name for member in members.values() if member.shared]
        with self._lock:
            known = {name: url for name, (_, _, url) in self._senders.items()}
        for name in known.keys() - {name for name, member in members.items() if member.url == known.get(name)}:
            self._end(name)
        for name, member in members.items():
            if name not in self._senders and not member.shared:
                try:
                    self._begin(member, volume, save)
                except (InvalidArgumentError, NotFoundError) as error:  # its URL: the others must not wait for it
                    self._say(name, error)
        return LOOK_FOR_MEMBERS_S

    def _reopen(self) -> None:
        for name in list(self._senders):
            self._end(name)
        self._stack.close()
        self._stack, self._stores = ExitStack(), None

    def _open(self) -> None:
        try:
            stores = self._stack.enter_context(reading_stores(self._registry, self._spec))
            read_root(stores[1])
            self._size_version = stores[1].load(SIZE).version
        except NotFoundError as error:
            self._stack.close()
            _log.info("waiting for the primary of %s: %s", self._spec["name"], error)
            return
        self._stores = stores

    def _begin(self, member: Member, volume: BlockVolume, save: SaveVolume) -> None:
        transport = AheadTransport(self._registry.open_transport(member.url))
        sender = Sender(
            save,
            volume,
            transport,
            member.name,
            self._runtime,
            self._registry.hooks,
            name=self._spec["name"],
            site=self._site,
        )
        driver = Driver(
            f"sender-{member.name}",
            lambda: sender.step(WAIT_FOR_ANSWER_S),
            on_error=self._say,
            on_fatal=self._fail,
            on_wake=sender.wake,
        )
        with self._lock:
            self._senders[member.name] = (sender, driver, member.url)

    def _end(self, name: str) -> None:
        with self._lock:
            sender, driver, _ = self._senders.pop(name)
        if driver.stop():
            sender.close()

    def _say(self, name: str, error: ReplkitError) -> None:
        self._registry.hooks.replkit_error(volume=self._spec["name"], message=f"{name}: {error}", error=error)


def _figures(status: dict[str, object]) -> dict[str, Any]:
    names = ("state", "last_error", "copy_next_block", "sent_bytes", "rate_bytes_per_s", "average_bytes_per_s")
    return {name: status[name] for name in names if name in status}
