"""An object store in memory, for tests and simulation; as strict as the strictest real one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from replkit.contracts.buffers import Buffer
from replkit.errors import AlreadyExistsError, InvalidArgumentError, RecordMissingError
from replkit.objectstore.store import ObjectInfo, ObjectStore, check_key


class MemoryObjectStore(ObjectStore):
    """Objects in a dictionary, whose single operations are atomic, so that no lock is needed.

    Several openers share the objects by passing the same ``objects``.
    """

    def __init__(self, url: str = "memory-objects:", objects: dict[str, bytes] | None = None) -> None:
        self.url = url
        self.objects: dict[str, bytes] = {} if objects is None else objects

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Keep one copy."""
        self.objects[check_key(key)] = self._not_empty(key, b"".join(memoryview(part) for part in parts))

    def put_new(self, key: str, data: Buffer) -> None:
        """``setdefault`` decides who was first."""
        mine = self._not_empty(key, bytes(bytearray(memoryview(data))))  # a new object, also of bytes
        if self.objects.setdefault(check_key(key), mine) is not mine:
            raise AlreadyExistsError(f"{self.url}: {key} is already there")

    def _not_empty(self, key: str, data: bytes) -> bytes:
        if not data:
            raise InvalidArgumentError(f"{self.url}: {key}: an object is never empty")
        return data

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """A slice."""
        try:
            return self.objects[check_key(key)][start:stop]
        except KeyError:
            raise RecordMissingError(f"{self.url}: no object {key}") from None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """A picture of this moment."""
        for key, data in list(self.objects.items()):
            if key.startswith(prefix):
                yield ObjectInfo(key, len(data))

    def delete(self, keys: Iterable[str]) -> None:
        """Forget objects."""
        for key in keys:
            self.objects.pop(check_key(key), None)
