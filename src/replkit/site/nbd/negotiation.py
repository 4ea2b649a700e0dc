"""The handshake of the fixed newstyle protocol, without I/O: bytes of the client in, bytes for the client out.

::

    FLAGS --client flags--> OPTIONS --EXPORT_NAME, GO--> READY
                               |  ^
                               +--+ every other option    ABORT, a violation, an unknown EXPORT_NAME --> CLOSED

An option that is refused changes nothing; the client may go on. What is no option at all ends the session.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from replkit.errors import ProtocolError
from replkit.site.nbd import codec
from replkit.site.nbd import protocol as p
from replkit.site.nbd.exports import Export, ExportTable


class Phase(Enum):
    """Where a handshake stands."""

    FLAGS = "flags"
    OPTIONS = "options"
    READY = "ready"
    CLOSED = "closed"


class Handshake:
    """One client's negotiation; once ``phase`` is READY, ``export`` is its choice and ``leftover`` its next bytes."""

    def __init__(self, exports: ExportTable) -> None:
        self.phase = Phase.FLAGS
        self.name = ""
        self.export: Export | None = None
        self.size_bytes = 0
        self.structured = False
        self.allocation_context = False
        self._context_name: str | None = None
        self._exports = exports
        self._pads_with_zeroes = True
        self._pending = bytearray()
        self._handlers: dict[int, Callable[[bytes], bytes]] = {
            p.OPT_EXPORT_NAME: self._export_name,
            p.OPT_ABORT: self._abort,
            p.OPT_LIST: self._list,
            p.OPT_INFO: lambda data: self._info(p.OPT_INFO, data),
            p.OPT_GO: lambda data: self._info(p.OPT_GO, data),
            p.OPT_STRUCTURED_REPLY: self._structured_reply,
            p.OPT_LIST_META_CONTEXT: lambda data: self._meta_context(p.OPT_LIST_META_CONTEXT, data),
            p.OPT_SET_META_CONTEXT: lambda data: self._meta_context(p.OPT_SET_META_CONTEXT, data),
        }

    @property
    def leftover(self) -> bytes:
        """Bytes that the client sent after the option that ended the handshake."""
        return bytes(self._pending)

    def receive(self, data: bytes) -> bytes:
        """Take bytes of the client and return what to send; ProtocolError when the client is no NBD client."""
        self._pending += data
        out = bytearray()
        while self.phase in {Phase.FLAGS, Phase.OPTIONS}:
            reply = self._client_flags() if self.phase is Phase.FLAGS else self._option()
            if reply is None:
                break
            out += reply
        return bytes(out)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._pending[:count])
        del self._pending[:count]
        return taken

    def _client_flags(self) -> bytes | None:
        if len(self._pending) < p.CLIENT_FLAGS.size:
            return None
        (flags,) = p.CLIENT_FLAGS.unpack(self._take(p.CLIENT_FLAGS.size))
        if flags & ~(p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES):
            self._violation(f"unknown client flags {flags:#x}")
        self._pads_with_zeroes = not flags & p.FLAG_NO_ZEROES
        self.phase = Phase.OPTIONS
        return b""

    def _option(self) -> bytes | None:
        if len(self._pending) < p.OPTION.size:
            return None
        magic, option, length = p.OPTION.unpack_from(self._pending)
        if magic != p.OPTION_MAGIC:
            self._violation(f"an option begins with {magic:#x}")
        if length > p.MAX_OPTION_BYTES:  # checked before it is waited for, so that nobody makes us keep it
            self._violation(f"option {option} announces {length} bytes of data")
        if len(self._pending) < p.OPTION.size + length:
            return None
        data = self._take(p.OPTION.size + length)[p.OPTION.size :]
        handler = self._handlers.get(option)
        if handler is None:
            return codec.option_error(option, p.REP_ERR_UNSUP, "this server does not have this option")
        try:
            return handler(data)
        except _Refusal as refusal:
            return codec.option_error(option, refusal.kind, refusal.text)

    def _violation(self, what: str) -> None:
        self.phase = Phase.CLOSED
        raise ProtocolError(f"NBD handshake: {what}")

    def _export_name(self, data: bytes) -> bytes:
        try:
            self._choose(_text(data))
        except _Refusal as refusal:  # this old option has no error reply: the session ends
            self._violation(f"EXPORT_NAME: {refusal.text}")
        assert self.export is not None  # noqa: S101 - for the type checker: _choose sets it or raises
        padding = bytes(124) if self._pads_with_zeroes else b""
        self.phase = Phase.READY
        return p.EXPORT_NAME_REPLY.pack(self.size_bytes, self.export.flags(structured=self.structured)) + padding

    def _abort(self, data: bytes) -> bytes:  # noqa: ARG002 - its data, if any, means nothing
        self.phase = Phase.CLOSED
        return codec.option_reply(p.OPT_ABORT, p.REP_ACK)

    def _list(self, data: bytes) -> bytes:
        if data:
            raise _Refusal(p.REP_ERR_INVALID, "LIST takes no data")
        names = b"".join(codec.listed_export(name) for name in self._exports.names())
        return names + codec.option_reply(p.OPT_LIST, p.REP_ACK)

    def _structured_reply(self, data: bytes) -> bytes:
        if data:
            raise _Refusal(p.REP_ERR_INVALID, "STRUCTURED_REPLY takes no data")
        self.structured = True
        return codec.option_reply(p.OPT_STRUCTURED_REPLY, p.REP_ACK)

    def _info(self, option: int, data: bytes) -> bytes:
        name_data, rest = _counted(data)
        if len(rest) < p.U16.size or len(rest) != p.U16.size * (1 + p.U16.unpack_from(rest)[0]):
            raise _Refusal(p.REP_ERR_INVALID, "the count of information requests is not what follows")
        wanted = {kind for (kind,) in p.U16.iter_unpack(rest[p.U16.size :])}
        name, export = self._find(_text(name_data))
        size_bytes = export.volume.size_bytes
        infos = [p.INFO_EXPORT_REPLY.pack(p.INFO_EXPORT, size_bytes, export.flags(structured=self.structured))]
        infos.append(p.INFO_BLOCK_SIZE_REPLY.pack(p.INFO_BLOCK_SIZE, 1, export.volume.block_size, p.MAX_PAYLOAD_BYTES))
        if p.INFO_NAME in wanted:
            infos.append(p.U16.pack(p.INFO_NAME) + name.encode())
        if p.INFO_DESCRIPTION in wanted and export.description:
            infos.append(p.U16.pack(p.INFO_DESCRIPTION) + export.description.encode()[: p.MAX_OPTION_BYTES])
        if option == p.OPT_GO:
            self._choose(name)
            self.size_bytes = size_bytes
            self.phase = Phase.READY
        replies = b"".join(codec.option_reply(option, p.REP_INFO, info) for info in infos)
        return replies + codec.option_reply(option, p.REP_ACK)

    def _meta_context(self, option: int, data: bytes) -> bytes:
        if not self.structured:
            raise _Refusal(p.REP_ERR_INVALID, "negotiate STRUCTURED_REPLY before metadata contexts")
        if option == p.OPT_SET_META_CONTEXT:  # a failed SET leaves nothing set
            self.allocation_context, self._context_name = False, None
        name_data, rest = _counted(data)
        name, _ = self._find(_text(name_data))
        queries = _queries(rest)
        if option == p.OPT_LIST_META_CONTEXT:
            matches = not queries or any(query in {"base:", p.META_ALLOCATION} for query in queries)
            context_id = 0
        else:
            matches = p.META_ALLOCATION in queries
            context_id = p.META_ALLOCATION_ID
            self.allocation_context, self._context_name = matches, name
        found = p.U32.pack(context_id) + p.META_ALLOCATION.encode()
        replies = codec.option_reply(option, p.REP_META_CONTEXT, found) if matches else b""
        return replies + codec.option_reply(option, p.REP_ACK)

    def _find(self, name: str) -> tuple[str, Export]:
        found = self._exports.find(name)
        if found is None:
            raise _Refusal(p.REP_ERR_UNKNOWN, f"no export {name!r} is served here")
        return found

    def _choose(self, name: str) -> None:
        self.name, self.export = self._find(name)
        self.size_bytes = self.export.volume.size_bytes
        if self._context_name != self.name:  # contexts were negotiated for another export
            self.allocation_context = False


