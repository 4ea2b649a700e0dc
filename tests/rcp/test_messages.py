"""Messages on the wire: they come back as they went, golden bytes stay, and nonsense is one typed error."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replkit.contracts.message import (
    MAX_BODY_BYTES,
    MAX_PAYLOAD_BYTES,
    PREFIX_BYTES,
    Message,
    check_body,
    encode_frame_head,
    parse_prefix,
)
from replkit.contracts.position import Epoch, HistoryEntry, Position
from replkit.errors import LocalProtocolError, ProtocolError
from replkit.rcp import messages as m

KINDS = list(m.KINDS.values())
EPOCH = Epoch(2, "00112233445566ff")

GOLDEN_HELLO = bytes.fromhex(
    "524601010e01000000000000000000006fae0b57b8bede468aa876657273696f6e739101a473697465a468657265a676"
    "6f6c756d65a46469736ba66d656d626572a57468657265a76c696e65616765d92436653165653461382d303030302d34"
    "3030302d383030302d303030303030303030303031a565706f63689202b030303131323233333434353536366666a768"
    "6973746f727992929201b06161616161616161616161616161616100929202b030303131323233333434353536366666"
    "04a8706f736974696f6e939202b03030313132323333343435353636666607d920373737373737373737373737373737"
    "3737373737373737373737373737373737aa626c6f636b5f73697a65cd1000b1766f6c756d655f73697a655f62797465"
    "73ce00100000"
)
"""The frame of the sample Hello, version 1. It never changes: a peer of any age must be able to read it."""


def head_of(sample: m.Body) -> bytes:
    return encode_frame_head(m.encode(sample))


def test_the_hello_has_golden_bytes(samples):
    assert head_of(samples[m.Hello]) == GOLDEN_HELLO
    assert m.decode(Message(1, GOLDEN_HELLO[PREFIX_BYTES:])) == samples[m.Hello]


@pytest.mark.parametrize("kind", KINDS)
def test_every_message_comes_back_as_it_went(samples, kind):
    message = m.encode(samples[kind])
    assert message.kind == kind.KIND
    assert m.decode(message) == samples[kind]


def test_numbers_are_each_used_once_and_without_a_gap():
    assert sorted(m.KINDS) == list(range(1, len(KINDS) + 1))
    assert {body.KIND for body in m.Body.__subclasses__()} == set(m.KINDS)


def test_a_payload_is_passed_by_reference():
    payload = memoryview(bytearray(100))
    assert m.encode(m.Chunk(tag="0" * 16 + ".w", index=0), payload).payload is payload


def test_every_flipped_bit_of_a_frame_head_is_a_protocol_error(samples):
    """Invariant 12, with all bytes there that a longer length could ask for."""
    head = head_of(samples[m.Hello])
    for bit in range(len(head) * 8):
        broken = bytearray(head)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProtocolError):
            read_head(bytes(broken))


def read_head(data: bytes) -> Message:
    prefix = parse_prefix(data[:PREFIX_BYTES])
    body = data[PREFIX_BYTES:].ljust(prefix.body_bytes, b"\0")[: prefix.body_bytes]
    check_body(prefix, body)
    return Message(prefix.kind, body)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_mutated_body_is_refused_or_another_good_message(samples, kind, data):
    body = bytearray(m.encode(samples[kind]).body)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    del body[data.draw(st.integers(0, len(body))) :]
    decodes_or_refuses(Message(kind.KIND, bytes(body)))


@given(kind=st.integers(0, 255), body=st.binary(max_size=200))
def test_random_bytes_are_refused_or_a_good_message(kind, body):
    decodes_or_refuses(Message(kind, body))


def decodes_or_refuses(message: Message) -> None:
    try:
        decoded = m.decode(message)
    except ProtocolError:
        return
    assert m.decode(m.encode(decoded)) == decoded


NONSENSE = [
    (m.Hello, "versions", ()),
    (m.Hello, "versions", ("1",)),
    (m.Hello, "site", "No Name"),
    (m.Hello, "site", "name\n"),
    (m.Hello, "volume", "../disk"),
    (m.Hello, "member", ""),
    (m.Hello, "lineage", "x" * 65),
    (m.Hello, "epoch", (-1, "a")),
    (m.Hello, "epoch", (1, "")),
    (m.Hello, "epoch", (1 << 63, "a")),
    (m.Hello, "position", ((1, "a"), -1, "f")),
    (m.Hello, "position", ((1, "a"), 1, "f" * 65)),
    (m.Hello, "position", None),
    (m.Hello, "history", (((2, "a"), 0), ((1, "b"), 3))),
    (m.Hello, "history", (((1, "a"), 5), ((2, "b"), 3))),
    (m.Hello, "history", (((1, "a"), -5),)),
    (m.Hello, "block_size", 4095),
    (m.Hello, "block_size", 256),
    (m.Hello, "volume_size_bytes", -1),
    (m.Welcome, "version", -1),
    (m.Welcome, "credit_bytes", -1),
    (m.Welcome, "epoch", None),
    (m.Welcome, "received", ((1, "a"), 1, "")),
    (m.Welcome, "partial", {"set_tag": "0" * 16 + ".w"}),
    (m.Welcome, "partial", {"next_chunk": -1}),
    (m.Welcome, "partial", {"epoch": (-1, "a")}),
    (m.Refuse, "code", "x" * 65),
    (m.Refuse, "text", "x" * 1001),
    (m.Refuse, "epoch", (-1, "a")),
    (m.SetBegin, "tag", "7.w1"),
    (m.SetBegin, "tag", "0" * 16 + "./../x"),
    (m.SetBegin, "first_number", 0),
    (m.SetBegin, "first_number", 8),
    (m.SetBegin, "chunk_count", 1 << 63),
    (m.SetBegin, "digest", "/"),
    (m.Chunk, "index", -1),
    (m.Chunk, "index", 0.5),
    (m.Ack, "received", ((1, "a"), -1, "f")),
    (m.Credit, "size_bytes", 0),
    (m.Credit, "size_bytes", (1 << 40) + 1),
    (m.CopyBegin, "copy_id", "-"),
    (m.CopyBegin, "stamp", None),
    (m.CopyBegin, "block_size", 0),
    (m.CopyChunk, "next_block", -1),
    (m.Command, "name", "Bad Name"),
    (m.Command, "arguments", {"a": [1]}),
    (m.Command, "arguments", {"A B": 1}),
    (m.Command, "arguments", {f"a{i}": 1 for i in range(101)}),
    (m.CommandDone, "ok", 1),
    (m.Call, "name", "Bad Name"),
    (m.Call, "arguments", [1]),
    (m.Call, "arguments", {"a": b"bytes"}),
    (m.Call, "arguments", {"a": [{1: 2}]}),
    (m.Call, "arguments", {"a": {(1, 2): 2}}),
    (m.Call, "arguments", {f"a{i}": 1 for i in range(1001)}),
    (m.Reply, "result", {"a": [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]}),
    (m.Reply, "ok", 1),
    (m.Ping, "token", -1),
    (m.Bye, "reason", "x" * 1001),
]


@pytest.mark.parametrize(("kind", "field", "value"), NONSENSE)
def test_nonsense_in_a_field_is_refused_by_name(samples, kind, field, value):
    fields = msgspec.structs.asdict(samples[kind]) | {field: value}
    with pytest.raises(ProtocolError, match=kind.__name__):
        m.decode(Message(kind.KIND, msgspec.msgpack.encode(fields)))


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_field_is_refused_except_in_what_a_later_version_may_extend(samples, kind):
    fields = msgspec.structs.asdict(samples[kind]) | {"later": 1}
    message = Message(kind.KIND, msgspec.msgpack.encode(fields))
    if kind in (m.Hello, m.Refuse):
        assert m.decode(message) == samples[kind]
    else:
        with pytest.raises(ProtocolError, match="unknown field"):
            m.decode(message)


@pytest.mark.parametrize("kind", KINDS)
def test_only_five_messages_carry_a_payload_and_it_is_bounded(samples, kind):
    bounds = dict.fromkeys((m.Chunk, m.CopyChunk, m.Call, m.Reply), MAX_PAYLOAD_BYTES) | {m.SetEnd: 4 << 20}
    too_large = memoryview(bytes(bounds.get(kind, 0) + 1))
    with pytest.raises(LocalProtocolError, match="payload"):
        m.encode(samples[kind], too_large)
    with pytest.raises(ProtocolError, match="payload"):
        m.decode(m.encode(samples[kind])._replace(payload=too_large))


def test_a_body_beyond_a_frame_is_our_own_fault():
    arguments: dict[str, m.Value] = {"a": "x" * MAX_BODY_BYTES}
    with pytest.raises(LocalProtocolError, match="Command"):
        m.encode(m.Command(id=1, name="n", arguments=arguments))


@pytest.mark.parametrize("kind", [0, 22, 255])
def test_an_unknown_kind_is_refused(kind):
    with pytest.raises(ProtocolError, match=f"kind {kind}"):
        m.decode(Message(kind))


def test_what_cannot_be_is_not_made_here_either(samples):
    with pytest.raises(ValueError, match="block size"):
        msgspec.structs.replace(samples[m.Hello], block_size=3)
    with pytest.raises(ValueError, match=re.escape("history does not ascend")):
        msgspec.structs.replace(samples[m.Hello], history=(HistoryEntry(EPOCH, 1), HistoryEntry(EPOCH, 2)))
    with pytest.raises(ValueError, match="position"):
        m.Ack(received=Position(EPOCH, -1, "f"), played=None)
