"""The cell ``sent.<member>``: what a member acknowledged, kept by its sender (D4, R8, invariant 13)."""

from __future__ import annotations

import msgspec

from replkit.contracts.runtime import Runtime
from replkit.contracts.savevolume import SaveVolume
from replkit.errors import SwapConflictError
from replkit.replication.cells import MemberProgress, sent_cell
from replkit.replication.root import StructCell

RECORD_EVERY_S = 2.0


class ProgressRecorder:
    """Swaps changes of state and acknowledgement at once, and figures of rate every few seconds."""

    def __init__(self, save: SaveVolume, member: str, runtime: Runtime) -> None:
        self._save, self._member = save, member
        self._cell = StructCell(save, sent_cell(member), MemberProgress)
        self._runtime = runtime
        self._value = self._cell.get() or MemberProgress()
        self._started_s = self._since_s = runtime.monotonic()
        self._bytes = self._total_bytes = 0

    def get(self) -> MemberProgress:
        """The newest value; its figures of what was sent may be ahead of the cell."""
        return msgspec.structs.replace(self._value, sent_bytes=self._value.sent_bytes + self._bytes)

    @property
    def average_bytes_per_s(self) -> float:
        """Over the life of this sender."""
        return self._total_bytes / max(1e-6, self._runtime.monotonic() - self._started_s)

    @property
    def sent_bytes(self) -> int:
        """All that was sent, what is not recorded yet included."""
        return self._value.sent_bytes + self._bytes

    def change(self, **changes: object) -> None:
        """Record something that must not be lost."""
        value = msgspec.structs.replace(self._value, **changes)
        if value != self._value:
            self._store(value)

    def state(self, state: str) -> None:
        """Record the state."""
        self.change(state=state)

    def copying(self, next_block: int) -> None:
        """How far the copy was sent; recorded with the next figures."""
        self._value = msgspec.structs.replace(self._value, copy_next_block=next_block)

    def count(self, size_bytes: int) -> None:
        """So many bytes more were sent."""
        self._bytes += size_bytes
        self._total_bytes += size_bytes

    def tick(self) -> None:
        """Record figures if it is time."""
        elapsed_s = self._runtime.monotonic() - self._since_s
        if elapsed_s < RECORD_EVERY_S:
            return
        rate = self._bytes / elapsed_s
        sent_bytes = self._value.sent_bytes + self._bytes
        self._bytes, self._since_s = 0, self._runtime.monotonic()
        if (rate, sent_bytes) != (self._value.rate_bytes_per_s, self._value.sent_bytes):
            self._store(msgspec.structs.replace(self._value, rate_bytes_per_s=rate, sent_bytes=sent_bytes))

    def _store(self, value: MemberProgress) -> None:
        value = msgspec.structs.replace(value, updated_s=self._runtime.now())
        try:
            self._cell.set(value)
        except SwapConflictError:  # another sender of this member wrote, one that lives on: go on from what it has
            self._cell = StructCell(self._save, sent_cell(self._member), MemberProgress)
            self._value = self._cell.get() or MemberProgress()
            raise
        self._value = value
