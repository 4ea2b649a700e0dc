"""Scrub: read all that a save volume, or a volume whose reads are verified, holds, and say what of it is damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from replkit.contracts.savevolume import SaveVolume
from replkit.contracts.volume import BlockVolume
from replkit.errors import CorruptRecordError, RecordMissingError

PIECE_BYTES = 1 << 20


def scrub(save: SaveVolume, progress: Callable[[int, int], None] | None = None) -> Iterator[str]:
    """Verify every record and every cell; yield a sentence for each one that is damaged, and go on.

    May run beside the producer, in a reader: what is deleted meanwhile is passed over. A save area that is known to
    lack a record is named once for each of its records that is left (invariant 4). ``progress(checked, total)`` is
    called after each record and cell.
    """
    keys, cells = list(save.list("")), list(save.cells())
    checks: list[tuple[str, Callable[[str], object]]] = [(key, lambda key: _check_record(save, key)) for key in keys]
    checks += [(cell, save.load) for cell in cells]
    for checked, (name, check) in enumerate(checks, 1):
        try:
            check(name)
        except RecordMissingError:
            pass
        except CorruptRecordError as error:
            yield f"{name}: {error}"
        if progress is not None:
            progress(checked, len(checks))


def _check_record(save: SaveVolume, key: str) -> None:
    save.list(f"{key}/" if key.count("/") == 1 else key)
    save.get(key)


def scrub_volume(volume: BlockVolume, progress: Callable[[int], None] | None = None) -> Iterator[tuple[int, str]]:
    """Read every block in use, of a volume that verifies what it reads; yield each damaged or lost one, and why.

    ``progress(checked)`` is called after each piece, with the blocks so far. ``CorruptRecordError`` or
    ``RecordMissingError`` where it cannot be told which blocks are in use.
    """
    most, checked = max(1, PIECE_BYTES // volume.block_size), 0
    for extent in volume.in_use():
        for start in range(extent.start, extent.stop, most):
            count = min(most, extent.stop - start)
            yield from _check_blocks(volume, start, count)
            checked += count
            if progress is not None:
                progress(checked)


def _check_blocks(volume: BlockVolume, start: int, count: int) -> Iterator[tuple[int, str]]:
    """All at once; block by block if that fails."""
    try:
        volume.read_into(start, memoryview(bytearray(count * volume.block_size)))
    except (CorruptRecordError, RecordMissingError) as error:
        if count == 1:
            yield start, error.message
            return
        for block in range(start, start + count):
            yield from _check_blocks(volume, block, 1)
