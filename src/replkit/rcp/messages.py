"""The messages of RCP: one frozen struct a message, its number on the wire, and the checks of what is in it.

A body is a MessagePack map of the fields by name. The payload of ``Chunk``, ``CopyChunk`` and ``SetEnd`` is a record
of its own format; RCP carries it and does not look inside. The tables are in ``docs/reference/rcp.md``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, ClassVar, TypeAlias

import msgspec
from msgspec import Meta

from replkit.contracts.buffers import Buffer
from replkit.contracts.message import MAX_BODY_BYTES, MAX_PAYLOAD_BYTES, Message
from replkit.contracts.position import Epoch, HistoryEntry, Position
from replkit.errors import LocalProtocolError, ProtocolError

VERSION = 1
"""The version of the messages that this code speaks. 1: the first."""
MAX_HEADER_BYTES = 4 << 20
"""Bound of the header record that ``SetEnd`` carries; it costs no credit, so it must be small."""

Count: TypeAlias = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Name: TypeAlias = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
Tag: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\.[a-z0-9._-]{1,64}\Z")]
"""Names the records of one set in a save volume (a part of their keys, so its letters matter)."""
Identifier: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-z-]{1,64}\Z")]
"""A digest or random id: compared, never interpreted."""
Text: TypeAlias = Annotated[str, Meta(max_length=1000)]
Value: TypeAlias = str | int | float | bool | None
"""What a command takes and returns under each name."""
Json: TypeAlias = Annotated[dict[str, Any], Meta(max_length=1000)]
"""What a call takes and returns: values as those of JSON, at most ``MAX_JSON_DEPTH`` deep."""
MAX_JSON_DEPTH = 16


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all messages."""

    KIND: ClassVar[int] = 0
    MAX_PAYLOAD: ClassVar[int] = 0
    """How many bytes of payload the message may have."""


class Partial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where an aborted transfer broke off; the sender resumes there if tag, epoch and digest are still the set's."""

    set_tag: Tag | None = None
    epoch: Epoch | None = None
    digest: Identifier | None = None
    next_chunk: Count = 0
    copy_id: Name | None = None
    copy_next_block: Count = 0
    copy_next_chunk: Count = 0
    copy_base: Position | None = None

    def __post_init__(self) -> None:
        _check_position(self.copy_base)
        if self.epoch is not None:
            _check_epoch(self.epoch)
        if self.set_tag is not None and (self.epoch is None or self.digest is None):
            raise ValueError("a partial set is bound to its epoch and digest")


