"""Cells made of create-only keys: compare-and-swap on any store that has an honest ``If-None-Match: *``.

Each version of a cell is an object of its own under ``cells/<parts of the name>/<name>/<version>``, created once. Four
rules make the chain of versions a fence:

1. Version n+1 is created only by one who has read version n.
2. Versions go oldest first, one confirmed deletion after the other, and the newest eight stay: **while version n is
   there, no later version was ever deleted.** Version 1 is not deleted but overwritten by a *retired* marker of another
   token, so that nobody creates it twice.
3. A create of n+1 counts only if version n, read after it, is still there with the expected token. Else n+1 may have
   been created and deleted before, and what the writer made is a stray in the place of a dead version.
4. A reader that goes up from version n believes what it found above only if n, read after it, is still there.

A version carries the tokens of the 15 before it, so a writer that was overtaken while it checked still finds out
whether its own version was one of the chain. A hint object names a recent version; it and the remembered version
keep LIST off the hot path. A swap costs two requests and a deletion, a load of what did not change two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from replkit.contracts.savevolume import CellValue
from replkit.errors import (
    AlreadyExistsError,
    CorruptRecordError,
    RecordMissingError,
    StoreUnavailableError,
    SwapConflictError,
)
from replkit.objectstore.cellrecord import HEAD_BYTES, TOKEN_BYTES, CellHead, decode_cell, decode_head, encode_cell
from replkit.objectstore.store import ObjectStore

KEPT = 8
"""Newest versions that are never deleted; housekeeping is done at each version that is a multiple of it."""
_MAX_DEPTH = 4
_RETIRED = CellHead(version=1, token=b"retired-version1", is_retired=True)
_ATTEMPTS = 20


@dataclass(frozen=True)
class _Known:
    """The newest version that this opener has seen."""

    head: CellHead
    value: bytes


class CellStore:
    """The cells under ``prefix`` of a store, for any number of openers anywhere.

    ``load`` and ``swap`` are as in ``SaveVolume``. ``StoreUnavailableError`` from a swap means that the outcome is
    unknown: the next load tells.
    """

    def __init__(self, store: ObjectStore, prefix: str, runtime_random: Callable[[int], bytes]) -> None:
        self._store = store
        self._prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        self._random = runtime_random
        self._known: dict[str, _Known] = {}
        self._lowest: dict[str, int] = {}
        self._highest: dict[str, int] = {}

    # -- keys --

    def _folder(self, name: str) -> str:
        return f"{self._prefix}cells/{name.count('/') + 1}/{name}/"

    def version_key(self, name: str, version: int) -> str:
        """Key of one version."""
        return f"{self._folder(name)}{version:012d}"

    def hint_key(self, name: str) -> str:
        """Key of the hint."""
        return f"{self._prefix}hints/{name.count('/') + 1}/{name}"

    # -- reading --

    def load(self, name: str) -> CellValue:
        """The newest version and its value; version 0 and no bytes if the cell was never swapped."""
        known = self._newest(name)
        return CellValue(b"", 0) if known is None else CellValue(known.value, known.head.version)

    def peek(self, name: str) -> CellValue:
        """What this opener saw last, without a request; version 0 if it saw nothing."""
        known = self._known.get(name)
        return CellValue(b"", 0) if known is None else CellValue(known.value, known.head.version)

    def is_current(self, name: str, version: int) -> bool:
        """Whether ``version``, which this opener made or loaded, is still the newest; one or two requests."""
        newest = self._newest(name)
        return (0 if newest is None else newest.head.version) == version

    def _newest(self, name: str) -> _Known | None:
        start, highest = self._known.get(name), self._highest.get(name, 0)
        for _ in range(_ATTEMPTS):
            if start is None:
                start = self._find_start(name)
                if start is None:
                    self._check_forward(name, 0, highest)
                    return None
            newest = self._walk_up(name, start)
            if self._has_token(name, start.head):  # rule 4
                self._check_forward(name, newest.head.version, highest)
                self._remember(name, newest)
                return newest
            self._known.pop(name, None)
            start = None
        raise StoreUnavailableError(f"{self._store.url}: cell {name} changes faster than it can be read")

    def _check_forward(self, name: str, version: int, highest: int) -> None:
        """An honest chain never ends below a version that was believed before the look began."""
        if version < highest:
            raise CorruptRecordError(
                f"{self._store.url}: cell {name} is back at version {version}, after {highest} was seen",
                hint="the store gives an older state, or its objects were deleted",
            )

    def _walk_up(self, name: str, known: _Known) -> _Known:
        while (above := self._read(name, known.head.version + 1)) is not None:
            known = above
        return known

    def _read(self, name: str, version: int) -> _Known | None:
        key = self.version_key(name, version)
        try:
            head, value = self._get(name, key)
        except RecordMissingError:
            return None
        if head.version != version:
            raise CorruptRecordError(f"{self._store.url}: {key} holds version {head.version} of cell {name}")
        return None if head.is_retired else _Known(head, value)

    def _has_token(self, name: str, head: CellHead) -> bool:
        key = self.version_key(name, head.version)
        try:
            try:
                return decode_head(name, key, self._store.get(key, 0, HEAD_BYTES)).token == head.token
            except CorruptRecordError:
                return self._get(name, key)[0].token == head.token
        except RecordMissingError:
            return False

    def _get(self, name: str, key: str) -> tuple[CellHead, bytes]:
        try:
            return decode_cell(name, key, self._store.get(key))
        except CorruptRecordError:  # once more: it may have been the way, not the store
            return decode_cell(name, key, self._store.get(key))

    def _find_start(self, name: str) -> _Known | None:
        """A version that is there: version 1 of a young cell, what the hint names, else the highest one listed."""
        first = self._first(name)
        if first is None or not first.head.is_retired:
            return first
        with suppress(RecordMissingError, CorruptRecordError):
            hint, _ = self._get(name, self.hint_key(name))
            hinted = self._read(name, hint.version)
            if hinted is not None and hinted.head.token == hint.token:
                return hinted
        for version in sorted(self._listed(name), reverse=True):
            if (listed := self._read(name, version)) is not None:
                return listed
        raise StoreUnavailableError(f"{self._store.url}: cell {name} is there, but no version of it can be found")

    def _first(self, name: str) -> _Known | None:
        key = self.version_key(name, 1)
        try:
            return _Known(*self._get(name, key))
        except RecordMissingError:
            return None

    def _listed(self, name: str) -> list[int]:
        last_parts = (info.key.rpartition("/")[2] for info in self._store.list(self._folder(name)))
        return [int(part) for part in last_parts if part.isdigit()]

    def _remember(self, name: str, known: _Known) -> None:
        before = self._known.get(name)
        if before is None or before.head.version < known.head.version:  # threads may come in any order
            self._known[name] = known
            self._highest[name] = max(known.head.version, self._highest.get(name, 0))

    # -- writing --

    def swap(self, name: str, value: bytes, expected_version: int) -> int:
        """Make version ``expected_version + 1``, durably; ``SwapConflictError`` if that is not what was next."""
        known = self._known.get(name)
        if (known.head.version if known else 0) != expected_version or known is None:
            known = self._newest(name)
        before = known.head if known else CellHead(version=0, token=bytes(TOKEN_BYTES))
        if before.version != expected_version:
            raise self._conflict(name, f"at version {before.version}", expected_version)
        head = before.successor(self._random(TOKEN_BYTES))
        if not before.version:
            head = CellHead(version=1, token=head.token)
        self._create(name, head, value)
        if before.version and not self._has_token(name, before):  # rule 3
            self._settle_doubt(name, head)
        self._remember(name, _Known(head, value))
        if head.version % KEPT == 0:
            with suppress(StoreUnavailableError):  # the swap is done; the next round cleans up
                self._keep_house(name, head)
        return head.version

    def _conflict(self, name: str, what: str, expected_version: int) -> SwapConflictError:
        return SwapConflictError(f"{self._store.url}: cell {name} is {what}, not {expected_version}")

    def _create(self, name: str, head: CellHead, value: bytes) -> None:
        try:
            self._store.put_new(self.version_key(name, head.version), encode_cell(name, head, value))
        except (AlreadyExistsError, StoreUnavailableError) as error:
            # Either may come after our own create has succeeded: whose token is there decides.
            if self._has_token(name, head):
                return
            if isinstance(error, StoreUnavailableError):
                raise
            raise self._conflict(name, f"at version {head.version} or later", head.version - 1) from None

    def _settle_doubt(self, name: str, mine: CellHead) -> None:
        """The version before mine is gone: mine was overtaken, or it is a stray among dead versions."""
        self._known.pop(name, None)
        newest = self._newest(name)
        token = newest.head.token_of(mine.version) if newest else None
        if token == mine.token:
            return
        # All before it are gone, and the newest is more than eight ahead: to delete it keeps rule 2, stray or not.
        self._store.delete([self.version_key(name, mine.version)])
        raise self._conflict(name, f"at version {newest.head.version if newest else 0}", mine.version - 1)

    def _keep_house(self, name: str, head: CellHead) -> None:
        """Tell the hint, then delete what is old: one after the other, upward (rule 2)."""
        self._store.put(self.hint_key(name), [encode_cell(name, head, b"")])
        last = head.version - KEPT
        if name not in self._lowest and last > 0:
            self._store.put(self.version_key(name, 1), [encode_cell(name, _RETIRED, b"")])
            self._lowest[name] = self._find_lowest(name, last)
        for version in range(self._lowest.get(name, 1), last + 1):
            self._store.delete([self.version_key(name, version)])
            self._lowest[name] = version + 1

    def _find_lowest(self, name: str, last: int) -> int:
        """The lowest version that is left, by going down: a listing might lack one, and rule 2 would be broken."""
        version = last + 1
        while version > 2:
            try:
                self._store.get(self.version_key(name, version - 1), 0, 1)
            except RecordMissingError:
                break
            version -= 1
        return version

    # -- names --

    def cells(self, prefix: str = "") -> Sequence[str]:
        """Sorted names of cells that were swapped at least once; by LIST."""
        names = set()
        for depth in range(prefix.count("/") + 1, _MAX_DEPTH + 1):
            folder = f"{self._prefix}cells/{depth}/"
            for info in self._store.list(folder + prefix):
                names.add(info.key.removeprefix(folder).rpartition("/")[0])
        return sorted(name for name in names if name.startswith(prefix))
