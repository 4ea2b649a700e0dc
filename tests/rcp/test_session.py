"""What a session checks beyond the order of messages: credit, chunks, acknowledgements, commands, silence."""

from __future__ import annotations

import msgspec
import pytest

from replkit.contracts.position import Epoch, Position
from replkit.errors import LocalProtocolError, ProtocolError
from replkit.rcp import messages as m
from replkit.rcp.states import State

EPOCH = Epoch(2, "00112233445566ff")
TAG = "0000000000000007.w1"


def at(number: int, epoch: Epoch = EPOCH) -> Position:
    return Position(epoch, number, f"{number:032x}")


@pytest.fixture
def ready(talk):
    return talk.reach(State.READY)


def refused(talk, by, body, match, payload=b""):
    """Both ends refuse: ours before it leaves, the other's when it comes; ours stays as it was."""
    here, there = (talk.sender, talk.receiver) if by == "sender" else (talk.receiver, talk.sender)
    before = (here.state, here.credit_bytes, here.set.state, here.set.next_chunk, here.copy.next_block)
    with pytest.raises(LocalProtocolError, match=match):
        here.send(body, 0.0, payload)
    assert (here.state, here.credit_bytes, here.set.state, here.set.next_chunk, here.copy.next_block) == before
    with pytest.raises(ProtocolError, match=match):
        there.receive(m.encode(body, payload), 0.0)
    assert there.state is State.CLOSED


class TestCredit:
    pytestmark = pytest.mark.requirement("S4")

    def test_chunks_cost_what_they_hold_and_nothing_else_costs(self, ready, samples):
        ready.sample("sender", m.SetBegin)
        ready.say("sender", m.Chunk(tag=TAG, index=0), bytes(600))
        ready.sample("sender", m.CopyBegin)
        ready.say("sender", samples[m.CopyChunk], bytes(300))
        ready.say("sender", m.Chunk(tag=TAG, index=1), bytes(100))
        ready.say("sender", m.SetEnd(tag=TAG), bytes(5000))
        assert ready.sender.credit_bytes == ready.receiver.credit_bytes == 0

    def test_more_than_the_credit_is_refused(self, ready):
        ready.sample("sender", m.SetBegin)
        assert ready.sender.can_send(1000)
        assert not ready.sender.can_send(1001)
        refused(ready, "sender", m.Chunk(tag=TAG, index=0), "credit is 1000", bytes(1001))

    def test_a_grant_is_added(self, ready):
        ready.sample("sender", m.SetBegin)
        ready.say("sender", m.Chunk(tag=TAG, index=0), bytes(1000))
        ready.say("receiver", ready.receiver.grant(70))
        assert ready.sender.credit_bytes == 70
        ready.say("sender", m.Chunk(tag=TAG, index=1), bytes(70))


class TestSet:
    pytestmark = pytest.mark.requirement("D3")

    def test_a_chunk_left_out_is_refused(self, ready):
        ready.sample("sender", m.SetBegin)
        refused(ready, "sender", m.Chunk(tag=TAG, index=1), "chunk 1 .* expected 0")

    def test_a_chunk_sent_twice_is_refused(self, ready):
        ready.sample("sender", m.SetBegin)
        ready.say("sender", m.Chunk(tag=TAG, index=0))
        refused(ready, "sender", m.Chunk(tag=TAG, index=0), "chunk 0 .* expected 1")

    def test_a_chunk_more_than_announced_is_refused(self, ready):
        ready.sample("sender", m.SetBegin)
        for index in range(2):
            ready.say("sender", m.Chunk(tag=TAG, index=index))
        refused(ready, "sender", m.Chunk(tag=TAG, index=2), "chunk 2 .* of 2")

    def test_an_end_before_the_last_chunk_is_refused(self, ready):
        ready.sample("sender", m.SetBegin)
        ready.say("sender", m.Chunk(tag=TAG, index=0))
        refused(ready, "sender", m.SetEnd(tag=TAG), "at chunk 1 of 2")

    @pytest.mark.parametrize("kind", [m.Chunk, m.SetEnd, m.SetAbort])
    def test_a_message_of_another_set_is_refused(self, ready, samples, kind):
        ready.sample("sender", m.SetBegin)
        refused(ready, "sender", msgspec.structs.replace(samples[kind], tag="0000000000000008.w1"), "inside set")

    def test_a_set_without_chunks_is_a_set(self, ready, samples):
        ready.say("sender", msgspec.structs.replace(samples[m.SetBegin], chunk_count=0))
        ready.say("sender", m.SetEnd(tag=TAG), b"header")


