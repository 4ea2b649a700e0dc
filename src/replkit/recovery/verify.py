"""Proving that a secondary equals its primary at a boundary, while replication goes on; only hashes travel (X4).

The primary cuts with a snapshot ``verify.<id>`` and a mark of that id in the header of the set; the player of the
member stops at the mark and makes a snapshot of the same name. Both are hashed range by range; a range that differs
is hashed again block by block, so the report names blocks. What neither side has in use is not read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from replkit.blocks.extent import Extent, normalise
from replkit.contracts.buffers import Buffer
from replkit.contracts.volume import BlockVolume
from replkit.errors import InvalidArgumentError, NotFoundError, ProtocolError, RefusedError
from replkit.recovery.hashes import HASH_BYTES, range_hashes
from replkit.replication.player import VERIFY_SNAPSHOT
from replkit.snapshot.records import SnapshotRecord

PREFIX = VERIFY_SNAPSHOT
"""Names of the snapshots of a verification begin so, on both sides."""
RANGE_BYTES = 1 << 20
ASK_BLOCKS_BYTES = 64 << 20
"""How much of the volume one question covers, so that an answer is small and soon there."""
NOT_YET = "not-yet"
"""Code of the refusal of a member that has not played the set with the mark."""

MAX_DIGESTS = 4096
"""More are not answered at once."""
_Count = Annotated[int, Meta(ge=0, le=1 << 48)]


class _Question(msgspec.Struct, frozen=True):
    """Arguments of ``verify-hashes``; they come from outside (invariant 12)."""

    id: Annotated[str, Meta(pattern="^[0-9a-z-]{1,64}$")]
    number: _Count = 0
    start: _Count = 0
    count: _Count = 0
    range_blocks: Annotated[int, Meta(ge=1, le=1 << 32)] = 1


Answer = Callable[[], tuple[dict[str, Any], Buffer]]
"""Waits for result and payload of a call, or raises its error."""
Ask = Callable[[str, dict[str, Any], Buffer], Answer]
"""Begins a call to the member's site: name, arguments, payload. Both sides hash meanwhile, where it returns at once."""


def answer_hashes(
    open_snapshot: Callable[[str], BlockVolume], played: Callable[[], int], arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], bytes]:
    """The member's answer to ``verify-hashes``: digests of its snapshot of the verification.

    ``RefusedError`` with the code ``not-yet`` while the set with the mark was not played.
    """
    asked = _question(arguments)
    name = f"{PREFIX}{asked.id}"
    try:
        snapshot = open_snapshot(name)
    except NotFoundError:
        if played() < asked.number:
            raise RefusedError(f"set {asked.number} was not played yet", code=NOT_YET) from None
        raise RefusedError(
            f"the snapshot of verification {asked.id} is gone", code="gone", hint="run verify again"
        ) from None
    if asked.count > asked.range_blocks * MAX_DIGESTS or asked.count * snapshot.block_size > ASK_BLOCKS_BYTES:
        raise InvalidArgumentError(f"verify-hashes: {asked.count} blocks at once are too many")
    return {}, range_hashes(snapshot, asked.start, asked.count, asked.range_blocks)


def answer_end(
    snapshots: Callable[[], tuple[SnapshotRecord, ...]], delete: Callable[[str], None], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """The member's answer to ``verify-end``: its snapshot goes; whether there was one."""
    name = f"{PREFIX}{_question(arguments).id}"
    if all(record.name != name for record in snapshots()):
        return {"deleted": False}
    delete(name)
    return {"deleted": True}


def _question(arguments: Mapping[str, Any]) -> _Question:
    try:
        return msgspec.convert(dict(arguments), _Question)
    except msgspec.ValidationError as error:
        raise InvalidArgumentError(f"verification: {error}") from error


class Verification:
    """One verification of one member, in bounded steps.

    Args:
        id: its id, part of the names of both snapshots.
        number: number of the boundary.
        snapshot: the primary's snapshot of it.
        ask: calls the member's site.
        volume: name of the volume there.
    """

    def __init__(self, *, id: str, number: int, snapshot: BlockVolume, ask: Ask, volume: str) -> None:  # noqa: A002
        self.id, self.number = id, number
        self._snapshot, self._ask, self._volume = snapshot, ask, volume
        self._range_blocks = max(1, RANGE_BYTES // snapshot.block_size)
        self._step_blocks = self._range_blocks * max(1, ASK_BLOCKS_BYTES // RANGE_BYTES)
        self.next_block = 0
        self.hash_bytes = 0
        self._differing: list[Extent] = []
        self._mine: tuple[tuple[int, int, int], bytes] = ((0, 0, 0), b"")
        """The last digests made here, for a question that is asked again."""

    @property
    def block_count(self) -> int:
        """Blocks of the volume."""
        return self._snapshot.block_count

    @property
    def differing(self) -> list[Extent]:
        """What was found to differ so far, ascending."""
        return normalise(self._differing)

    def step(self) -> bool:
        """Compare the next stretch; whether there is more. ``RefusedError`` as the member says it (``not-yet``)."""
        start, stop = self.next_block, min(self.next_block + self._step_blocks, self.block_count)
        if start == stop:
            return False
        for first in self._unequal(start, stop - start, self._range_blocks):
            blocks = min(self._range_blocks, stop - first)
            self._differing += [Extent(block, 1) for block in self._unequal(first, blocks, 1)]
        self.next_block = stop
        return stop < self.block_count

    def _unequal(self, start: int, count: int, range_blocks: int) -> list[int]:
        """First blocks of the ranges whose digests differ."""
        question = {"volume": self._volume, "id": self.id, "number": self.number,
                    "start": start, "count": count, "range_blocks": range_blocks}  # fmt: skip
        answer = self._ask("verify-hashes", question, b"")
        asked = (start, count, range_blocks)
        if self._mine[0] != asked:
            self._mine = (asked, range_hashes(self._snapshot, *asked))
        mine, theirs = self._mine[1], bytes(answer()[1])
        if len(theirs) != len(mine):
            raise ProtocolError(f"verify-hashes of {count} blocks: {len(theirs)} bytes of digests, not {len(mine)}")
        self.hash_bytes += len(mine)
        return [
            start + place * range_blocks
            for place in range(len(mine) // HASH_BYTES)
            if mine[place * HASH_BYTES : (place + 1) * HASH_BYTES]
            != theirs[place * HASH_BYTES : (place + 1) * HASH_BYTES]
        ]