class _Refusal(Exception):  # noqa: N818 - not an error of ours: an answer
    """The answer to an option is an error reply; nothing was changed."""

    def __init__(self, kind: int, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


def _counted(data: bytes) -> tuple[bytes, bytes]:
    """Split a string with its length before it from what follows."""
    if len(data) < p.U32.size:
        raise _Refusal(p.REP_ERR_INVALID, "the option data ends within a length")
    (count,) = p.U32.unpack_from(data)
    if count > len(data) - p.U32.size:
        raise _Refusal(p.REP_ERR_INVALID, "a string is longer than the option data")
    return data[p.U32.size : p.U32.size + count], data[p.U32.size + count :]


def _text(data: bytes) -> str:
    """An export name; the empty one is the default export."""
    if len(data) > p.MAX_NAME_BYTES:
        raise _Refusal(p.REP_ERR_TOO_BIG, f"export names have at most {p.MAX_NAME_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _Refusal(p.REP_ERR_INVALID, "the export name is not UTF-8") from None


def _queries(data: bytes) -> list[str]:
    """The queries of a metadata context option."""
    if len(data) < p.U32.size:
        raise _Refusal(p.REP_ERR_INVALID, "the option data ends before the count of queries")
    (count,) = p.U32.unpack_from(data)
    rest = data[p.U32.size :]
    queries = []
    for _ in range(min(count, p.MAX_OPTION_BYTES)):  # each takes 4 bytes at least, so the data ends before
        query, rest = _counted(rest)
        queries.append(query.decode(errors="replace"))
    if rest:
        raise _Refusal(p.REP_ERR_INVALID, "data follows the last query")
    return queries