class TestCopy:
    pytestmark = pytest.mark.requirement("C1")

    def test_blocks_do_not_go_back(self, ready, samples):
        ready.sample("sender", m.CopyBegin)
        ready.sample("sender", m.CopyChunk)
        refused(ready, "sender", m.CopyChunk(copy_id="copy-1", index=1, next_block=8), "a block from 9 to 256")

    def test_blocks_end_with_the_volume(self, ready):
        ready.sample("sender", m.CopyBegin)
        refused(ready, "sender", m.CopyChunk(copy_id="copy-1", index=0, next_block=257), "a block from 0 to 256")

    def test_a_chunk_left_out_is_refused(self, ready):
        ready.sample("sender", m.CopyBegin)
        refused(ready, "sender", m.CopyChunk(copy_id="copy-1", index=1, next_block=9), "expected 0")

    def test_progress_is_never_ahead_of_what_was_sent(self, ready):
        ready.sample("sender", m.CopyBegin)
        ready.sample("sender", m.CopyChunk)
        refused(ready, "receiver", m.CopyProgress(copy_id="copy-1", next_block=10), "from 0 to 9")

    def test_progress_does_not_fall(self, ready):
        ready.sample("sender", m.CopyBegin)
        ready.sample("sender", m.CopyChunk)
        ready.say("receiver", m.CopyProgress(copy_id="copy-1", next_block=9))
        refused(ready, "receiver", m.CopyProgress(copy_id="copy-1", next_block=8), "from 9 to 9")

    @pytest.mark.parametrize(
        ("by", "kind"), [("sender", m.CopyChunk), ("sender", m.CopyEnd), ("receiver", m.CopyProgress)]
    )
    def test_a_message_of_another_copy_is_refused(self, ready, samples, by, kind):
        ready.sample("sender", m.CopyBegin)
        refused(ready, by, msgspec.structs.replace(samples[kind], copy_id="copy-2"), "inside copy")

    def test_sets_and_a_copy_take_turns(self, ready, samples):
        for kind in (m.CopyBegin, m.SetBegin, m.CopyChunk, m.Chunk):
            ready.sample("sender", kind)
        ready.say("sender", m.Chunk(tag=TAG, index=1))
        ready.sample("sender", m.CopyEnd)
        ready.say("sender", m.SetEnd(tag=TAG), b"header")
        ready.sample("receiver", m.CopyDone)


class TestAcknowledgement:
    """Invariant 7, as far as a session sees it."""

    pytestmark = pytest.mark.requirement("T7")

    def test_what_was_not_sent_cannot_be_acknowledged(self, ready):
        ready.sample("sender", m.SetBegin)
        refused(ready, "receiver", m.Ack(received=at(7), played=at(5)), "beyond 5")

    def test_played_cannot_run_ahead_either(self, ready):
        refused(ready, "receiver", m.Ack(received=at(5), played=at(6)), "'played' 2:6 is beyond 5")

    def test_a_set_sent_whole_can(self, ready):
        ready.lead_to(m.SetEnd, "sender")
        ready.say("sender", m.SetEnd(tag=TAG), b"header")
        ready.say("receiver", m.Ack(received=at(7), played=at(5)))
        assert ready.sender.acks.received == at(7)
        assert ready.sender.acks.played == at(5)

    @pytest.mark.parametrize("ack", [(None, at(5)), (at(4), at(5)), (at(5, Epoch(1, "a")), at(5)), (at(5), at(4))])
    def test_it_does_not_fall(self, ready, ack):
        refused(ready, "receiver", m.Ack(received=ack[0], played=ack[1]), "falls from")

    def test_a_new_copy_begins_anew(self, ready):
        ready.sample("sender", m.CopyBegin)
        ready.say("receiver", m.Ack(received=None, played=None))
        ready.say("receiver", m.Ack(received=at(5), played=None))
        refused(ready, "receiver", m.Ack(received=at(6), played=None), "beyond 5")