class Hello(Body, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """Sender to receiver, first: who I am, what I want to replicate to you, and its history.

    A later version may add fields to it, since the versions are only agreed by it.
    """

    KIND: ClassVar[int] = 1
    versions: Annotated[tuple[Count, ...], Meta(min_length=1, max_length=16)]
    site: Name
    volume: Name
    """Name of the volume at the receiver; a member may have another name for it than the sender."""
    member: Name
    lineage: Identifier
    epoch: Epoch
    history: Annotated[tuple[HistoryEntry, ...], Meta(max_length=4096)]
    position: Position
    """Newest committed position of the sender."""
    block_size: Count
    volume_size_bytes: Count

    def __post_init__(self) -> None:
        _check_epoch(self.epoch)
        _check_position(self.position)
        _check_history(self.history)
        _check_block_size(self.block_size)


class Welcome(Body, frozen=True, kw_only=True):
    """Receiver to sender: the session is open; this is durable here, and this much may be sent."""

    KIND: ClassVar[int] = 2
    version: Count
    site: Name
    received: Position | None
    played: Position | None
    epoch: Epoch
    """Highest epoch that the receiver has seen of this volume."""
    partial: Partial | None = None
    credit_bytes: Count = 0

    def __post_init__(self) -> None:
        _check_epoch(self.epoch)
        for position in (self.received, self.played):
            _check_position(position)


class Refuse(Body, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """Receiver to sender, at any time: no, and why; the session is over."""

    KIND: ClassVar[int] = 3
    code: Name
    text: Text
    epoch: Epoch | None = None
    """The epoch that the receiver believes in, where that is the reason."""

    def __post_init__(self) -> None:
        if self.epoch is not None:
            _check_epoch(self.epoch)


class SetBegin(Body, frozen=True, kw_only=True):
    """A committed delta set follows, or the rest of one that broke off."""

    KIND: ClassVar[int] = 4
    tag: Tag
    epoch: Epoch
    first_number: Count
    number: Count
    base_identity: Identifier
    chunk_count: Count
    digest: Identifier
    """Digest over the stored chunks; binds a resumed transfer to this very set."""

    def __post_init__(self) -> None:
        _check_epoch(self.epoch)
        if not 1 <= self.first_number <= self.number:
            raise ValueError(f"set spans {self.first_number} to {self.number}")


class Chunk(Body, frozen=True, kw_only=True):
    """One chunk of the set begun; the payload is its record."""

    KIND: ClassVar[int] = 5
    MAX_PAYLOAD: ClassVar[int] = MAX_PAYLOAD_BYTES
    tag: Tag
    index: Count


class SetEnd(Body, frozen=True, kw_only=True):
    """All chunks are sent; the payload is the header record, and only it makes the set exist (D3)."""

    KIND: ClassVar[int] = 6
    MAX_PAYLOAD: ClassVar[int] = MAX_HEADER_BYTES
    tag: Tag


class SetAbort(Body, frozen=True, kw_only=True):
    """The set begun is given up; the receiver drops the chunks that it has of it."""

    KIND: ClassVar[int] = 7
    tag: Tag


class Ack(Body, frozen=True, kw_only=True):
    """Receiver to sender: these positions are durable here (invariant 7)."""

    KIND: ClassVar[int] = 8
    received: Position | None
    played: Position | None

    def __post_init__(self) -> None:
        for position in (self.received, self.played):
            _check_position(position)


class Credit(Body, frozen=True, kw_only=True):
    """Receiver to sender: so many more bytes of chunks may be sent (S4)."""

    KIND: ClassVar[int] = 9
    size_bytes: Annotated[int, Meta(ge=1, le=(1 << 40))]


class CopyBegin(Body, frozen=True, kw_only=True):
    """A new copy follows: the blocks in use of a snapshot stamped ``stamp`` (C1); all else becomes unused.

    With ``base`` it is a difference: ``block_count`` blocks which lead a volume from there to ``stamp`` (R4).
    """

    KIND: ClassVar[int] = 10
    copy_id: Name
    stamp: Position
    block_count_in_use: Count
    data_bytes: Count
    volume_size_bytes: Count
    block_size: Count
    lineage: Identifier
    base: Position | None = None
    block_count: Count = 0

    def __post_init__(self) -> None:
        _check_position(self.stamp)
        _check_position(self.base)
        _check_block_size(self.block_size)


class CopyChunk(Body, frozen=True, kw_only=True):
    """The next chunk of the copy in ascending block order; ``next_block`` is the first block after it."""

    KIND: ClassVar[int] = 11
    MAX_PAYLOAD: ClassVar[int] = MAX_PAYLOAD_BYTES
    copy_id: Name
    index: Count
    next_block: Count


class CopyEnd(Body, frozen=True, kw_only=True):
    """The copy is sent whole: the source's *start playback*."""

    KIND: ClassVar[int] = 12
    copy_id: Name


class CopyDone(Body, frozen=True, kw_only=True):
    """Receiver to sender: the copy is durable and marked so."""

    KIND: ClassVar[int] = 13
    copy_id: Name


class CopyProgress(Body, frozen=True, kw_only=True):
    """Receiver to sender: every block below ``next_block`` is durable; the copy resumes there."""

    KIND: ClassVar[int] = 14
    copy_id: Name
    next_block: Count


class Command(Body, frozen=True, kw_only=True):
    """Sender to receiver: run a named command (T10, T11)."""

    KIND: ClassVar[int] = 15
    id: Count
    name: Name
    arguments: Annotated[dict[Name, Value], Meta(max_length=100)] = {}


class CommandDone(Body, frozen=True, kw_only=True):
    """Receiver to sender: the command ran, or why not."""

    KIND: ClassVar[int] = 16
    id: Count
    ok: bool
    result: Annotated[dict[Name, Value], Meta(max_length=1000)] = {}


class Call(Body, frozen=True, kw_only=True):
    """Caller to called, on a link of its own: do ``name`` and reply. It may come twice, so it must be repeatable."""

    KIND: ClassVar[int] = 20
    MAX_PAYLOAD: ClassVar[int] = MAX_PAYLOAD_BYTES
    id: Count
    name: Name
    arguments: Json = {}

    def __post_init__(self) -> None:
        _check_json(self.arguments)


class Reply(Body, frozen=True, kw_only=True):
    """Called to caller: the result, or with ``ok`` false its ``code``, ``text`` and ``hint``."""

    KIND: ClassVar[int] = 21
    MAX_PAYLOAD: ClassVar[int] = MAX_PAYLOAD_BYTES
    id: Count
    ok: bool
    result: Json = {}

    def __post_init__(self) -> None:
        _check_json(self.result)


class Ping(Body, frozen=True, kw_only=True):
    """Either side, when it heard nothing for a while."""

    KIND: ClassVar[int] = 17
    token: Count


class Pong(Body, frozen=True, kw_only=True):
    """The answer to a ``Ping``, with its token."""

    KIND: ClassVar[int] = 18
    token: Count


class Bye(Body, frozen=True, kw_only=True):
    """Either side: I end the session in order."""

    KIND: ClassVar[int] = 19
    reason: Text


KINDS: dict[int, type[Body]] = {
    body.KIND: body
    for body in (
        Hello, Welcome, Refuse, SetBegin, Chunk, SetEnd, SetAbort, Ack, Credit, CopyBegin,
        CopyChunk, CopyEnd, CopyDone, CopyProgress, Command, CommandDone, Ping, Pong, Bye, Call, Reply,
    )
}  # fmt: skip
"""Every message by its number on the wire; a number is never used again for another message."""

_ENCODER = msgspec.msgpack.Encoder()
_DECODERS: dict[int, msgspec.msgpack.Decoder[Any]] = {kind: msgspec.msgpack.Decoder(t) for kind, t in KINDS.items()}


def encode(body: Body, payload: Buffer = b"") -> Message:
    """Make the message; the payload is passed by reference."""
    size_bytes = memoryview(payload).nbytes
    if size_bytes > body.MAX_PAYLOAD:
        raise LocalProtocolError(
            f"{type(body).__name__} with {size_bytes} bytes of payload, allowed {body.MAX_PAYLOAD}"
        )
    encoded = _ENCODER.encode(body)
    if len(encoded) > MAX_BODY_BYTES:
        raise LocalProtocolError(f"{type(body).__name__} of {len(encoded)} bytes, allowed {MAX_BODY_BYTES}")
    return Message(body.KIND, encoded, payload)


def decode(message: Message) -> Body:
    """Check and take apart the body; whatever the peer may have sent, only ``ProtocolError`` comes out."""
    decoder = _DECODERS.get(message.kind)
    if decoder is None:
        raise ProtocolError(f"message of kind {message.kind} is unknown")
    name = KINDS[message.kind].__name__
    size_bytes = memoryview(message.payload).nbytes
    if size_bytes > KINDS[message.kind].MAX_PAYLOAD:
        raise ProtocolError(f"{name} with {size_bytes} bytes of payload, allowed {KINDS[message.kind].MAX_PAYLOAD}")
    try:
        body: Body = decoder.decode(message.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError) as error:
        raise ProtocolError(f"{name}: {error}") from None  # TypeError: a map inside a call with a key that is no key
    return body


def _check_epoch(epoch: Epoch) -> None:
    if not 0 <= epoch.count < 1 << 63 or not 0 < len(epoch.promotion) <= 64:
        raise ValueError(f"epoch {epoch.count} of promotion {epoch.promotion[:80]!r} cannot be")


def _check_position(position: Position | None) -> None:
    if position is None:
        return
    _check_epoch(position.epoch)
    if not 0 <= position.number < 1 << 63 or not 0 < len(position.identity) <= 64:
        raise ValueError(f"position {position.number} with identity {position.identity[:80]!r} cannot be")


def _check_history(history: tuple[HistoryEntry, ...]) -> None:
    for entry in history:
        _check_epoch(entry.epoch)
        if not 0 <= entry.first_number < 1 << 63:
            raise ValueError(f"history with first number {entry.first_number}")
    for older, newer in pairwise(history):
        if newer.epoch.count <= older.epoch.count or newer.first_number < older.first_number:
            raise ValueError(f"history does not ascend at epoch {newer.epoch.count}")


def _check_block_size(block_size: int) -> None:
    if not 512 <= block_size <= 1 << 24 or block_size & (block_size - 1):
        raise ValueError(f"block size {block_size} is no power of two of at least 512")


def _check_json(value: object, depth: int = 0) -> None:
    if depth > MAX_JSON_DEPTH:
        raise ValueError(f"values are more than {MAX_JSON_DEPTH} deep")
    if isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{str(key)[:80]!r} is no text and cannot be a key")
            _check_json(each, depth + 1)
    elif isinstance(value, list | tuple):
        for each in value:
            _check_json(each, depth + 1)
    elif value is not None and not isinstance(value, str | int | float | bool):
        raise ValueError(f"a value of type {type(value).__name__} cannot be in a call")
