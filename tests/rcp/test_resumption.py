"""A session cut at every byte, and resumed: the result is that of a transfer that was never cut (T7)."""

from __future__ import annotations

import pytest

from replkit.contracts.message import PREFIX_BYTES, Message, check_body, encode_frame_head, parse_prefix
from replkit.contracts.position import Epoch, Position
from replkit.errors import LocalProtocolError
from replkit.rcp import messages as m
from replkit.rcp.session import ReceiverSession, SenderSession

pytestmark = pytest.mark.requirement("T7", "D4")

EPOCH = Epoch(2, "00112233445566ff")
TAG = "0000000000000006.w1"
DIGEST = "d" * 32
CHUNKS = [b"first", b"second chunk", b"the third"]
COPY_CHUNKS = [(b"copied", 10), (b"and more", 30)]
STAMP = Position(EPOCH, 5, "5" * 32)


class Store:
    """What the receiver keeps over sessions; a naive model of a save volume."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.header: bytes | None = None
        self.has_begun = False
        self.copy: list[bytes] = []
        self.copy_next_block = 0
        self.copy_begun = self.copy_done = False

    @property
    def partial(self) -> m.Partial | None:
        is_inside = self.has_begun and self.header is None
        if not is_inside and not self.copy_begun:
            return None
        return m.Partial(
            set_tag=TAG if is_inside else None,
            epoch=EPOCH if is_inside else None,
            digest=DIGEST if is_inside else None,
            next_chunk=len(self.chunks) if is_inside else 0,
            copy_id="copy-1" if self.copy_begun and not self.copy_done else None,
            copy_next_block=self.copy_next_block,
        )

    def take(self, body: m.Body, payload: bytes) -> None:
        match body:
            case m.SetBegin():
                self.has_begun = True
            case m.Chunk():
                assert body.index == len(self.chunks)
                self.chunks.append(payload)
            case m.SetEnd():
                self.header = payload
            case m.CopyBegin():
                self.copy_begun = True
            case m.CopyChunk():
                self.copy.append(payload)
                self.copy_next_block = body.next_block
            case m.CopyEnd():
                self.copy_done = True


def hello() -> m.Hello:
    return m.Hello(
        versions=(1,), site="a", volume="v", member="b", lineage="1", epoch=EPOCH, history=(),
        position=Position(EPOCH, 6, "6" * 32), block_size=4096, volume_size_bytes=1 << 20,
    )  # fmt: skip


def begin() -> m.SetBegin:
    return m.SetBegin(
        tag=TAG, epoch=EPOCH, first_number=6, number=6, base_identity="5", chunk_count=len(CHUNKS), digest=DIGEST
    )


def to_send(welcome: m.Welcome) -> list[tuple[m.Body, bytes]]:
    """What a sender sends after the welcome: what the receiver lacks, set and copy in turns."""
    partial = welcome.partial or m.Partial()
    plan: list[tuple[m.Body, bytes]] = []
    if partial.copy_next_block < 30:
        copy = m.CopyBegin(
            copy_id="copy-1", stamp=STAMP, block_count_in_use=30, data_bytes=1, volume_size_bytes=1 << 20,
            block_size=4096, lineage="1",
        )  # fmt: skip
        plan.append((copy, b""))
        left = [chunk for chunk in COPY_CHUNKS if chunk[1] > partial.copy_next_block]
        plan += [(m.CopyChunk(copy_id="copy-1", index=i, next_block=end), data) for i, (data, end) in enumerate(left)]
        plan.append((m.CopyEnd(copy_id="copy-1"), b""))
    if welcome.received is None:
        plan.append((begin(), b""))
        plan += [(m.Chunk(tag=TAG, index=i), CHUNKS[i]) for i in range(partial.next_chunk, len(CHUNKS))]
        plan.append((m.SetEnd(tag=TAG), b"header"))
    return plan


def frames(store: Store) -> bytes:
    """All bytes of the sender in one session; the store says what the receiver has."""
    sender, receiver = SenderSession("b", 0.0), ReceiverSession("a", 0.0)
    messages = [sender.send(hello(), 0.0)]
    receiver.receive(messages[0], 0.0)
    welcome = welcome_of(store)
    sender.receive(receiver.send(welcome, 0.0), 0.0)
    messages += [sender.send(body, 0.0, payload) for body, payload in to_send(welcome)]
    return b"".join(encode_frame_head(message) + bytes(message.payload) for message in messages)


def welcome_of(store: Store) -> m.Welcome:
    received = Position(EPOCH, 6, "6" * 32) if store.header is not None else None
    return m.Welcome(
        version=1, site="b", received=received, played=None, epoch=EPOCH, partial=store.partial, credit_bytes=10_000
    )


def deliver(store: Store, wire: bytes) -> None:
    """A receiver that sees ``wire`` and then the end of the link; only whole messages count."""
    session = ReceiverSession("a", 0.0)
    while len(wire) >= PREFIX_BYTES:
        prefix = parse_prefix(wire)
        body_end = PREFIX_BYTES + prefix.body_bytes
        end = body_end + prefix.payload_bytes
        if len(wire) < end:
            return
        check_body(prefix, wire[PREFIX_BYTES:body_end])
        body = session.receive(Message(prefix.kind, wire[PREFIX_BYTES:body_end], wire[body_end:end]), 0.0)
        store.take(body, wire[body_end:end])
        if isinstance(body, m.Hello):
            session.send(welcome_of(store), 0.0)
        wire = wire[end:]


def test_cut_at_every_byte_and_resumed_it_equals_an_uninterrupted_transfer():
    whole = frames(Store())
    for size in range(len(whole) + 1):
        store = Store()
        deliver(store, whole[:size])
        assert (store.header is not None) == (size == len(whole))
        deliver(store, frames(store))
        assert (store.chunks, store.header) == (CHUNKS, b"header")
        assert store.copy == [data for data, _ in COPY_CHUNKS]


def test_cut_again_and_again_it_gets_there():
    store = Store()
    sessions = 0
    while store.header is None:
        deliver(store, frames(store)[: 700 + sessions % 3 * 100])
        sessions += 1
        assert sessions < 100
    assert store.chunks == CHUNKS
    assert sessions > 1


def resumed(partial: m.Partial) -> SenderSession:
    sender, receiver = SenderSession("b", 0.0), ReceiverSession("a", 0.0)
    receiver.receive(sender.send(hello(), 0.0), 0.0)
    store_welcome = m.Welcome(
        version=1, site="b", received=None, played=None, epoch=EPOCH, partial=partial, credit_bytes=100
    )
    sender.receive(receiver.send(store_welcome, 0.0), 0.0)
    sender.send(begin(), 0.0)
    return sender


@pytest.mark.parametrize(
    "other",
    [
        m.Partial(set_tag="0000000000000006.w2", epoch=EPOCH, digest=DIGEST, next_chunk=2),
        m.Partial(set_tag=TAG, epoch=Epoch(2, "another"), digest=DIGEST, next_chunk=2),
        m.Partial(set_tag=TAG, epoch=EPOCH, digest="e" * 32, next_chunk=2),
    ],
)
def test_a_resume_token_of_another_set_epoch_or_digest_counts_for_nothing(other):
    sender = resumed(other)
    with pytest.raises(LocalProtocolError, match="expected 0"):
        sender.send(m.Chunk(tag=TAG, index=2), 0.0)
    sender.send(m.Chunk(tag=TAG, index=0), 0.0)


def test_a_resume_token_is_good_once():
    sender = resumed(m.Partial(set_tag=TAG, epoch=EPOCH, digest=DIGEST, next_chunk=2))
    sender.send(m.SetAbort(tag=TAG), 0.0)
    sender.send(begin(), 0.0)
    with pytest.raises(LocalProtocolError, match="expected 0"):
        sender.send(m.Chunk(tag=TAG, index=2), 0.0)


def test_a_resume_token_beyond_the_set_is_refused():
    with pytest.raises(LocalProtocolError, match="goes on at chunk 4 of 3"):
        resumed(m.Partial(set_tag=TAG, epoch=EPOCH, digest=DIGEST, next_chunk=4))
