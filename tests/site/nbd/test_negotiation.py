"""The handshake: what each option answers, and what a client may not do."""

from __future__ import annotations

import struct

import pytest

from replkit.errors import InvalidArgumentError, ProtocolError
from replkit.site.nbd import Export
from replkit.site.nbd import protocol as p
from replkit.site.nbd.exports import ExportTable
from replkit.site.nbd.negotiation import Handshake, Phase

pytestmark = pytest.mark.requirement("X1")


@pytest.fixture
def shake(world):
    handshake = Handshake(world.server.exports)
    assert handshake.receive(struct.pack(">I", 3)) == b""
    return handshake


def option(number: int, data: bytes = b"") -> bytes:
    return b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data


def counted(text: str) -> bytes:
    return struct.pack(">I", len(text.encode())) + text.encode()


def replies(out: bytes) -> list[tuple[int, bytes]]:
    found = []
    while out:
        _, _, kind, length = struct.unpack_from(">QIII", out)
        found.append((kind, out[20 : 20 + length]))
        out = out[20 + length :]
    return found


def kinds(out: bytes) -> list[int]:
    return [kind for kind, _ in replies(out)]


def contexts(name: str, *queries: str) -> bytes:
    return counted(name) + struct.pack(">I", len(queries)) + b"".join(map(counted, queries))


def test_a_handshake_fed_byte_by_byte_is_the_same(world):
    handshake, out = Handshake(world.server.exports), b""
    for byte in struct.pack(">I", 3) + option(p.OPT_GO, counted("disk") + b"\0\0") + b"next":
        out += handshake.receive(bytes([byte]))
    assert kinds(out) == [p.REP_INFO, p.REP_INFO, p.REP_ACK]
    assert (handshake.phase, handshake.name, handshake.leftover) == (Phase.READY, "disk", b"next")


def test_go_tells_size_flags_name_and_description(shake):
    data = counted("disk") + struct.pack(">HHH", 2, p.INFO_NAME, p.INFO_DESCRIPTION)
    infos = [body for kind, body in replies(shake.receive(option(p.OPT_GO, data))) if kind == p.REP_INFO]
    assert struct.unpack(">HQ", infos[0][:10]) == (p.INFO_EXPORT, 8 << 20)
    assert struct.unpack(">HIII", infos[1]) == (p.INFO_BLOCK_SIZE, 1, 4096, 32 << 20)
    assert infos[2:] == [b"\0\1disk", b"\0\2a test disk"]


def test_info_leaves_the_handshake_open(shake):
    assert kinds(shake.receive(option(p.OPT_INFO, counted("disk") + b"\0\0")))[-1] == p.REP_ACK
    assert shake.phase is Phase.OPTIONS


def test_df_is_offered_only_with_structured_replies(shake, world):
    export = world.server.exports.find("disk")[1]
    assert not export.flags(structured=False) & p.CAN_DF
    assert export.flags(structured=True) & p.CAN_DF


@pytest.mark.parametrize(("flags", "size"), [(3, 10), (1, 134)])
def test_export_name_answers_with_or_without_padding(world, flags, size):
    handshake = Handshake(world.server.exports)
    out = handshake.receive(struct.pack(">I", flags) + option(p.OPT_EXPORT_NAME, b"disk"))
    assert len(out) == size
    assert handshake.phase is Phase.READY


def test_the_empty_name_is_the_only_export_and_ambiguous_names_are_refused(shake, world):
    assert kinds(shake.receive(option(p.OPT_INFO, counted("") + b"\0\0")))[-1] == p.REP_ACK
    world.server.add_export("second", Export(volume=world.volume))
    assert kinds(shake.receive(option(p.OPT_INFO, counted("") + b"\0\0"))) == [p.REP_ERR_UNKNOWN]


