"""The identity of a position: made once, at commit, from parent, number and content of the set (DESIGN section 6)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from xxhash import xxh3_128

from replkit.contracts.buffers import Buffer
from replkit.contracts.position import Epoch
from replkit.deltaset.pieces import Kind, Piece
from replkit.errors import InvalidArgumentError

IDENTITY_HEX_DIGITS: Final = 32
_RUN = struct.Struct("<QQB")


def lineage_identity(lineage: str) -> str:
    """Identity of position 0, the volume as it was when its lineage began."""
    return xxh3_128(b"replkit lineage\0" + lineage.encode()).hexdigest()


class IdentityDigest:
    """Digest of one delta set as first cut, fed in ascending block order.

    Adjacent pieces of one kind count as one, and data is one stream, so the result does not depend on how the set was
    split into chunks, nor on compression or encryption.
    """

    def __init__(self, parent: str, epoch: Epoch, number: int) -> None:
        self._head = f"replkit set\0{parent}\0{epoch.count}\0{epoch.promotion}\0{number}\0".encode()
        self._list = xxh3_128()
        self._data = xxh3_128()
        self._run: tuple[int, int, Kind] | None = None

    def update(self, pieces: Sequence[Piece], data: Iterable[Buffer]) -> None:
        """Add the next pieces, and the plain content of those that are DATA."""
        for start, count, kind in pieces:
            if self._run is not None:
                first, stop, run_kind = self._run
                if start < stop:
                    raise InvalidArgumentError(f"identity: piece at block {start} after one that ends at {stop}")
                if start == stop and kind == run_kind:
                    self._run = (first, stop + count, kind)
                    continue
                self._list.update(_RUN.pack(first, stop - first, run_kind))
            self._run = (start, start + count, kind)
        for part in data:
            self._data.update(part)

    def hexdigest(self) -> str:
        """The identity of what was added so far, 32 hex digits."""
        blocks = self._list.copy()
        if self._run is not None:
            first, stop, kind = self._run
            blocks.update(_RUN.pack(first, stop - first, kind))
        return xxh3_128(self._head + blocks.digest() + self._data.digest()).hexdigest()
