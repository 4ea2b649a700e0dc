"""What is served: exports by name, and the lock that keeps unaligned writes apart from others to the same volume."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from replkit.contracts.volume import BlockVolume, Capability
from replkit.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from replkit.site.nbd import protocol as p


@dataclass(frozen=True, kw_only=True)
class Export:
    """One volume under a name of its own; ``read_only`` serves a writable volume without letting clients change it.

    ``session`` is entered when a client begins to use the volume, and left when it is gone.
    """

    volume: BlockVolume
    read_only: bool = False
    description: str = ""
    session: Callable[[], AbstractContextManager[object]] = nullcontext

    @property
    def refuses_writes(self) -> bool:
        """Whether clients get EPERM for whatever would change the volume."""
        return self.read_only or self.volume.read_only

    def flags(self, *, structured: bool) -> int:
        """The transmission flags; several connections are safe, since a flush of the volume covers all of them."""
        flags = p.CAN_HAS_FLAGS | p.CAN_FLUSH | p.CAN_FUA | p.CAN_MULTI_CONN | p.CAN_CACHE
        flags |= p.CAN_DF if structured else 0
        if self.refuses_writes:
            return flags | p.CAN_READ_ONLY
        flags |= p.CAN_TRIM | p.CAN_WRITE_ZEROES
        return flags | (p.CAN_FAST_ZERO if self.volume.discards is Capability.NATIVE else 0)


class WriterLocks:
    """Writers of a volume in shared mode, a read-modify-write alone.

    Each connection writes under a lock of its own, which nobody else wants in the steady state and which so costs
    nothing; who must be alone takes all of them. A volume with ``run_alone`` has a gate of its own instead.
    """

    def __init__(self) -> None:
        self._registry = threading.Lock()
        self._locks: list[threading.Lock] = []

    def join(self) -> threading.Lock:
        """The lock of a new connection."""
        lock = threading.Lock()
        with self._registry:
            self._locks.append(lock)
        return lock

    def leave(self, lock: threading.Lock) -> None:
        """Forget the lock of a connection that ended."""
        with self._registry:
            self._locks.remove(lock)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold every connection's lock; the caller must not hold its own."""
        with self._registry:  # one at a time, and nobody joins meanwhile: so no two can wait for each other
            held: list[threading.Lock] = []
            try:
                for lock in self._locks:
                    lock.acquire()
                    held.append(lock)
                yield
            finally:
                for lock in held:
                    lock.release()


class ExportTable:
    """Exports by name; changed at run time from any thread."""

    def __init__(self, exports: dict[str, Export] | None = None) -> None:
        self._lock = threading.Lock()
        self._exports: dict[str, Export] = {}
        self._writers: dict[int, tuple[BlockVolume, WriterLocks]] = {}
        for name, export in (exports or {}).items():
            self.add(name, export)

    def add(self, name: str, export: Export) -> None:
        """Serve ``export`` from now on."""
        if len(name.encode()) > p.MAX_NAME_BYTES:
            raise InvalidArgumentError(f"export name {name[:40]!r}... is longer than {p.MAX_NAME_BYTES} bytes")
        with self._lock:
            if name in self._exports:
                raise AlreadyExistsError(f"an export {name!r} is already served")
            self._exports[name] = export
            self._writers.setdefault(id(export.volume), (export.volume, WriterLocks()))

    def remove(self, name: str) -> Export:
        """Serve it no longer to new clients."""
        with self._lock:
            if name not in self._exports:
                raise NotFoundError(f"no export {name!r} is served")
            export = self._exports.pop(name)
            if not any(other.volume is export.volume for other in self._exports.values()):
                del self._writers[id(export.volume)]
            return export

    def names(self) -> list[str]:
        """All names, sorted."""
        with self._lock:
            return sorted(self._exports)

    def find(self, name: str) -> tuple[str, Export] | None:
        """The export of that name; the empty name means the only one there is."""
        with self._lock:
            if not name and "" not in self._exports and len(self._exports) == 1:
                return next(iter(self._exports.items()))
            export = self._exports.get(name)
            return None if export is None else (name, export)

    def writers(self, name: str, export: Export) -> WriterLocks:
        """The locks of the volume under ``export``, shared by all its names; NotFoundError once it was removed."""
        with self._lock:
            if self._exports.get(name) is not export:
                raise NotFoundError(f"export {name!r} is no longer served")
            return self._writers[id(export.volume)][1]


ExportFinder = Callable[[str], tuple[str, Export] | None]
