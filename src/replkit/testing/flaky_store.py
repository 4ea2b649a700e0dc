"""An object store that misbehaves as real ones do, from a seed: for everything that lives in a bucket.

``faults`` says which of these happen, each with probability ``rate`` at each call that it can hit:

* ``timeout``: the call was done, and the answer is lost (``StoreUnavailableError``);
* ``unavailable``: the call was not done (503);
* ``short body``: a read gives only a part of what was asked for;
* ``stale list``: a listing lacks some of what is there and shows what is gone;
* ``duplicate put``: a put is done twice, the second time just before a later call.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence

from replkit.contracts.buffers import Buffer
from replkit.errors import StoreUnavailableError
from replkit.objectstore.store import ObjectInfo, ObjectStore

FAULTS = ("timeout", "unavailable", "short body", "stale list", "duplicate put")


class FlakyStore(ObjectStore):
    """``inner`` with faults, counted by kind in ``happened``; ``before_call(operation, key)`` runs before each call."""

    def __init__(
        self,
        inner: ObjectStore,
        chance: random.Random,
        *,
        rate: float = 0.1,
        faults: Sequence[str] = FAULTS,
        before_call: Callable[[str, str], None] | None = None,
    ) -> None:
        self.inner, self.url, self.rate, self.faults = inner, inner.url, rate, frozenset(faults)
        self.before_call = before_call
        self.happened = dict.fromkeys(FAULTS, 0)
        self._chance = chance
        self._late: list[tuple[str, bytes]] = []
        self._gone: list[ObjectInfo] = []

    def _hits(self, fault: str) -> bool:
        hit = fault in self.faults and self._chance.random() < self.rate
        self.happened[fault] += hit
        return hit

    def _begin(self, operation: str, key: str) -> None:
        if self.before_call is not None:
            self.before_call(operation, key)
        if self._late and self._chance.random() < 0.5:
            late, data = self._late.pop()
            self.inner.put(late, [data])
        if self._hits("unavailable"):
            raise StoreUnavailableError(f"{self.url}: {operation} of {key}: 503, slow down")

    def _end(self, operation: str, key: str) -> None:
        if self._hits("timeout"):
            raise StoreUnavailableError(f"{self.url}: {operation} of {key}: no answer")

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Perhaps twice; the second one comes late, but never after the key was deleted."""
        self._begin("put", key)
        self.inner.put(key, parts)
        if self._hits("duplicate put"):
            self._late.append((key, self.inner.get(key)))
        self._end("put", key)

    def put_new(self, key: str, data: Buffer) -> None:
        """Atomic as ever; its answer may be lost."""
        self._begin("put_new", key)
        self.inner.put_new(key, data)
        self._end("put_new", key)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Perhaps too short."""
        self._begin("get", key)
        data = self.inner.get(key, start, stop)
        if data and self._hits("short body"):
            return data[: self._chance.randrange(len(data))]
        return data

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Perhaps stale, in any order."""
        self._begin("list", prefix)
        found = list(self.inner.list(prefix))
        self._chance.shuffle(found)
        if found and self._hits("stale list"):
            found.pop()
            found += [info for info in self._gone if info.key.startswith(prefix)]
        yield from found

    def delete(self, keys: Iterable[str]) -> None:
        """Perhaps only some of them."""
        for key in keys:
            self._begin("delete", key)
            self._late = [(late, data) for late, data in self._late if late != key]
            self._gone = [*self._gone[-20:], ObjectInfo(key, 1)]
            self.inner.delete([key])
            self._end("delete", key)

    def close(self) -> None:
        """Close the inner one."""
        self.inner.close()