class TestCommands:
    pytestmark = pytest.mark.requirement("T10")

    def test_an_answer_to_no_command_is_refused(self, ready, samples):
        refused(ready, "receiver", samples[m.CommandDone], "not open")

    def test_an_answer_is_given_once(self, ready, samples):
        ready.sample("sender", m.Command)
        ready.sample("receiver", m.CommandDone)
        refused(ready, "receiver", samples[m.CommandDone], "not open")

    def test_a_number_in_use_is_refused_and_a_new_one_is_offered(self, ready, samples):
        ready.sample("sender", m.Command)
        assert ready.sender.new_command_id() == samples[m.Command].id + 1
        refused(ready, "sender", samples[m.Command], "is open|are open|one of this number")

    def test_open_commands_are_bounded(self, ready):
        for number in range(1000):
            ready.say("sender", m.Command(id=number, name="n"))
        refused(ready, "sender", m.Command(id=1000, name="n"), "while 1000 are open")


class TestGreeting:
    def test_a_version_that_was_not_offered_is_refused(self, talk, samples):
        talk.sample("sender", m.Hello)
        refused(talk, "receiver", msgspec.structs.replace(samples[m.Welcome], version=2), "version 2")

    def test_after_a_protocol_error_nothing_more_is_taken(self, ready, samples):
        with pytest.raises(ProtocolError):
            ready.receiver.receive(m.encode(samples[m.Ack]), 0.0)
        with pytest.raises(ProtocolError, match="closed"):
            ready.receiver.receive(m.encode(samples[m.Ping]), 0.0)
        with pytest.raises(LocalProtocolError, match="closed"):
            ready.receiver.send(samples[m.Ack], 0.0)

    def test_an_error_names_the_peer(self, ready, samples):
        with pytest.raises(ProtocolError, match="session with here"):
            ready.receiver.receive(m.encode(samples[m.Ack]), 0.0)


class TestSilence:
    """Half-open peers: asked after five seconds, given up after fifteen."""

    def test_a_ping_is_due_once_each_five_seconds_of_silence(self, ready):
        assert ready.sender.due(4.9) is None
        ping = ready.sender.due(5.0)
        assert ping == m.Ping(token=0)
        ready.sender.send(ping, 5.0)
        assert ready.sender.due(9.9) is None
        assert ready.sender.due(10.0) == m.Ping(token=1)

    def test_whatever_is_heard_breaks_the_silence(self, ready, samples):
        ready.sender.receive(ready.receiver.send(samples[m.Credit], 14.0), 14.0)
        assert ready.sender.due(18.9) is None
        assert not ready.sender.is_dead(28.9)
        assert ready.sender.is_dead(29.0)

    def test_a_peer_that_never_greets_is_dead_too(self, talk):
        assert talk.receiver.due(100.0) is None
        assert not talk.receiver.is_dead(14.9)
        assert talk.receiver.is_dead(15.0)

    def test_a_pong_answers_one_ping(self, ready):
        ready.sample("sender", m.Ping)
        ready.sample("receiver", m.Pong)
        with pytest.raises(ProtocolError, match="nobody asked"):
            ready.sender.receive(m.encode(m.Pong(token=4)), 0.0)
