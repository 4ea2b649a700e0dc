"""Find the zeros in what was read from a volume, so that they need not be kept or sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from replkit.blocks.extent import Extent
from replkit.contracts.buffers import Buffer
from replkit.deltaset.pieces import Kind, Piece
from replkit.errors import InvalidArgumentError

ZEROS: Final = bytes(1 << 20)
_WORD_BYTES: Final = 8


def is_zero(view: memoryview) -> bool:
    """Whether every byte is zero; one comparison in C for each MiB."""
    if len(view) <= len(ZEROS):
        return ZEROS.startswith(view)
    return all(ZEROS.startswith(view[at : at + len(ZEROS)]) for at in range(0, len(view), len(ZEROS)))


def find_pieces(start: int, buffer: Buffer, block_size: int) -> tuple[list[Piece], list[memoryview]]:
    """Split the blocks read from ``start`` into DATA and ZERO pieces, with a view of the data of each DATA piece.

    Only a block whose first word is zero is looked at further; the first words are fetched by one C call.
    """
    view = memoryview(buffer).cast("B")
    block_count, rest = divmod(len(view), block_size)
    if rest or block_size % _WORD_BYTES:
        raise InvalidArgumentError(f"{len(view)} bytes from block {start} are no whole number of {block_size}")
    first_words = view.cast("Q")[:: block_size // _WORD_BYTES].tolist()
    zero_runs = _zero_runs(first_words, view, block_size) if 0 in first_words else []
    pieces: list[Piece] = []
    data: list[memoryview] = []
    at = 0
    for low, high in [*zero_runs, (block_count, block_count)]:
        if low > at:
            pieces.append(Piece(start + at, low - at, Kind.DATA))
            data.append(view[at * block_size : low * block_size])
        if high > low:
            pieces.append(Piece(start + low, high - low, Kind.ZERO))
        at = high
    return pieces, data


def find_pieces_of(extents: Sequence[Extent], buffer: Buffer, block_size: int) -> tuple[list[Piece], list[memoryview]]:
    """``find_pieces`` for extents that were read one after another; one view of all data where none of it is zero."""
    view = memoryview(buffer).cast("B")
    if 0 not in view.cast("Q")[:: block_size // _WORD_BYTES].tolist():
        return [Piece(start, count, Kind.DATA) for start, count in extents], [view] if extents else []
    pieces: list[Piece] = []
    data: list[memoryview] = []
    offset = 0
    for start, count in extents:
        found, parts = find_pieces(start, view[offset : offset + count * block_size], block_size)
        pieces += found
        data += parts
        offset += count * block_size
    return pieces, data


def _zero_runs(first_words: list[int], view: memoryview, block_size: int) -> list[tuple[int, int]]:
    """Runs ``[low, high)`` of zero blocks, by their index in ``view``."""
    if is_zero(view):
        return [(0, len(first_words))]
    runs: list[tuple[int, int]] = []
    for index, word in enumerate(first_words):
        if word or not is_zero(view[index * block_size : (index + 1) * block_size]):
            continue
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return runs
