"""What a backend raises, as the typed errors of its contract."""

from __future__ import annotations

import errno
from types import TracebackType
from typing import NoReturn

from replkit.errors import ReplkitError, StorageError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Translate:
    """Turns what a backend raises into the typed errors of its contract; one object a guard.

    Used as ``with``; where every microsecond counts, ``reraise`` in an ``except`` clause, which costs nothing else.
    """

    def __init__(self, name: str, failed: type[StorageError], full: type[StorageError]) -> None:
        self._name, self._failed, self._full = name, failed, full

    def reraise(self, error: Exception) -> NoReturn:
        """Raise ``error`` as what it has to be."""
        if isinstance(error, ReplkitError):
            raise error
        if isinstance(error, OSError) and error.errno in _FULL:
            raise self._full(f"{self._name}: no room left: {error}") from error
        raise self._failed(f"{self._name}: {type(error).__name__}: {error}") from error

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if isinstance(error, Exception) and not isinstance(error, ReplkitError):
            self.reraise(error)
