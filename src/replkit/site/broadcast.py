"""A control block to several members at once, and what each answered (T10, T11); in the process of their senders."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from math import inf
from typing import Any

import msgspec

from replkit.errors import InvalidArgumentError, NotFoundError
from replkit.rcp import messages as m
from replkit.rcp.multicast import ControlBlock, Outcome
from replkit.replication.commands import UNSENT
from replkit.replication.sender import Sender

DEFAULT_TIMEOUT_S = 30.0
MAX_TIMEOUT_S = 300.0


def broadcast(
    arguments: dict[str, Any],
    senders: Mapping[str, Sender],
    wake: Callable[[], None],
    others: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Send to the named members, by default to all, and wait for each; ``others`` are members without a link.

    A member that does not answer in ``timeout_s`` has failed for the caller, and may still carry the command out.
    """
    block, timeout_s = _block_of(arguments), _timeout_of(arguments)
    names = sorted({*senders, *others}) if arguments.get("members") is None else sorted(set(arguments["members"]))
    if unknown := [name for name in names if name not in senders and name not in others]:
        known = ", ".join(sorted({*senders, *others})) or "none"
        raise NotFoundError(f"there is no secondary {', '.join(unknown)}", hint=f"the volume has: {known}")
    pending = {name: senders[name].command(block) for name in names if name in senders}
    wake()
    deadline_s = time.monotonic() + timeout_s
    answers = []
    for name in names:
        if name not in pending:
            outcome = Outcome(False, {"error": "it shares the save volume of this site, and takes no commands"})
        elif pending[name].done.wait(max(0.0, deadline_s - time.monotonic())):
            outcome = pending[name].outcome or UNSENT
        else:
            outcome = Outcome(False, {"error": f"no answer in {timeout_s:g} s; it may still do it"})
        if outcome == UNSENT:
            outcome = Outcome(False, {"error": f"{outcome.result['error']}; replkit status tells why"})
        answers.append({"member": name, "ok": outcome.ok, "result": dict(outcome.result)})
    return answers


def _block_of(arguments: dict[str, Any]) -> ControlBlock:
    """A block whose message can be sent; what a session could not encode would cost the session."""
    name, values = arguments.get("name"), arguments.get("arguments") or {}
    try:
        message = msgspec.convert({"id": 1, "name": name, "arguments": values}, m.Command)
    except msgspec.ValidationError as error:
        raise InvalidArgumentError(
            f"command {name!r} cannot be sent: {error}",
            hint="names have a-z, 0-9, '.', '_', '-'; an argument is text, a number, true or false",
        ) from error
    block = ControlBlock(message.name, message.arguments)
    block.check()
    return block


def _timeout_of(arguments: dict[str, Any]) -> float:
    timeout_s = arguments.get("timeout_s", DEFAULT_TIMEOUT_S)
    if not isinstance(timeout_s, int | float) or not 0 < timeout_s < inf or timeout_s > MAX_TIMEOUT_S:
        raise InvalidArgumentError(
            f"cannot wait {timeout_s} s for answers", hint=f"give a number of seconds, {MAX_TIMEOUT_S:g} at most"
        )
    return float(timeout_s)
