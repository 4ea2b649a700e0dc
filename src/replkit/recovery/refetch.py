"""Records of delta sets that are damaged or lost here are fetched again from the site that sent them (D3, U3).

A set has the same records at every site, under the same keys, and its writer's tag is used for no other: so a record
that says by itself that it is of this set, and is whole, is the one that was here (invariants 5 and 12). Where the
other site has trimmed the set, or it is a difference, which was never a set there, nothing can be fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import NamedTuple

from replkit.contracts.buffers import Buffer
from replkit.contracts.savevolume import SaveVolume
from replkit.deltaset.chunk import decode_chunk, record_checksum
from replkit.deltaset.header import SetDigest, SetHeader, decode_block_list, decode_header, encode_block_list
from replkit.deltaset.keys import SET_TAG, chunk_key, header_key, list_key, parse_set_tag
from replkit.errors import CorruptRecordError, RecordMissingError
from replkit.recovery.peer import Peer
from replkit.replication.cells import Root
from replkit.replication.difference import MAX_BLOCKS
from replkit.replication.directory import epoch_at, numbers_between, tag_of
from replkit.replication.set_writer import delete_set

BROKEN = (CorruptRecordError, RecordMissingError)


class Refetched(NamedTuple):
    """How many records were fetched again, and a sentence for each set of which some could not be."""

    records: int
    left: tuple[str, ...]


def tag_in(key: str) -> str:
    """The tag of the set that a key belongs to; empty where it is no record of a set."""
    parts = key.split("/")
    is_of_set = len(parts) == 3 and parts[0] in {"sets", "lists"} and SET_TAG.fullmatch(parts[1])
    return parts[1] if is_of_set else ""


def incomplete_tags(save: SaveVolume, root: Root) -> Iterator[str]:
    """Tags of the sets that ``root`` names and that lack a record: a header, a chunk or a block list.

    Bytes are not looked at, but those of headers; a reader may ask. What is trimmed meanwhile may be named too. None in
    a copy or resync, whose positions are named before their sets are there.
    """
    if root.role == "secondary" and not root.is_at_boundary:
        return
    for number in numbers_between(root, root.first_listed, root.last.number):
        if root.given_up is not None and root.given_up.first <= number:
            return
        tag = tag_of(root, number)
        try:
            header = decode_header(save.get(header_key(tag)))
        except BROKEN:
            yield tag
            continue
        chunks = header.chunk_count if number >= root.first_kept else 0
        if len(save.list(f"sets/{tag}/")) < chunks or len(save.list(f"lists/{tag}/blocks-")) < header.list_count:
            yield tag


def refetch(save: SaveVolume, root: Callable[[], Root], peer: Peer, tags: Collection[str]) -> Refetched:
    """Mend the sets with these tags from a site that has them; may be repeated, and goes on where it broke off.

    Errors: those of the save volume and of the link; what the other site has not, or has otherwise, is left as it is
    and told.
    """
    fetched, left = 0, []
    for tag in sorted(tags):
        now = root()
        number = parse_set_tag(tag)[0]
        if not now.first_listed <= number <= now.last.number or tag_of(now, number) != tag:
            continue  # trimmed since, or never named
        mending = _Mending(save, now, peer, tag)
        try:
            mending.mend(has_data=number >= now.first_kept)
        except BROKEN as error:
            left.append(f"set {tag}: {error.message}")
        fetched += mending.fetched
        _drop_trimmed(save, root(), tag)
    if fetched:
        save.sync()
    return Refetched(fetched, tuple(left))


class _Mending:
    """One set."""

    def __init__(self, save: SaveVolume, root: Root, peer: Peer, tag: str) -> None:
        self._save, self._root, self._peer, self._tag = save, root, peer, tag
        self._number, self._writer = parse_set_tag(tag)
        self.fetched = 0

    def mend(self, *, has_data: bool) -> None:
        """All records of the set; where its data is trimmed, header and block lists."""
        header = self._header()
        digest = SetDigest()
        for index in range(header.list_count):
            if not has_data:
                self._whole(list_key(self._tag, index), _decode_list)
                continue
            record = self._whole(chunk_key(self._tag, index), partial(self._check_chunk, header, index))
            self._list_of(index, record)
            digest.update(record_checksum(record))
        if has_data and digest.hexdigest() != header.digest:
            raise CorruptRecordError(f"the digest over its {header.chunk_count} chunks is not that of its header")

    def _header(self) -> SetHeader:
        record = self._whole(header_key(self._tag), self._check_header)
        return decode_header(memoryview(record))

    def _list_of(self, index: int, record: Buffer) -> None:
        """A block list is made anew from its chunk."""
        key = list_key(self._tag, index)
        try:
            _decode_list(self._save.get(key))
        except BROKEN:
            self._put(key, encode_block_list(decode_chunk(record, block_count=MAX_BLOCKS).pieces))

    def _whole(self, key: str, check: Callable[[Buffer], object]) -> Buffer:
        """The record as it is here, or as the other site has it."""
        try:
            record: Buffer = self._save.get(key)
            check(record)
        except BROKEN:
            record = self._peer.set_record(key)
            check(record)
            self._put(key, record)
        return record

    def _put(self, key: str, record: Buffer) -> None:
        """A crash between the two leaves the record lost instead of damaged: fetched again all the same."""
        self._save.delete([key])
        self._save.put(key, [record])
        self.fetched += 1

    def _check_header(self, record: Buffer) -> None:
        header = decode_header(memoryview(record))
        found = (header.lineage, header.epoch, header.number, header.writer)
        wanted = (self._root.lineage, epoch_at(self._root, self._number), self._number, self._writer)
        is_last = self._number == self._root.last.number
        if found != wanted or (is_last and header.identities[-1] != self._root.last.identity):
            raise CorruptRecordError(f"its header says it is {found}, expected {wanted}")

    def _check_chunk(self, header: SetHeader, index: int, record: Buffer) -> None:
        head = decode_chunk(record, block_count=MAX_BLOCKS).head
        found = (head.lineage, head.epoch, head.number, head.writer, head.index, head.block_size)
        wanted = (header.lineage, header.epoch, header.number, header.writer, index, header.block_size)
        if found != wanted:
            raise CorruptRecordError(f"its chunk {index} says it is {found}, expected {wanted}")


def _decode_list(record: Buffer) -> None:
    decode_block_list(memoryview(record), MAX_BLOCKS)


def _drop_trimmed(save: SaveVolume, root: Root, tag: str) -> None:
    """What was put while the trimmer let the set go is in nobody's way."""
    number = parse_set_tag(tag)[0]
    if number < root.first_listed:
        delete_set(save, tag)
    elif number < root.first_kept:
        save.delete(save.list(f"sets/{tag}/"))
