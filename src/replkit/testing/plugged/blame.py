"""How a backend that breaks its contract is told of, in words for its author."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar

from replkit.errors import ReplkitError
from replkit.testing.sim.model import InvariantError

Blame = Callable[[str], NoReturn]
"""Ends the run and says what the backend did."""
_Result = TypeVar("_Result")


def ask(blame: Blame, what: str, call: Callable[[], _Result], *allowed: type[ReplkitError]) -> _Result:
    """What the backend answers. The simulator plans every fault itself, so an error of the backend's own is blamed.

    Errors of the types ``allowed`` are answers too, and go on to the caller.
    """
    try:
        return call()
    except InvariantError:  # blamed already
        raise
    except allowed:
        raise
    except Exception as error:
        blame(f"{what} raised {type(error).__name__}: {error}; no fault was planned there")
