"""One sample of each message, and two sessions that talk to each other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from replkit.contracts.position import Epoch, HistoryEntry, Position
from replkit.rcp import messages as m
from replkit.rcp.session import ReceiverSession, SenderSession
from replkit.rcp.states import CopyState, SetState, State

EPOCH = Epoch(2, "00112233445566ff")
TAG = "0000000000000007.w1"
STAMP = Position(EPOCH, 5, "5" * 32)
NEWEST = Position(EPOCH, 7, "7" * 32)

SAMPLES: dict[type[m.Body], m.Body] = {
    type(sample): sample
    for sample in (
        m.Hello(
            versions=(1,), site="here", volume="disk", member="there", lineage="6e1ee4a8-0000-4000-8000-000000000001",
            epoch=EPOCH, history=(HistoryEntry(Epoch(1, "a" * 16), 0), HistoryEntry(EPOCH, 4)), position=NEWEST,
            block_size=4096, volume_size_bytes=1 << 20,
        ),
        m.Welcome(version=1, site="there", received=STAMP, played=STAMP, epoch=EPOCH, credit_bytes=1000),
        m.Refuse(code="diverged", text="my history forks at 4", epoch=EPOCH),
        m.SetBegin(
            tag=TAG, epoch=EPOCH, first_number=6, number=7, base_identity="5" * 32, chunk_count=2, digest="d" * 32
        ),
        m.Chunk(tag=TAG, index=0),
        m.SetEnd(tag=TAG),
        m.SetAbort(tag=TAG),
        m.Ack(received=STAMP, played=STAMP),
        m.Credit(size_bytes=1),
        m.CopyBegin(
            copy_id="copy-1", stamp=STAMP, block_count_in_use=3, data_bytes=3 * 4096, volume_size_bytes=1 << 20,
            block_size=4096, lineage="6e1ee4a8-0000-4000-8000-000000000001",
        ),
        m.CopyChunk(copy_id="copy-1", index=0, next_block=9),
        m.CopyEnd(copy_id="copy-1"),
        m.CopyDone(copy_id="copy-1"),
        m.CopyProgress(copy_id="copy-1", next_block=0),
        m.Command(id=3, name="freeze", arguments={"seconds": 1.5, "quiet": True, "why": None}),
        m.CommandDone(id=3, ok=True, result={"frozen": "yes"}),
        m.Ping(token=4),
        m.Pong(token=4),
        m.Bye(reason="stopping"),
        m.Call(id=1, name="block-list", arguments={"volume": "disk", "page": 0, "ids": ["a", {"b": None}]}),
        m.Reply(id=1, ok=True, result={"pages": 2, "share": 0.5}),
    )
}  # fmt: skip
"""Each of them fits a session that stands ready, between two sets, without a copy; the rest after ``lead_to``."""

LEAD_TO: dict[type[m.Body], list[tuple[str, type[m.Body]]]] = {
    m.Chunk: [("sender", m.SetBegin)],
    m.SetAbort: [("sender", m.SetBegin)],
    m.CopyChunk: [("sender", m.CopyBegin)],
    m.CopyEnd: [("sender", m.CopyBegin)],
    m.CopyProgress: [("sender", m.CopyBegin)],
    m.CopyDone: [("sender", m.CopyBegin), ("sender", m.CopyEnd)],
    m.CommandDone: [("sender", m.Command)],
}


class Conversation:
    """A sender and a receiver session; each message that one sends the other receives at once."""

    def __init__(self) -> None:
        self.sender = SenderSession("there", 0.0)
        self.receiver = ReceiverSession("here", 0.0)
        self.now = 0.0

    def say(self, by: str, body: m.Body, payload: bytes = b"") -> m.Body:
        """Let one side send ``body``; what the other made of it."""
        here, there = (self.sender, self.receiver) if by == "sender" else (self.receiver, self.sender)
        return there.receive(here.send(body, self.now, payload), self.now)

    def sample(self, by: str, kind: type[m.Body]) -> m.Body:
        return self.say(by, SAMPLES[kind])

    def reach(self, state: State) -> Conversation:
        """Lead both sessions to ``state``."""
        if state is not State.START:
            self.sample("sender", m.Hello)
        if state in (State.READY, State.CLOSED):
            self.sample("receiver", m.Welcome)
        if state is State.CLOSED:
            self.sample("sender", m.Bye)
        return self

    def lead_to(self, kind: type[m.Body], by: str) -> Conversation:
        """From ready, do what must come before the sample of ``kind``."""
        for speaker, body in LEAD_TO.get(kind, []):
            self.sample(speaker, body)
        if kind is m.SetEnd:
            self.sample("sender", m.SetBegin)
            for index in range(2):
                self.say("sender", m.Chunk(tag=TAG, index=index))
        if kind is m.Pong:
            self.sample("receiver" if by == "sender" else "sender", m.Ping)
        return self

    def reach_set(self, state: SetState) -> Conversation:
        self.reach(State.READY)
        if state is SetState.IN_SET:
            self.sample("sender", m.SetBegin)
        return self

    def reach_copy(self, state: CopyState) -> Conversation:
        self.reach(State.READY)
        if state is not CopyState.NONE:
            self.sample("sender", m.CopyBegin)
        if state is CopyState.ENDED:
            self.sample("sender", m.CopyEnd)
        return self


@pytest.fixture(scope="session")
def samples() -> dict[type[m.Body], m.Body]:
    return SAMPLES


@pytest.fixture
def talk() -> Conversation:
    return Conversation()


@pytest.fixture(scope="session")
def new_talk() -> Callable[[], Conversation]:
    return Conversation
