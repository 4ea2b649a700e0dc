"""What a worker serves over NBD besides its volumes: snapshots and views, each at an address of its own (X1)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from replkit.contracts.volume import BlockVolume
from replkit.errors import AlreadyExistsError, NotFoundError
from replkit.site.names import export_socket
from replkit.site.nbd import Export, NbdServer
from replkit.site.sessions import SessionView


def nbd_uri(address: str, name: str) -> str:
    """The URI that NBD clients take."""
    if address.startswith("unix:"):
        return f"nbd+unix:///{quote(name)}?socket={quote(address.removeprefix('unix:'))}"
    return f"nbd://{address}/{quote(name)}"


@dataclass(frozen=True, kw_only=True)
class _Served:
    server: NbdServer
    volume: BlockVolume
    close: Callable[[], None]


NO_CLIENT_S = 60.0
"""A temporary export to which nobody connects for so long ends."""
IN_USE_A_CALL = 4096


class _Temporary:
    """Ends an export when its last client is gone, however it went, or when none came."""

    def __init__(self, end: Callable[[], object]) -> None:
        self._end = end
        self._lock = threading.Lock()
        self._users = 0
        self._timer = threading.Timer(NO_CLIENT_S, self._run)
        self._timer.daemon = True
        self._timer.start()

    @contextmanager
    def session(self) -> Iterator[None]:
        """Around all that one client does."""
        with self._lock:
            self._users += 1
            self._timer.cancel()
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                is_last = not self._users
            if is_last:  # on another thread: the export ends when this client's has ended
                threading.Thread(target=self._run, name="end-export", daemon=True).start()

    def _run(self) -> None:
        with suppress(NotFoundError):
            self._end()


class ExportKeeper:
    """The exports of one worker that come and go by command."""

    def __init__(self, run_dir: Path, *, allow_remote: bool) -> None:
        self._run_dir = run_dir
        self._allow_remote = allow_remote
        self._lock = threading.Lock()
        self._served: dict[str, _Served] = {}

    def add(
        self,
        name: str,
        volume: BlockVolume,
        address: str | None,
        *,
        writable: bool = False,
        temporary: bool = False,
        stop_command: str = "replkit export --stop",
    ) -> dict[str, str]:
        """Serve ``volume`` as ``name``; the volume is closed when the export ends, unless it is writable.

        A ``temporary`` export ends with its last client. When this raises, the volume stays open: it is the caller's.
        """
        where = address or f"unix:{export_socket(self._run_dir, name)}"
        with self._lock:
            if name in self._served:
                raise AlreadyExistsError(f"{name} is served already", hint=f"stop it with: {stop_command}")
            session = volume.session if isinstance(volume, SessionView) else nullcontext
            if temporary:
                session = _Temporary(lambda: self.remove(name)).session
            export = Export(volume=volume, read_only=not writable, description=f"replkit {name}", session=session)
            exports = {name: export}
            server = NbdServer(exports, where, allow_remote=self._allow_remote)
            server.start()
            close = (lambda: None) if writable else volume.close
            self._served[name] = _Served(server=server, volume=volume, close=close)
            return {"export": name, "address": server.address, "uri": nbd_uri(server.address, name)}

    def __contains__(self, name: str) -> bool:
        with self._lock:
            return name in self._served

    def in_use(self, name: str, start: int) -> dict[str, object]:
        """Some of the extents in use of what is served, from block ``start`` on, and where the next question begins."""
        with self._lock:
            served = self._served.get(name)
        if served is None:
            raise NotFoundError(f"{name} is not served")
        volume = served.volume
        found = [list(each) for each in islice(volume.in_use_between(start, volume.block_count), IN_USE_A_CALL)]
        is_all = len(found) < IN_USE_A_CALL
        return {"extents": found, "next": None if is_all else found[-1][0] + found[-1][1]}

    def remove(self, name: str) -> dict[str, str]:
        """Serve it no longer; clients are disconnected."""
        with self._lock:
            served = self._served.pop(name, None)
        if served is None:
            raise NotFoundError(f"{name} is not served")
        served.server.stop()
        served.close()
        return {"export": name}

    def remove_of(self, volume: str) -> None:
        """Serve nothing of a volume any longer: its own export, those of its view and of its snapshots."""
        with self._lock:
            names = [name for name in self._served if name == volume or name.startswith(f"{volume}.")]
        for name in names:
            self.remove(name)

    def listing(self) -> list[dict[str, object]]:
        """For status."""
        with self._lock:
            return [
                {
                    "export": name,
                    "uri": nbd_uri(served.server.address, name),
                    "connections": served.server.connection_count,
                }
                for name, served in self._served.items()
            ]

    def stop(self) -> None:
        """End all of them."""
        with self._lock:
            names = list(self._served)
        for name in names:
            self.remove(name)
