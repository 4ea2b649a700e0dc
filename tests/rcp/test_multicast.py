"""Volume multicast: one control block to all, an answer from each, nobody waits for one that is away (FIG. 13)."""

from __future__ import annotations

import msgspec
import pytest

from replkit.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    ProtocolError,
)
from replkit.rcp import messages as m
from replkit.rcp.multicast import ControlBlock, MulticastReceiver, Outcome, VolumeMulticast
from replkit.rcp.states import State

pytestmark = pytest.mark.requirement("T10")

DESTINATIONS = {"berlin": "disk", "lima": "disk-copy", "oslo": "backup"}


class World:
    """A sender, and a conversation with each member."""

    def __init__(self, new_talk, samples) -> None:
        self.relation = VolumeMulticast("disk", "europe", DESTINATIONS)
        self.sender = self.relation.open_sender()
        self.talks = {}
        self.receivers: dict[str, MulticastReceiver] = {}
        for member, volume in DESTINATIONS.items():
            talk = self.talks[member] = new_talk()
            talk.say("sender", msgspec.structs.replace(samples[m.Hello], member=member, volume=volume))
            talk.sample("receiver", m.Welcome)
            self.receivers[member] = self.relation.open_receiver(member, talk.receiver)

    def join(self, *members: str) -> None:
        for member in members:
            self.sender.join(member, self.talks[member].sender)

    def answer(self, member: str, message, outcome: Outcome):
        talk = self.talks[member]
        command = talk.receiver.receive(message, 0.0)
        reply = talk.sender.receive(self.receivers[member].answer(command, outcome, 0.0), 0.0)
        return self.sender.done(member, reply)


@pytest.fixture
def world(new_talk, samples) -> World:
    return World(new_talk, samples)


def test_a_control_block_goes_to_every_member_and_the_answers_come_back(world):
    world.join("berlin", "lima", "oslo")
    broadcast, messages = world.sender.broadcast(ControlBlock.copy_extent(10, 5), 0.0)
    assert [member for member, _ in messages] == ["berlin", "lima", "oslo"]
    for member, message in messages:
        assert not broadcast.is_complete
        assert world.answer(member, message, Outcome(member != "lima", {"volume": DESTINATIONS[member]})) is broadcast
    assert broadcast.is_complete
    assert broadcast.failed == ["lima"]
    assert broadcast.outcomes["oslo"].result == {"volume": "backup"}


@pytest.mark.parametrize(
    "block", [ControlBlock.copy_extent(0, 9), ControlBlock.start_playback(7), ControlBlock("freeze", {"s": 1.5})]
)
def test_the_receiver_gets_the_block_as_it_was_broadcast(world, block):
    world.join("oslo")
    _, messages = world.sender.broadcast(block, 0.0)
    command = world.talks["oslo"].receiver.receive(messages[0][1], 0.0)
    assert world.receivers["oslo"].take(command) == block


@pytest.mark.requirement("T1")
def test_a_member_that_is_away_has_failed_at_once(world):
    world.join("berlin")
    broadcast, messages = world.sender.broadcast(ControlBlock.start_playback(3), 0.0)
    assert [member for member, _ in messages] == ["berlin"]
    assert world.answer("berlin", messages[0][1], Outcome(True, {})) is broadcast
    assert broadcast.is_complete
    assert broadcast.failed == ["lima", "oslo"]


@pytest.mark.requirement("T1")
def test_a_member_that_goes_completes_what_waited_for_it(world):
    world.join("berlin", "lima", "oslo")
    broadcast, messages = world.sender.broadcast(ControlBlock("freeze"), 0.0)
    for member, message in messages[1:]:
        world.answer(member, message, Outcome(True, {}))
    assert world.sender.leave("berlin") == [broadcast]
    assert broadcast.failed == ["berlin"]


def test_a_member_whose_session_was_closed_is_away(world):
    world.join("berlin")
    world.talks["berlin"].sample("sender", m.Bye)
    assert world.talks["berlin"].sender.state is State.CLOSED
    broadcast, messages = world.sender.broadcast(ControlBlock("freeze"), 0.0)
    assert not messages
    assert broadcast.failed == ["berlin", "lima", "oslo"]


def test_two_broadcasts_and_a_private_command_are_told_apart(world):
    world.join("berlin")
    talk = world.talks["berlin"]
    talk.say("sender", m.Command(id=0, name="private"))
    first, messages_of_first = world.sender.broadcast(ControlBlock("one"), 0.0)
    second, messages_of_second = world.sender.broadcast(ControlBlock("two"), 0.0)
    private = talk.sender.receive(talk.receiver.send(m.CommandDone(id=0, ok=True), 0.0), 0.0)
    assert world.sender.done("berlin", private) is None
    commands = [talk.receiver.receive(messages[0][1], 0.0) for messages in (messages_of_first, messages_of_second)]
    for command, broadcast in zip(reversed(commands), (second, first), strict=True):
        reply = talk.sender.receive(world.receivers["berlin"].answer(command, Outcome(True, {}), 0.0), 0.0)
        assert world.sender.done("berlin", reply) is broadcast


def test_a_session_for_another_volume_does_not_join(world):
    with pytest.raises(InvalidArgumentError, match="not for disk-copy of lima"):
        world.sender.join("lima", world.talks["oslo"].sender)
    with pytest.raises(InvalidArgumentError, match="not for volume disk-copy of lima"):
        world.relation.open_receiver("lima", world.talks["oslo"].receiver)


def test_a_member_joins_once_with_a_session_that_is_ready(world, talk):
    world.join("oslo")
    with pytest.raises(AlreadyExistsError):
        world.join("oslo")
    with pytest.raises(InvalidArgumentError, match="not ready"):
        world.sender.join("lima", talk.sender)


def test_a_stranger_is_no_member(world, talk):
    with pytest.raises(NotFoundError, match="no member paris"):
        world.sender.join("paris", talk.sender)


@pytest.mark.parametrize(
    "names", [("Disk", "g", {}), ("d", "", {}), ("d", "g", {"a/b": "v"}), ("d", "g", {"a": "../v"})]
)
def test_what_is_no_name_is_refused(names):
    with pytest.raises(InvalidArgumentError, match="is no name"):
        VolumeMulticast(*names)


@pytest.mark.parametrize(
    "arguments", [{}, {"start": -1, "count": 1}, {"start": 1, "count": True}, {"start": "1", "count": 1}]
)
def test_an_extent_without_its_numbers_is_refused_at_both_ends(world, arguments):
    world.join("oslo")
    with pytest.raises(InvalidArgumentError, match="copy-extent"):
        world.sender.broadcast(ControlBlock("copy-extent", arguments), 0.0)
    command = m.Command(id=9, name="copy-extent", arguments=arguments)
    with pytest.raises(ProtocolError, match="copy-extent"):
        world.receivers["oslo"].take(command)
