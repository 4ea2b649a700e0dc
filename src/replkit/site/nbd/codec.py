"""Replies as bytes. No I/O and no state: every function maps values to the bytes that the specification asks for."""

from __future__ import annotations

from collections.abc import Iterable

from replkit.site.nbd import protocol as p


def greeting() -> bytes:
    """What the server says first: fixed newstyle, and no padding for clients that can do without."""
    return p.GREETING.pack(p.NBD_MAGIC, p.OPTION_MAGIC, p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES)


def option_reply(option: int, kind: int, data: bytes = b"") -> bytes:
    """One reply to an option."""
    return p.OPTION_REPLY.pack(p.OPTION_REPLY_MAGIC, option, kind, len(data)) + data


def option_error(option: int, kind: int, text: str) -> bytes:
    """A refusal of an option, with a reason for people."""
    return option_reply(option, kind, text.encode())


def listed_export(name: str) -> bytes:
    """The reply that tells one name to NBD_OPT_LIST."""
    data = name.encode()
    return option_reply(p.OPT_LIST, p.REP_SERVER, p.U32.pack(len(data)) + data)


def simple_reply(cookie: int, error: int = p.OK) -> bytes:
    """The end of a request that gives no data."""
    return p.SIMPLE_REPLY.pack(p.SIMPLE_REPLY_MAGIC, error, cookie)


def structured_error(cookie: int, error: int, text: str) -> bytes:
    """The end of a request that failed, for a client that negotiated structured replies."""
    reason = text.encode()[:1024].decode(errors="ignore").encode()  # cut between characters, not inside one
    payload = p.ERROR_PAYLOAD.pack(error, len(reason)) + reason
    return _structured(p.REPLY_ERROR, cookie, payload)


def block_status(cookie: int, extents: Iterable[tuple[int, int]]) -> bytes:
    """The answer to NBD_CMD_BLOCK_STATUS: ``(length_bytes, state)`` one after another."""
    body = b"".join(p.STATUS_DESCRIPTOR.pack(length, state) for length, state in extents)
    return _structured(p.REPLY_BLOCK_STATUS, cookie, p.STATUS_HEAD.pack(p.META_ALLOCATION_ID) + body)


def _structured(kind: int, cookie: int, payload: bytes) -> bytes:
    """A structured reply of one chunk."""
    head = p.STRUCTURED_REPLY.pack(p.STRUCTURED_REPLY_MAGIC, p.REPLY_FLAG_DONE, kind, cookie, len(payload))
    return head + payload
