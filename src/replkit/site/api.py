"""The Python API for one process: two replicas by URL, replicated by threads, without a daemon.

For tests, notebooks and programs that embed replication. A disk that others use belongs to ``replkit serve``, which
keeps what serves reads and writes in a process of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from xxhash import xxh3_64_hexdigest

from replkit.contracts.hooks import hookimpl
from replkit.contracts.position import Position
from replkit.contracts.registry import DEFAULT_BLOCK_SIZE, Registry
from replkit.contracts.savevolume import SaveVolume
from replkit.contracts.transport import Link
from replkit.contracts.volume import BlockVolume
from replkit.errors import ControlError, InvalidArgumentError, ReplkitError, WrongRoleError
from replkit.replication.primary import PrimaryReplica
from replkit.replication.receiver import Receiver, greet
from replkit.replication.root import read_root
from replkit.replication.secondary import SecondaryReplica
from replkit.replication.sender import Sender
from replkit.replication.view import View
from replkit.site.driver import Driver
from replkit.site.names import check_name
from replkit.site.plugins import site_registry
from replkit.site.runtime import SiteRuntime
from replkit.site.sizes import parse_size

MIN_SAVE_CAPACITY_BYTES = 64 << 20
WAIT_FOR_MESSAGE_S = 0.1
POLL_S = 0.01


class Replica:
    """A volume and its save volume, opened by URL; a context manager.

    It is what its save volume says it is. A new one becomes the primary when it is written or replicated from, and a
    secondary when another replicates to it.

    Args:
        volume_url: where the blocks are, as ``file:///srv/disk.img`` or ``memory:disk``.
        save_url: where delta sets, before-images and cursors are kept.
        size: bytes, or text as ``"1GiB"``; needed where the volume does not exist yet.
        capacity: room of a new save volume; by default twice the size of the volume.
        name: name of the volume in messages and to its peer.
    """

    def __init__(
        self,
        volume_url: str,
        save_url: str,
        *,
        size: str | int | None = None,
        capacity: str | int | None = None,
        block_size: int = DEFAULT_BLOCK_SIZE,
        name: str = "disk",
    ) -> None:
        self.name = check_name(name, "volume")
        self._volume_url, self._save_url, self._block_size = volume_url, save_url, block_size
        self._size_bytes = None if size is None else parse_size(size)
        self._capacity_bytes = None if capacity is None else parse_size(capacity)
        self._stack = ExitStack()
        self._runtime = SiteRuntime()
        self._registry: Registry = site_registry()
        self._primary: PrimaryReplica | None = None
        self._secondary: SecondaryReplica | None = None
        self._stores: tuple[BlockVolume, SaveVolume] | None = None
        self._drivers: list[Driver] = []
        self._receiver: Receiver | None = None
        self._failure: BaseException | None = None
        self._ending = threading.Event()

    def __enter__(self) -> Self:
        volume = self._registry.open_volume(
            self._volume_url,
            size_bytes=self._size_bytes,
            block_size=self._block_size,
            create=self._size_bytes is not None,
        )
        self._stack.callback(volume.close)
        try:
            capacity = self._capacity_bytes or max(MIN_SAVE_CAPACITY_BYTES, 2 * volume.size_bytes)
            save = self._registry.open_save_volume(self._save_url, capacity_bytes=capacity, create=True)
        except BaseException:
            self._stack.close()
            raise
        self._stack.callback(save.close)
        self._stores = volume, save
        self._registry.register(self, f"replica-{self.name}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End replication and close both stores; a secondary stays at a boundary (C4)."""
        self._ending.set()
        self._stack.close()

    # -- a primary --

    @property
    def volume(self) -> BlockVolume:
        """The volume to read and write; whatever is written is logged and will be replicated."""
        return self._as_primary().volume

    def replicate_to(self, other: Replica, *, member: str = "secondary") -> None:
        """Make ``other`` a secondary of this volume: a new copy the first time, then set by set (C1)."""
        primary, url = self._as_primary(), other._listen()
        present = {str(entry["name"]): entry for entry in self._members()}
        if member not in present:
            primary.add_member(check_name(member, "member"), url, other.name)
        elif present[member]["url"] != url:
            raise WrongRoleError(
                f"member {member} of {self.name} is another replica", hint="give this one another name"
            )
        save = self._stack.enter_context(self._registry.open_save_volume(self._save_url, producer=False))
        volume = self._stack.enter_context(
            self._registry.open_volume(self._volume_url, block_size=self._block_size, read_only=True)
        )
        transport = self._registry.open_transport(url)
        sender = Sender(
            save, volume, transport, member, self._runtime, self._registry.hooks, name=self.name, site=self.name
        )
        self._stack.callback(sender.close)
        self._drive(f"sender-{member}", lambda: sender.step(WAIT_FOR_MESSAGE_S), on_wake=sender.wake)

    def cut(self, snapshot: str | None = None) -> Position:
        """Cut a delta set of all that was written, and return its position once it is durable here."""
        return self._as_primary().cut(snapshot)

    def wait(self, position: Position | None = None, *, timeout_s: float = 60.0) -> None:
        """Return when every member has played ``position`` (by default the newest set), or raise ``ControlError``."""
        number = (position or read_root(self._open()[1]).last).number
        deadline_s = time.monotonic() + timeout_s
        while True:
            behind = [
                str(entry["name"])
                for entry in self._members()
                if entry["state"] == "copying" or int(str(entry["played"])) < number
            ]
            if not behind:
                return
            if self._failure is not None:
                raise ControlError(f"{self.name}: replication ended: {self._failure}") from self._failure
            if time.monotonic() > deadline_s:
                raise ControlError(f"{self.name}: {', '.join(behind)} did not play set {number} in {timeout_s:g} s")
            self._ending.wait(POLL_S)

    # -- a secondary --

    def view(self) -> View:
        """A read-only volume that always stands at the newest boundary received (C3)."""
        return self._as_secondary().view()

    # -- both --

    def status(self) -> dict[str, Any]:
        """Role, position, members, what waits."""
        return dict(self._primary.status() if self._primary else self._as_secondary().status())

    def _open(self) -> tuple[BlockVolume, SaveVolume]:
        if self._stores is None:
            raise InvalidArgumentError(f"replica {self.name} is not open", hint="use it in a with statement")
        return self._stores

    def _as_primary(self) -> PrimaryReplica:
        if self._secondary is not None:
            raise WrongRoleError(f"{self.name} is a secondary: read its view()")
        if self._primary is None:
            volume, save = self._open()
            self._primary = PrimaryReplica.open(volume, save, self._runtime, self._registry.hooks, self.name)
            self._stack.callback(self._primary.close)
            for name, step in self._primary.services():
                self._drive(name, step)
        return self._primary

    def _as_secondary(self) -> SecondaryReplica:
        if self._primary is not None:
            raise WrongRoleError(f"{self.name} is a primary: read its volume")
        if self._secondary is None:
            volume, save = self._open()
            self._secondary = SecondaryReplica.open(
                volume, save, self._runtime, self._registry.hooks, self.name, site=self.name
            )
            self._stack.callback(self._secondary.close)
            for name, step in self._secondary.services():
                self._drive(name, step)
        return self._secondary

    def _listen(self) -> str:
        """Take links in this process; the address is the same in every run, since the member's URL is durable."""
        secondary = self._as_secondary()
        url = f"local:{xxh3_64_hexdigest(self._save_url.encode())}"

        def on_link(link: Link) -> None:
            try:
                self._receiver = receiver = secondary.accept(greet(link, self._runtime))
                while not self._ending.is_set():
                    pause_s = receiver.step(WAIT_FOR_MESSAGE_S)
                    if pause_s is None:
                        return
                    self._ending.wait(pause_s)
            except ReplkitError as error:
                self._say("receiver", error)

        self._stack.callback(self._registry.open_transport(url).listen(url, on_link).close)
        return url

    def _members(self) -> list[dict[str, Any]]:
        members: list[dict[str, Any]] = self._as_primary().status()["members"]  # type: ignore[assignment]
        return members

    @hookimpl
    def replkit_delta_set_cut(self) -> None:
        """The senders look now."""
        self._wake()

    @hookimpl
    def replkit_delta_set_received(self) -> None:
        """The player looks now."""
        self._wake()

    @hookimpl
    def replkit_delta_set_played(self) -> None:
        """The sender waits to hear of it."""
        if self._receiver is not None:
            self._receiver.wake()

    def _wake(self) -> None:
        for driver in tuple(self._drivers):
            driver.wake()

    def _drive(self, name: str, step: Any, *, on_wake: Callable[[], None] = lambda: None) -> None:
        driver = Driver(f"{self.name}-{name}", step, on_error=self._say, on_fatal=self._on_fatal, on_wake=on_wake)
        self._drivers.append(driver)
        self._stack.callback(driver.stop)

    def _on_fatal(self, error: BaseException) -> None:
        self._failure = error

    def _say(self, name: str, error: ReplkitError) -> None:
        self._registry.hooks.replkit_error(volume=self.name, message=f"{name}: {error}", error=error)
