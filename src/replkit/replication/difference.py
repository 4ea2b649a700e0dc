"""Which blocks two positions differ in: from kept block lists, and from lists that another site sent (R4, DESIGN 9).

A list is records ``<key>/<n>`` of bit maps of ``PAGE_BLOCKS`` blocks each, and ``<key>/head``, which is put last:
a list without a head does not exist. ``key`` is like ``lists/resync-7``.
"""

from __future__ import annotations

from typing import Final

import msgspec

from replkit.blocks.bitmap import PagedBitmap
from replkit.blocks.record import seal, unseal
from replkit.contracts.buffers import Buffer
from replkit.contracts.savevolume import SaveVolume
from replkit.errors import CorruptRecordError, InvalidArgumentError, RecordMissingError
from replkit.replication.branches import is_compared
from replkit.replication.cells import Difference, Root
from replkit.replication.directory import numbers_between, span_of
from replkit.replication.set_reader import SetReader

PAGE_BLOCKS: Final = 1 << 26
"""Blocks of one record of a list: at most 8 MiB of bits."""
LIST_MAGIC: Final = b"RKLH"
LIST_VERSION: Final = 1
HEAD: Final = "head"
MAX_HEAD_BYTES: Final = 4096
MAX_BLOCKS: Final = 1 << 48
RESYNC_LISTS: Final = "lists/resync-"
"""Keys of lists of blocks that a side which returns changed begin so: at that side, and where it sent them."""


class _ListHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    block_count: int
    pages: int


def blocks_between(save: SaveVolume, root: Root, after: int, last: int, block_count: int) -> PagedBitmap:
    """The blocks below ``block_count`` that the sets after position ``after`` up to position ``last`` changed.

    Data of the sets is not needed, their block lists are: ``RecordMissingError`` where one was trimmed, or is damaged,
    or is that of a comparison, which does not name all that changed. Blocks that the volume lacked at one of the sets
    count as changed: where it was made smaller and larger again they were cut off.
    """
    blocks = PagedBitmap(block_count)
    if after >= last:
        return blocks
    if span_of(root, after + 1).last < root.first_listed:
        raise RecordMissingError(
            f"list trimmed: the blocks changed after position {after} are known from {root.first_listed} on only",
            hint="compare hashes of both volumes, or make a full copy",
        )
    reader = SetReader(save, lambda: root, MAX_BLOCKS)  # the volume may have been larger than it is now
    for number in numbers_between(root, after + 1, last):
        try:
            header = reader.header(number)
            if is_compared(header):
                raise RecordMissingError(
                    f"set {number} has what hashes found to differ here, and not all that changed before it",
                    hint="compare hashes of both volumes, or make a full copy",
                )
            _set_from(blocks, header.volume_block_count)
            for piece in reader.block_list(number):
                _set_below(blocks, piece.start, piece.count)
        except CorruptRecordError as error:
            raise RecordMissingError(
                f"list damaged: what set {number} changed is not known: {error}",
                hint="compare hashes of both volumes, or make a full copy",
            ) from error
    return blocks


def difference_blocks(
    save: SaveVolume, root: Root, difference: Difference, stamp: int, block_count: int
) -> PagedBitmap:
    """What a member that stands at the fork but for its own list lacks at position ``stamp``: mine and theirs (R4)."""
    blocks = PagedBitmap(block_count)
    if difference.list_key:
        blocks.update(get_list(save, difference.list_key, block_count))
    since = difference.exact_at if difference.exact else difference.fork.number
    if since is not None and since < stamp:
        blocks.update(blocks_between(save, root, since, stamp, block_count))
    return blocks


def put_list(save: SaveVolume, key: str, blocks: PagedBitmap) -> None:
    """Store a list durably in place of one with this key; a crash before the end leaves no list."""
    delete_list(save, key)
    pages = -(-blocks.block_count // PAGE_BLOCKS)
    for number in range(pages):
        page = PagedBitmap(PAGE_BLOCKS)
        for run in blocks.runs(number * PAGE_BLOCKS, (number + 1) * PAGE_BLOCKS):
            page.set_run(run.start - number * PAGE_BLOCKS, run.count)
        save.put(_page_key(key, number), [page.to_bytes()])
    save.sync()
    head = msgspec.json.encode(_ListHead(blocks.block_count, pages))
    save.put(_head_key(key), [seal(LIST_MAGIC, LIST_VERSION, head)])
    save.sync()


def has_list(save: SaveVolume, key: str) -> bool:
    """Whether the list is there, whole."""
    try:
        save.size_bytes(_head_key(key))
    except RecordMissingError:
        return False
    return True


def get_list(save: SaveVolume, key: str, block_count: int) -> PagedBitmap:
    """The blocks of a list that are below ``block_count``; ``RecordMissingError`` where there is no such list.

    A list says nothing of blocks from its own block count on, so they count as in it.
    """
    head = _decode_head(save.get(_head_key(key)), f"list {key}")
    blocks = PagedBitmap(block_count)
    for number in range(min(head.pages, -(-block_count // PAGE_BLOCKS))):
        page = PagedBitmap.from_bytes(PAGE_BLOCKS, save.get(_page_key(key, number)))
        for run in page.runs():
            _set_below(blocks, number * PAGE_BLOCKS + run.start, run.count)
    _set_from(blocks, head.block_count)
    return blocks


def check_list_record(name: str, record: Buffer, what: str) -> None:
    """``CorruptRecordError`` where a record of a list that came from another site is not what was sent (invariant 12).

    It is kept under its name for good, so it is looked at before. ``name`` is the last part of its key.
    """
    view = memoryview(record).cast("B")
    if name == HEAD:
        _decode_head(view, what)
    else:
        PagedBitmap.from_bytes(PAGE_BLOCKS, view)


def _decode_head(record: memoryview, what: str) -> _ListHead:
    plain = unseal(LIST_MAGIC, LIST_VERSION, record, max_plain_bytes=MAX_HEAD_BYTES, what=f"head of {what}")
    try:
        head = msgspec.json.decode(plain, type=_ListHead)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptRecordError(f"head of {what}: {error}") from error
    if not 0 <= head.block_count <= MAX_BLOCKS or head.pages != -(-head.block_count // PAGE_BLOCKS):
        raise CorruptRecordError(f"head of {what}: {head.pages} pages for {head.block_count} blocks")
    return head


def delete_list(save: SaveVolume, key: str) -> None:
    """Delete a list, or what a crash left of one; the head goes first."""
    if not key.startswith("lists/"):
        raise InvalidArgumentError(f"{key!r} is no key of a list: it does not begin with lists/")
    if has_list(save, key):
        save.delete([_head_key(key)])
        save.sync()  # else the head could come back after a crash, and its pages not
    save.delete(save.list(f"{key}/"))


def _set_below(blocks: PagedBitmap, start: int, count: int) -> None:
    if start < blocks.block_count:
        blocks.set_run(start, min(count, blocks.block_count - start))


def _set_from(blocks: PagedBitmap, start: int) -> None:
    _set_below(blocks, start, blocks.block_count - start)


def _page_key(key: str, number: int) -> str:
    return f"{key}/{number:08x}"


def _head_key(key: str) -> str:
    return f"{key}/{HEAD}"
