"""The root cell: whatever makes something visible is a swap of it, so a fenced producer publishes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from replkit.contracts.position import Epoch, HistoryEntry, Position
from replkit.contracts.runtime import Runtime
from replkit.contracts.savevolume import SaveVolume
from replkit.deltaset.identity import lineage_identity
from replkit.errors import CorruptRecordError, FencedError, NotFoundError, StoreUnavailableError, SwapConflictError
from replkit.replication.cells import PRODUCER_CELLS, ROOT, ROOT_FORMAT, Role, Root
from replkit.snapshot.owned import OwnedCell
from replkit.snapshot.records import SnapshotRecord

Struct = TypeVar("Struct", bound=msgspec.Struct)


def load_struct(save: SaveVolume, cell: str, kind: type[Struct]) -> tuple[Struct | None, int]:
    """A cell as a struct of ``kind`` and its version; ``None`` where it was never swapped."""
    value, version = save.load(cell)
    return decode_struct(cell, value, kind), version


def decode_struct(cell: str, value: bytes, kind: type[Struct]) -> Struct | None:
    """What a cell holds as a struct; ``None`` for an empty one, ``CorruptRecordError`` for another one."""
    if not value:
        return None
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptRecordError(f"cell {cell} does not hold a valid {kind.__name__}: {error}") from error


def read_root(save: SaveVolume) -> Root:
    """The root as it is now, for readers; ``NotFoundError`` where none was ever made."""
    root, _version = load_root(save)
    if root is None:
        raise NotFoundError("the save volume has no root: it was never used by a replica")
    return root


def load_root(save: SaveVolume) -> tuple[Root | None, int]:
    """The root and its version; ``CorruptRecordError``, too, where another version of replkit wrote it."""
    value, version = save.load(ROOT)
    try:
        root = decode_struct(ROOT, value, Root)
    except CorruptRecordError as error:
        found = _format_of(value)
        if found == ROOT_FORMAT:
            raise
        raise _other_format(found) from error
    if root is not None and root.format != ROOT_FORMAT:
        raise _other_format(root.format)
    return root, version


class _Format(msgspec.Struct):
    """What every version of the root says."""

    format: int


def _format_of(value: bytes) -> int:
    """The format that a root says; one that says none is damaged, not of another format."""
    try:
        return msgspec.json.decode(value, type=_Format).format
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ROOT_FORMAT


def _other_format(found: int) -> CorruptRecordError:
    return CorruptRecordError(
        f"cell {ROOT} has format {found}; this version knows {ROOT_FORMAT}", hint="use the replkit that wrote it"
    )


def new_root(runtime: Runtime, role: Role) -> Root:
    """The first root of a replica; a secondary learns its lineage from the first new copy."""
    lineage = ""
    epoch = Epoch(0, "")
    if role == "primary":
        raw = runtime.random_bytes(24).hex()
        lineage, epoch = raw[:32], Epoch(1, raw[32:])
    return Root(
        lineage=lineage,
        role=role,
        epoch=epoch,
        history=(HistoryEntry(epoch, 1),) if lineage else (),
        last=Position(epoch, 0, lineage_identity(lineage) if lineage else ""),
    )


class RootCell:
    """The root of a save volume that this process has opened as producer.

    ``claim`` swaps a fresh owner token in; from then on every ``mutate`` that finds the cell changed by somebody
    else raises ``FencedError`` (invariant 8). Services of one process share one ``RootCell``.
    """

    def __init__(self, save: SaveVolume, runtime: Runtime) -> None:
        self._save = save
        self._runtime = runtime
        self._lock = runtime.lock()
        self._root: Root | None = None
        self._version = 0
        self._is_in_doubt = False
        self.writer = ""

    @classmethod
    def claim(cls, save: SaveVolume, runtime: Runtime, role: Role) -> RootCell:
        """Take the save volume: make its root if there is none, and put our owner token into it."""
        cell = cls(save, runtime)
        root, cell._version = load_root(save)
        root = root if root is not None else new_root(runtime, role)
        cell.writer = runtime.random_bytes(6).hex()
        cell._root = root
        cell.mutate(lambda now: msgspec.structs.replace(now, owner=cell.writer))
        for name in PRODUCER_CELLS:
            _take(save, name)
        return cell

    def get(self) -> Root:
        """The newest root; no I/O, but after a swap of which the store did not say whether it was made."""
        if self._is_in_doubt:
            with self._lock:
                self._adopt_own()
        root = self._root
        if root is None:
            raise FencedError("the root of this save volume belongs to another owner")
        return root

    def mutate(self, change: Callable[[Root], Root]) -> Root:
        """Swap ``change(root)`` in, durably; ``FencedError`` when another owner has swapped it since."""
        with self._lock:
            while True:
                root = change(self._own())
                if root == self._root:
                    return root
                try:
                    self._version = self._save.swap(ROOT, msgspec.json.encode(root), self._version)
                except SwapConflictError as error:
                    if self._adopt_own():  # a swap of ours that was in doubt has come through
                        continue
                    self._root = None
                    raise FencedError(
                        "the root of this save volume was swapped by another owner",
                        hint="open it again after a promotion",
                    ) from error
                except StoreUnavailableError:
                    self._is_in_doubt = True
                    raise
                self._root = root
                return root

    def _own(self) -> Root:
        if self._is_in_doubt:
            self._adopt_own()
        if self._root is None:
            raise FencedError("the root of this save volume belongs to another owner")
        return self._root

    def _adopt_own(self) -> bool:
        """Take the root as the store has it, if it is newer than what is known here and still ours."""
        try:
            root, version = load_root(self._save)
        except StoreUnavailableError:
            return False
        self._is_in_doubt = False
        if root is None or root.owner != self.writer or version <= self._version:
            return False
        self._root, self._version = root, version
        return True


def _take(save: SaveVolume, name: str) -> None:
    """Give a cell another version, so that a producer from before can swap it no more (invariant 8).

    One that is not there yet costs nothing: in a bucket each swap is some requests.
    """
    while True:
        value, version = save.load(name)
        if not version:
            return
        try:
            save.swap(name, value, version)
        except SwapConflictError:  # that one was quicker: it can do so once for each step that it is still in
            continue
        return


class RootSnapshotTable:
    """The queue of snapshots of the volume, kept in its root: a snapshot exists once the swap is done."""

    def __init__(self, cell: RootCell) -> None:
        self._cell = cell

    def load(self) -> tuple[SnapshotRecord, ...]:
        """The records, oldest first."""
        return self._cell.get().snapshots

    def store(self, records: tuple[SnapshotRecord, ...]) -> None:
        """Publish the new queue."""
        self._cell.mutate(lambda root: msgspec.structs.replace(root, snapshots=records))


class StructCell(Generic[Struct]):
    """A cell of one service, as a struct, remembered so that a step need not load it again."""

    def __init__(self, save: SaveVolume, name: str, kind: type[Struct]) -> None:
        self._cell = OwnedCell(save, name)
        self._value = decode_struct(name, self._cell.value, kind)
        self._wanted = self._value
        """What was swapped in last, made or not."""

    def get(self) -> Struct | None:
        """The value, ``None`` where it was never set; no I/O, but after a swap that a store left in doubt."""
        if self._cell.settle():
            self._value = self._wanted
        return self._value

    def set(self, value: Struct) -> None:
        """Swap the value in, durably; only this service writes the cell."""
        self.get()
        self._wanted = value
        self._cell.swap(msgspec.json.encode(value))
        self._value = value
