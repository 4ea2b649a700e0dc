"""Calls between sites: a link whose first message is a ``Call`` carries calls and replies, one at a time.

What is called must be repeatable: after a break the caller cannot know whether its call was carried out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from replkit.contracts.buffers import Buffer
from replkit.contracts.message import Message
from replkit.contracts.runtime import Runtime
from replkit.contracts.transport import Link
from replkit.errors import (
    LinkClosedError,
    LinkTimeoutError,
    LocalProtocolError,
    ProtocolError,
    RefusedError,
    ReplkitError,
)
from replkit.rcp import messages as m
from replkit.rcp.states import CALL_STEPS, CallState

Handler = Callable[[str, dict[str, Any], Buffer], tuple[dict[str, Any], Buffer]]
"""Carries out ``(name, arguments, payload)`` and returns ``(result, payload)``; an error is sent as the reply."""
CALL_TIMEOUT_S = 30.0
IDLE_LIMIT_S = 300.0
"""A link of calls on which nothing comes for so long is closed by the side that is called."""


class CallClient:
    """The side that calls. Calls from several tasks wait for each other; after a broken link make a new client."""

    def __init__(self, link: Link, runtime: Runtime) -> None:
        self._link, self._runtime = link, runtime
        self._lock = runtime.lock()
        self._next_id = 0

    def call(
        self, name: str, arguments: dict[str, Any], payload: Buffer = b"", timeout_s: float = CALL_TIMEOUT_S
    ) -> tuple[dict[str, Any], Buffer]:
        """The result and its payload. Any error but ``RefusedError``, which is the other side's no, ends the link.

        ``timeout_s`` bounds the silence before the reply; one that is arriving may take longer.
        """
        with self._lock:
            call = m.Call(id=self._next_id, name=name, arguments=arguments)
            message = m.encode(call, payload)
            self._next_id += 1
            try:
                self._link.send(message, timeout_s)
                reply, result = self._receive(call, timeout_s)
            except (LinkClosedError, LinkTimeoutError, ProtocolError):
                self._link.close()
                raise
        if not reply.ok:
            raise _refused(self._link.peer, name, reply.result)
        return reply.result, result

    def close(self) -> None:
        """End the link; a call that waits ends with ``LinkClosedError``."""
        self._link.close()

    def _receive(self, call: m.Call, timeout_s: float) -> tuple[m.Reply, Buffer]:
        until_s = self._runtime.monotonic() + timeout_s
        while True:
            message = self._link.receive(max(0.0, until_s - self._runtime.monotonic()))
            if message is not None:
                break
            if not self._link.is_receiving() and self._runtime.monotonic() >= until_s:
                raise LinkTimeoutError(f"{self._link.peer}: no reply to {call.name} within {timeout_s} s")
        body = m.decode(message)
        if (CallState.CALLED, type(body)) not in CALL_STEPS or not isinstance(body, m.Reply) or body.id != call.id:
            raise ProtocolError(f"{self._link.peer}: {type(body).__name__} instead of the reply to {call.name}")
        return body, message.payload


class CallServer:
    """The side that is called: ``step`` until it returns ``None``; ``close`` may come from any task.

    Args:
        link: the link.
        first: its first message, which is a ``Call``.
        handler: carries the calls out.
        runtime: clock.
    """

    def __init__(self, link: Link, first: Message, handler: Handler, runtime: Runtime) -> None:
        self._link, self._handler, self._runtime = link, handler, runtime
        self._waiting: Message | None = first
        self._heard_s = runtime.monotonic()
        self.last_error: Exception | None = None

    def step(self, wait_s: float = 0.0) -> float | None:
        """Answer one call, waiting ``wait_s`` for it; seconds to the next step, ``None`` when the link is over."""
        try:
            message, self._waiting = self._waiting or self._link.receive(wait_s), None
            if message is not None:
                self._answer(message)
            elif not self._link.is_receiving() and self._runtime.monotonic() - self._heard_s >= IDLE_LIMIT_S:
                self._link.close()
                return None
        except (LinkClosedError, LinkTimeoutError, ProtocolError) as error:
            self.last_error = None if isinstance(error, LinkClosedError) else error
            self._link.close()
            return None
        return 0.0

    def close(self) -> None:
        """End the link."""
        self._link.close()

    def _answer(self, message: Message) -> None:
        body = m.decode(message)
        if (CallState.IDLE, type(body)) not in CALL_STEPS or not isinstance(body, m.Call):
            raise ProtocolError(f"{self._link.peer}: {type(body).__name__} instead of a call")
        payload: Buffer = b""
        try:
            result, payload = self._handler(body.name, body.arguments, message.payload)
            reply = m.encode(m.Reply(id=body.id, ok=True, result=result), payload)
        except Exception as error:  # whatever a handler raises is the answer
            self.last_error = error
            reply = m.encode(m.Reply(id=body.id, ok=False, result=_describe(error)))
        self._link.send(reply, CALL_TIMEOUT_S)
        self._heard_s = self._runtime.monotonic()


def is_call(message: Message) -> bool:
    """Whether a first message makes its link one of calls."""
    return message.kind == m.Call.KIND


def _describe(error: Exception) -> dict[str, Any]:
    """An error as the result of a reply; ``RecordMissingError`` has the code ``record-missing``."""
    code = error.code if isinstance(error, RefusedError) else ""
    name = type(error).__name__.removesuffix("Error")
    if not isinstance(error, ReplkitError) or isinstance(error, LocalProtocolError):
        return {"code": "internal", "text": f"{name}: {error}"[:1000], "hint": ""}
    code = code or re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()
    return {"code": code, "text": error.message[:1000], "hint": error.hint[:1000]}


def _refused(peer: str, name: str, result: dict[str, Any]) -> RefusedError:
    code, text, hint = (str(result.get(key, ""))[:1000] for key in ("code", "text", "hint"))
    return RefusedError(f"{peer} refused {name} ({code}): {text}", code=code or "refused", hint=hint)
