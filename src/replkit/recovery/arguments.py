"""Arguments of calls: they come from outside, and are checked before they are believed (invariant 12).

A call that changes something names the lineage: sites may have two volumes of one name.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from replkit.blocks.extent import Extent
from replkit.contracts.position import Epoch, Position
from replkit.errors import InvalidArgumentError, RefusedError
from replkit.replication.cells import Member, Root

MIN_RANGE_BYTES: Final = 64 << 10
MAX_HASHED_BYTES: Final = 256 << 20
"""Of what hashes are made in one call: a few seconds of work."""
MAX_HASHED_BLOCKS: Final = 1 << 15
"""Of how many single blocks hashes are made in one call."""
MAX_RECORD_BYTES: Final = 16 << 20
MAX_READ_BYTES: Final = 8 << 20
RECORD_PIECE_BYTES: Final = 4 << 20
"""Of a record of a set, in one answer."""
MAX_BLOCKS_A_CALL: Final = 1 << 26
MAX_EPOCH: Final = 1 << 48
MAX_COMPARISONS: Final = 8
"""Snapshots that a primary keeps for sites that compare hashes at the same time."""
LISTS_SHARE: Final = 0.75
"""Lists of other sites are taken until this share of their part of the save volume is used."""
RECORD: Final = re.compile(r"[0-9a-f]{8}|head")
Id = Annotated[str, Meta(pattern="^[0-9a-z-]{1,64}$")]
Name = Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9._-]{0,63}$")]
Url = Annotated[str, Meta(pattern="^[a-z][a-z0-9+.-]*:", max_length=1000)]
Text = Annotated[str, Meta(max_length=1000)]
Count = Annotated[int, Meta(ge=0, le=1 << 48)]
Lineage = Annotated[str, Meta(max_length=64)]


class Range(msgspec.Struct, frozen=True):
    """Blocks, of a snapshot or after a position."""

    start: Count
    count: Count
    snapshot: Text = ""
    range_blocks: Annotated[int, Meta(ge=1, le=1 << 32)] = 1
    after: Count = 0


class Numbers(msgspec.Struct, frozen=True):
    """Positions."""

    first: Count
    last: Count


class Begin(msgspec.Struct, frozen=True):
    """What a side that returns asks for."""

    id: Id
    lineage: Lineage
    member: Name
    url: Url
    destination: Name
    fork: Position
    list_id: Annotated[str, Meta(pattern="^[0-9a-z-]{0,64}$")] = ""
    exact: bool = False
    snapshot: Text = ""
    rewind: bool = False


class Record(msgspec.Struct, frozen=True):
    """A record of a list, or whose list or snapshot is meant."""

    id: Id
    name: Annotated[str, Meta(max_length=64)] = ""
    pages: Count = 0


class SetRecord(msgspec.Struct, frozen=True):
    """A record of a delta set, from a byte on."""

    key: Annotated[str, Meta(max_length=200)]
    start: Count = 0


class Promote(msgspec.Struct, frozen=True):
    """A role that is given away."""

    id: Id
    lineage: Lineage
    epoch: Epoch
    position: Position
    back: Member
    members: Annotated[tuple[Member, ...], Meta(max_length=256)] = ()


class HandOver(msgspec.Struct, frozen=True):
    """A member that asks for the role."""

    id: Id
    member: Name


class Fenced(msgspec.Struct, frozen=True):
    """An epoch that has begun somewhere."""

    epoch: Epoch
    lineage: Lineage


class OneMember(msgspec.Struct, frozen=True):
    """A member."""

    member: Name


Arguments = TypeVar("Arguments")


class _Reached(msgspec.Struct, frozen=True):
    name: Name
    url: Url
    destination_volume: Name
    hold: Count


def typed(name: str, raw: dict[str, Any], kind: type[Arguments]) -> Arguments:
    """The arguments of call ``name``; ``InvalidArgumentError`` says which one makes no sense."""
    try:
        asked = msgspec.convert(raw, kind)
        if isinstance(asked, Promote):
            for member in (asked.back, *asked.members):
                msgspec.convert(msgspec.to_builtins(member), _Reached)
    except msgspec.ValidationError as error:
        raise InvalidArgumentError(f"{name}: {error}") from error
    if isinstance(asked, Promote | Fenced) and not 0 <= asked.epoch.count <= MAX_EPOCH:
        raise InvalidArgumentError(f"{name}: no volume was promoted {asked.epoch.count} times")
    return asked


def check_lineage(name: str, volume: str, asked: Begin | Promote | Fenced, root: Root) -> None:
    """``RefusedError`` where another volume is meant that has the same name."""
    if asked.lineage != root.lineage:
        raise RefusedError(
            f"{name}: {volume} is a replica of another volume here (lineage {root.lineage}, not {asked.lineage})",
            code="lineage", hint="name the volume that replicates yours",
        )  # fmt: skip


def bounded(name: str, asked: Range, block_count: int, max_blocks: int) -> Extent:
    """The blocks that were asked for and are there; ``InvalidArgumentError`` for more than are answered at once."""
    if asked.count > max_blocks:
        raise InvalidArgumentError(f"{name}: {asked.count} blocks are asked for, more than {max_blocks}")
    start = min(asked.start, block_count)
    return Extent(start, min(asked.start + asked.count, block_count) - start)
