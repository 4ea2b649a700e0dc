"""Calls between sites: clients for other sites, and the desk of this one, which answers at the port of RCP.

The process that listens answers for the secondaries that it holds; for a primary of this site it asks the daemon, which
asks the primary's process. A call is small: what it carries goes over the control protocol as text.
"""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from replkit.contracts.buffers import Buffer
from replkit.contracts.message import Message
from replkit.contracts.registry import Registry
from replkit.contracts.runtime import Runtime
from replkit.contracts.transport import Link
from replkit.errors import ControlError, LinkClosedError, PeerError, RefusedError
from replkit.rcp.calls import CallClient, CallServer, Handler
from replkit.recovery.peer import Peer
from replkit.site.control import ControlClient

_log = logging.getLogger(__name__)
CONNECT_TIMEOUT_S = 5.0
WAIT_FOR_CALL_S = 0.2
PEER_CALL = "peer-call"
"""The control command that carries a call to the process of a primary."""
MEMBER_CALLS = frozenset({"pull", "resync-begin"})
"""Calls after which a primary has something to prepare and to send."""
FORWARD_TIMEOUT_S = 60.0


class Caller:
    """Calls one URL: the link is made at the first call, and again after it broke."""

    def __init__(self, registry: Registry, runtime: Runtime, url: str) -> None:
        self._registry, self._runtime, self._url = registry, runtime, url
        self._lock = threading.Lock()
        self._client: CallClient | None = None

    def call(self, name: str, arguments: dict[str, Any], payload: Buffer = b"") -> tuple[dict[str, Any], Buffer]:
        """One call; ``RefusedError`` is the other side's no, any other error is the link's.

        A link that was there already may be closed since, as the other site was started again: then a new one is tried.
        All calls may be repeated, as each may have been answered in vain.
        """
        was_open = self._client is not None
        try:
            return self._call_once(name, arguments, payload)
        except LinkClosedError:
            if not was_open:
                raise
        return self._call_once(name, arguments, payload)

    def _call_once(self, name: str, arguments: dict[str, Any], payload: Buffer) -> tuple[dict[str, Any], Buffer]:
        with self._lock:
            if self._client is None:
                link = self._registry.open_transport(self._url).connect(self._url, CONNECT_TIMEOUT_S)
                self._client = CallClient(link, self._runtime)
            client = self._client
        try:
            return client.call(name, arguments, payload)
        except RefusedError:
            raise
        except PeerError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the link."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()


class PeerLinks:
    """Clients of other sites' volumes; ``peer`` is what the services of recovery ask for."""

    def __init__(self, registry: Registry, runtime: Runtime) -> None:
        self._registry, self._runtime = registry, runtime
        self._lock = threading.Lock()
        self._callers: dict[str, Caller] = {}

    def peer(self, url: str, volume: str) -> Peer:
        """A client for one volume of the site at ``url``; sites share a link each."""
        return Peer(self.caller(url).call, volume)

    def caller(self, url: str) -> Caller:
        """What calls the site at ``url``."""
        with self._lock:
            if url not in self._callers:
                self._callers[url] = Caller(self._registry, self._runtime, url)
            return self._callers[url]

    def close(self) -> None:
        """Let go of all links."""
        with self._lock:
            callers, self._callers = list(self._callers.values()), {}
        for caller in callers:
            caller.close()


class CallDesk:
    """Answers the links of calls of a site.

    ``here`` answers for the volumes named by ``held``; ``control`` is the daemon's socket, for all others.
    """

    def __init__(self, here: Handler, held: Callable[[], Collection[str]], control: Path, runtime: Runtime) -> None:
        self._here, self._held, self._control, self._runtime = here, held, control, runtime
        self._ending = threading.Event()

    def serve(self, link: Link, first: Message) -> None:
        """Answer until the link ends."""
        server = CallServer(link, first, self._answer, self._runtime)
        while not self._ending.is_set():
            if server.step(WAIT_FOR_CALL_S) is None:
                break
        server.close()

    def stop(self) -> None:
        """Answer no more."""
        self._ending.set()

    def _answer(self, name: str, arguments: dict[str, Any], payload: Buffer) -> tuple[dict[str, Any], Buffer]:
        volume = arguments.get("volume")
        if isinstance(volume, str) and volume in self._held():
            return self._here(name, arguments, payload)
        return self.forward(name, arguments, payload)

    def forward(self, name: str, arguments: dict[str, Any], payload: Buffer = b"") -> tuple[dict[str, Any], Buffer]:
        """Have the process of a primary of this site answer; ``ControlError`` when it is not there."""
        with ControlClient(self._control) as client:
            answer = client.request(
                PEER_CALL, answer_timeout_s=FORWARD_TIMEOUT_S, volume=arguments.get("volume"),
                call=name, arguments=arguments, payload=base64.b64encode(payload).decode(),
            )  # fmt: skip
        return unpack_answer(answer)


def pack_answer(result: dict[str, Any], payload: Buffer) -> dict[str, Any]:
    """The answer to a call, as values of JSON."""
    return {"result": result, "payload": base64.b64encode(payload).decode()}


def unpack_answer(answer: Any) -> tuple[dict[str, Any], bytes]:
    """The opposite of ``pack_answer``."""
    try:
        return dict(answer["result"]), base64.b64decode(answer["payload"], validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise ControlError(f"the daemon answered a call with what is no answer: {error}") from error


def unpack_call(arguments: dict[str, Any]) -> tuple[str, dict[str, Any], bytes]:
    """Name, arguments and payload of a call that came as a control command."""
    try:
        return str(arguments["call"]), dict(arguments["arguments"]), base64.b64decode(arguments["payload"])
    except (KeyError, TypeError, ValueError) as error:
        raise ControlError(f"a forwarded call makes no sense: {error}") from error


class RoleReporter:
    """Tells the daemon from a worker that the role of a volume is another now; tried again until it was heard."""

    def __init__(self, control: Path) -> None:
        self._control = control
        self._ending = threading.Event()

    def report(self, volume: str) -> None:
        """Returns at once: the daemon will close what calls this."""
        threading.Thread(target=self._run, args=(volume,), name=f"role-{volume}", daemon=True).start()

    def stop(self) -> None:
        """Say no more."""
        self._ending.set()

    def _run(self, volume: str) -> None:
        while not self._ending.is_set():
            try:
                with ControlClient(self._control) as client:
                    client.request("role-changed", answer_timeout_s=FORWARD_TIMEOUT_S, volume=volume)
                return
            except ControlError as error:
                _log.warning("the daemon was not told of the role of %s: %s", volume, error)
                self._ending.wait(0.5)
