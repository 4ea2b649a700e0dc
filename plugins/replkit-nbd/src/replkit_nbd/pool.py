"""Several connections to one export, so that threads do not wait for each other; one where the server wants that."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from replkit.errors import ProtocolError, ReplkitError, VolumeFailedError
from replkit_nbd import wire as w
from replkit_nbd.connection import Connection, Request

_MAX_CONNECTIONS = 4


class Pool:
    """Runs requests on the first free connection.

    A connection that breaks fails the pool for good: what was written and not flushed may be lost with the server that
    went away, and only whoever opens the volume again can know that (invariant 1).
    """

    def __init__(self, address: w.Address) -> None:
        self._address = address
        self._changed = threading.Condition()
        first = Connection(address)
        self.info = first.info
        self._limit = _MAX_CONNECTIONS if first.info.flags & w.CAN_MULTI_CONN else 1
        self._free = [first]
        self._count = 1
        self._failure = ""

    def run(self, requests: Sequence[Request]) -> None:
        """Carry out all ``requests``, pipelined on one connection."""
        connection = self._take()
        is_sound = False
        try:
            connection.run(requests)
            is_sound = True
        except (OSError, ProtocolError) as error:
            self.fail(f"{self._address.url}: the connection broke: {error}")
            raise VolumeFailedError(self._failure, hint="open the volume again") from error
        except ReplkitError:  # the server answered with an error: the connection is as good as before
            is_sound = True
            raise
        finally:
            if not is_sound:
                self.fail(f"{self._address.url}: a request was interrupted")
            self._put_back(connection)

    def _put_back(self, connection: Connection) -> None:
        with self._changed:
            is_wanted = not self._failure
            if is_wanted:
                self._free.append(connection)
                self._changed.notify()
        if not is_wanted:
            connection.close()

    def fail(self, why: str) -> None:
        """Refuse everything from now on."""
        with self._changed:
            self._failure = self._failure or why
            self._changed.notify_all()

    def close(self) -> None:
        """Hang up."""
        self.fail(f"{self._address.url}: the volume was closed")
        with self._changed:
            free, self._free = self._free, []
        for connection in free:
            connection.close()

    def _take(self) -> Connection:
        with self._changed:
            while True:
                if self._failure:
                    raise VolumeFailedError(self._failure, hint="open the volume again")
                if self._free:
                    return self._free.pop()
                if self._count < self._limit:
                    self._count += 1
                    break
                self._changed.wait()
        return self._connect()

    def _connect(self) -> Connection:
        try:
            connection = Connection(self._address)
        except (OSError, ProtocolError) as error:
            with self._changed:
                self._count -= 1
                self._changed.notify()
            raise VolumeFailedError(f"{self._address.url}: one more connection failed: {error}") from error
        if connection.info != self.info:
            connection.close()
            self.fail(f"{self._address.url}: the export is not what it was when the volume was opened")
            raise VolumeFailedError(self._failure, hint="open the volume again")
        return connection
