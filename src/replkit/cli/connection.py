"""How a command finds and asks the daemon."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from replkit.errors import ControlError

if TYPE_CHECKING:
    from replkit.site.control import ControlClient

CONTROL_VARIABLE = "REPLKIT_CONTROL"
_Function = TypeVar("_Function", bound=Callable[..., Any])


def control_option(function: _Function) -> _Function:
    """Add ``--control``; the function gets a ``client`` that is closed when it returns."""

    @click.option(
        "--control",
        metavar="SOCKET|CONFIG",
        help=f"The daemon's control socket or configuration (else ${CONTROL_VARIABLE}, else the only site).",
    )
    @functools.wraps(function)
    def call(*, control: str | None, **arguments: Any) -> Any:
        from replkit.site.control import ControlClient

        with ControlClient(find_control(control)) as client:
            return function(client=client, **arguments)

    return call  # type: ignore[return-value]  # the decorator changes the arguments on purpose


def find_control(given: str | None) -> Path:
    """The control socket: as given, by a configuration, by the environment, or of the only site of this user."""
    named = given or os.environ.get(CONTROL_VARIABLE)
    if named and named.endswith(".toml"):
        from replkit.site.config import load_config

        return load_config(Path(named), places=False).control_path
    if named:
        return Path(named)
    from replkit.site.names import state_home

    found = sorted(state_home().glob("*/control.sock"))
    if len(found) == 1:
        return found[0]
    which = f"several sites are here: {', '.join(str(path) for path in found)}" if found else "no daemon runs here"
    raise ControlError(
        f"cannot tell which daemon is meant: {which}",
        hint=f"name its socket or configuration with --control or ${CONTROL_VARIABLE}",
    )


def ask(client: ControlClient, command: str, **arguments: Any) -> Any:
    """The result of a command, however long it takes; arguments that are None are left out."""
    return client.request(command, answer_timeout_s=None, **{k: v for k, v in arguments.items() if v is not None})
