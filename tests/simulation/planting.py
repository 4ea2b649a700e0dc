"""What planted bugs are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest


class Plant(NamedTuple):
    """A bug: the invariant that it breaks, what it is, and whose real bug it is like."""

    name: str
    invariant: int
    text: str
    plant: Callable[[pytest.MonkeyPatch], None]
    twin: str = ""
    first_seed: int = 0


def nothing(*_args: object, **_options: object) -> None:
    """Done."""


def put(owner: Any, name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """Replace an attribute."""
    return lambda patch: patch.setattr(owner, name, value)


def wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> Callable[[pytest.MonkeyPatch], None]:
    """Replace a function by one made of it."""
    return lambda patch: patch.setattr(owner, name, make(getattr(owner, name)))


def without(owner: Any, name: str, kind: Any, method: str, result: Any = None) -> Callable[[pytest.MonkeyPatch], None]:
    """While ``owner.name`` runs, ``kind.method`` does nothing."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        work, kept = getattr(owner, name), getattr(kind, method)

        def broken(*args: Any, **options: Any) -> Any:
            setattr(kind, method, lambda *_a, **_o: result)
            try:
                return work(*args, **options)
            finally:
                setattr(kind, method, kept)

        patch.setattr(kind, method, kept)  # put back at the end in any case
        patch.setattr(owner, name, broken)

    return plant