@pytest.mark.parametrize(
    ("number", "data", "error"),
    [
        (p.OPT_LIST, b"x", p.REP_ERR_INVALID),
        (p.OPT_STRUCTURED_REPLY, b"x", p.REP_ERR_INVALID),
        (p.OPT_STARTTLS, b"", p.REP_ERR_UNSUP),
        (77, b"anything", p.REP_ERR_UNSUP),
        (p.OPT_GO, b"", p.REP_ERR_INVALID),
        (p.OPT_GO, counted("disk"), p.REP_ERR_INVALID),
        (p.OPT_GO, counted("disk") + b"\0\5\0\1", p.REP_ERR_INVALID),
        (p.OPT_GO, struct.pack(">I", 1 << 31) + b"disk\0\0", p.REP_ERR_INVALID),
        (p.OPT_GO, counted("nobody") + b"\0\0", p.REP_ERR_UNKNOWN),
        (p.OPT_GO, counted("x" * 257) + b"\0\0", p.REP_ERR_TOO_BIG),
        (p.OPT_GO, struct.pack(">I", 2) + b"\xff\xfe\0\0", p.REP_ERR_INVALID),
        (p.OPT_SET_META_CONTEXT, contexts("disk", "base:allocation"), p.REP_ERR_INVALID),
    ],
)
def test_a_refused_option_changes_nothing_and_the_client_may_go_on(shake, number, data, error):
    assert kinds(shake.receive(option(number, data))) == [error]
    assert (shake.phase, shake.structured, shake.export) == (Phase.OPTIONS, False, None)
    assert kinds(shake.receive(option(p.OPT_GO, counted("disk") + b"\0\0")))[-1] == p.REP_ACK


@pytest.mark.parametrize(
    ("queries", "listed", "is_set"),
    [(["base:allocation"], True, True), (["base:"], True, False), (["qemu:x", "y"], False, False), ([], True, False)],
)
def test_metadata_contexts_are_listed_and_set(shake, queries, listed, is_set):
    shake.receive(option(p.OPT_STRUCTURED_REPLY))
    found = replies(shake.receive(option(p.OPT_LIST_META_CONTEXT, contexts("disk", *queries))))
    assert (found[0] == (p.REP_META_CONTEXT, b"\0\0\0\0base:allocation")) is listed
    found = replies(shake.receive(option(p.OPT_SET_META_CONTEXT, contexts("disk", *queries))))
    assert (found[0] == (p.REP_META_CONTEXT, b"\0\0\0\1base:allocation")) is is_set
    shake.receive(option(p.OPT_GO, counted("disk") + b"\0\0"))
    assert shake.allocation_context is is_set


def test_contexts_set_for_one_export_do_not_hold_for_another(shake, world):
    world.server.add_export("other", Export(volume=world.volume))
    shake.receive(option(p.OPT_STRUCTURED_REPLY))
    shake.receive(option(p.OPT_SET_META_CONTEXT, contexts("disk", "base:allocation")))
    shake.receive(option(p.OPT_GO, counted("other") + b"\0\0"))
    assert not shake.allocation_context


@pytest.mark.parametrize(
    "data", [counted("disk"), counted("disk") + b"\0\0\0\2" + counted("a"), contexts("disk") + b"x"]
)
def test_malformed_context_queries_are_refused(shake, data):
    shake.receive(option(p.OPT_STRUCTURED_REPLY))
    assert kinds(shake.receive(option(p.OPT_LIST_META_CONTEXT, data))) == [p.REP_ERR_INVALID]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">I", 3) + b"x" * 16,
        struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", p.OPT_GO, 1 << 30),
        struct.pack(">I", 3) + option(p.OPT_EXPORT_NAME, b"nobody"),
    ],
)
def test_what_is_no_nbd_client_is_disconnected(world, data):
    handshake = Handshake(world.server.exports)
    with pytest.raises(ProtocolError):
        handshake.receive(data)
    assert handshake.phase is Phase.CLOSED


def test_abort_is_acknowledged_and_ends_it(shake):
    assert kinds(shake.receive(option(p.OPT_ABORT))) == [p.REP_ACK]
    assert shake.phase is Phase.CLOSED


def test_names_longer_than_256_bytes_are_not_served(world):
    with pytest.raises(InvalidArgumentError, match="256"):
        ExportTable({"ä" * 129: Export(volume=world.volume)})
