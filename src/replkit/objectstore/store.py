"""The contract of an object store: the least that a bucket must do so that a replica can live in it (U2)."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from replkit.contracts.buffers import Buffer
from replkit.errors import InvalidArgumentError

MAX_KEY_BYTES = 900
MAX_PART_BYTES = 200
_KEY = re.compile(r"[a-z0-9._-]+(?:/[a-z0-9._-]+)*")


class ObjectInfo(NamedTuple):
    """One line of a listing."""

    key: str
    size_bytes: int


class ObjectStore(ABC):
    """Objects under keys, in one place (a bucket and a prefix) that ``url`` names.

    A key is parts of ``[a-z0-9._-]`` joined by ``/``, at most 200 bytes a part and 900 in all; no key may be the
    "folder" of another, and no object is empty: both trip real servers. Calls come from several threads at once.

    A store must be consistent: what was put or deleted before a ``get`` began is what the ``get`` sees. Nothing else
    is relied upon: not the order or freshness of a listing, not checksums on the server, no condition but that of
    ``put_new``.

    Errors: ``StoreUnavailableError`` when the store did not answer, throttled or failed after all repetitions, so that
    the outcome of a put or delete is unknown; ``StoreRefusedError`` for credentials and rights; ``NotFoundError`` when
    the bucket is not there.
    """

    url: str = ""
    """Where the objects are, without secrets; named in messages."""

    @abstractmethod
    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Store the concatenation of ``parts``, durable on return. To repeat it is harmless.

        For data under unique keys, never written with two contents; only hints and markers are overwritten.
        """

    @abstractmethod
    def put_new(self, key: str, data: Buffer) -> None:
        """Store an object only if there is none under the key, atomically; ``AlreadyExistsError`` else.

        An ambiguous outcome (time-out, server error) is resolved by reading back, so ``data`` must carry a token that
        no other writer writes.
        """

    @abstractmethod
    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes ``[start, stop)``, cut off at the object's end as a slice is; ``RecordMissingError`` if absent."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield objects whose key begins with ``prefix``, in any order; a hint that may lag behind."""

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, in any order, durable on return; one that is absent is passed over."""

    @property
    def requests(self) -> Mapping[str, int]:
        """Requests and bytes by kind since it was opened, for those who pay for them; empty where nobody counts."""
        return {}

    def close(self) -> None:  # noqa: B027 - nothing to close is a fine default
        """Give connections back."""


def check_key(key: str) -> str:
    """Return ``key`` if every store takes it, ``InvalidArgumentError`` else (invariant 12)."""
    parts = key.split("/")
    if not _KEY.fullmatch(key) or len(key) > MAX_KEY_BYTES or any(len(part) > MAX_PART_BYTES for part in parts):
        raise InvalidArgumentError(f"{key!r} is no key of an object", hint="use parts of a-z, 0-9, '.', '_' and '-'")
    if any(part in {".", ".."} for part in parts):
        raise InvalidArgumentError(f"{key!r} has a part that means another folder")
    return key
