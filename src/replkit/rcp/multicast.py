"""Volume multicast (FIG. 13, T10): one source volume, a group of members, and at each of them a volume of any name.

Opened as sender it broadcasts control blocks to all members and collects their acknowledgements; opened as receiver it
takes them and answers. A member that is away or gone counts as answered with a failure, so nobody waits for it (T1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from replkit.contracts.message import Message
from replkit.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError, ProtocolError
from replkit.rcp import messages as m
from replkit.rcp.session import ReceiverSession, SenderSession
from replkit.rcp.states import State

COPY_EXTENT = "copy-extent"
START_PLAYBACK = "start-playback"


class ControlBlock(NamedTuple):
    """What every member is to do: copy an extent, start playback, or any named command."""

    name: str
    arguments: Mapping[str, m.Value] = {}

    @classmethod
    def copy_extent(cls, start: int, count: int) -> ControlBlock:
        """The blocks ``[start, start + count)`` are to be copied."""
        return cls(COPY_EXTENT, {"start": start, "count": count})

    @classmethod
    def start_playback(cls, number: int) -> ControlBlock:
        """Playback is to begin with delta set ``number``."""
        return cls(START_PLAYBACK, {"number": number})

    def check(self) -> None:
        """Refuse one of the two known blocks without the numbers that it needs (invariant 12)."""
        needed = {COPY_EXTENT: ("start", "count"), START_PLAYBACK: ("number",)}.get(self.name, ())
        for name in needed:
            value = self.arguments.get(name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise InvalidArgumentError(f"control block {self.name}: {name} is {value!r}, not a number from 0")


class Outcome(NamedTuple):
    """How one member answered."""

    ok: bool
    result: Mapping[str, m.Value]


class Broadcast:
    """One control block on its way, and the answers so far."""

    def __init__(self, block: ControlBlock) -> None:
        self.block = block
        self.waiting: set[str] = set()
        self.outcomes: dict[str, Outcome] = {}

    @property
    def is_complete(self) -> bool:
        """Whether every member answered or is gone."""
        return not self.waiting

    @property
    def failed(self) -> list[str]:
        """Members that did not do it, sorted."""
        return sorted(member for member, outcome in self.outcomes.items() if not outcome.ok)


class VolumeMulticast:
    """The relation of a source volume to a group.

    Args:
        volume: name of the source volume.
        group: name of the group.
        destinations: for each member, the name of the volume there.
    """

    def __init__(self, volume: str, group: str, destinations: Mapping[str, str]) -> None:
        for name in (volume, group, *destinations, *destinations.values()):
            try:
                msgspec.convert(name, m.Name)
            except msgspec.ValidationError:
                raise InvalidArgumentError(f"multicast of {volume!r} to {group!r}: {name!r} is no name") from None
        self.volume = volume
        self.group = group
        self.destinations = dict(destinations)

    def open_sender(self) -> MulticastSender:
        """Open it where the source volume is."""
        return MulticastSender(self)

    def open_receiver(self, member: str, session: ReceiverSession) -> MulticastReceiver:
        """Open it at ``member``, for the session that its sender opened."""
        return MulticastReceiver(self, member, session)

    def destination(self, member: str) -> str:
        """Name of the volume at ``member``."""
        if member not in self.destinations:
            raise NotFoundError(f"group {self.group} of volume {self.volume} has no member {member}")
        return self.destinations[member]


class MulticastSender:
    """Broadcasts control blocks over the sessions with the members that are there."""

    def __init__(self, relation: VolumeMulticast) -> None:
        self.relation = relation
        self._sessions: dict[str, SenderSession] = {}
        self._open: dict[tuple[str, int], Broadcast] = {}

    def join(self, member: str, session: SenderSession) -> None:
        """From now on reach ``member`` by ``session``, whose hello named that member and its volume."""
        destination = self.relation.destination(member)
        hello = session.hello
        if session.state is not State.READY or hello is None:
            raise InvalidArgumentError(f"the session with {session.peer} is not ready to multicast to {member}")
        if (hello.member, hello.volume) != (member, destination):
            raise InvalidArgumentError(
                f"the session with {session.peer} is for volume {hello.volume} of {hello.member}, "
                f"not for {destination} of {member}"
            )
        if member in self._sessions:
            raise AlreadyExistsError(f"group {self.relation.group} reaches {member} by another session already")
        self._sessions[member] = session

    def leave(self, member: str) -> list[Broadcast]:
        """The session with ``member`` is over; the broadcasts that this completes."""
        self._sessions.pop(member, None)
        lost = [key for key in self._open if key[0] == member]
        answered = [self._answer(key, Outcome(False, {"error": "the session ended before the answer"})) for key in lost]
        return [broadcast for broadcast in answered if broadcast.is_complete]

    def broadcast(self, block: ControlBlock, now: float) -> tuple[Broadcast, list[tuple[str, Message]]]:
        """Make the messages to send, one a member that is there; a member that is away has failed at once."""
        block.check()
        broadcast = Broadcast(block)
        messages: list[tuple[str, Message]] = []
        for member in sorted(self.relation.destinations):
            session = self._sessions.get(member)
            if session is None or session.state is not State.READY:
                broadcast.outcomes[member] = Outcome(False, {"error": "there is no session with it"})
                continue
            number = session.new_command_id()
            command = m.Command(id=number, name=block.name, arguments=dict(block.arguments))
            messages.append((member, session.send(command, now)))
            broadcast.waiting.add(member)
            self._open[member, number] = broadcast
        return broadcast, messages

    def done(self, member: str, body: m.CommandDone) -> Broadcast | None:
        """Note the answer that the session with ``member`` received; ``None`` when it is to no broadcast."""
        if (member, body.id) not in self._open:
            return None
        return self._answer((member, body.id), Outcome(body.ok, body.result))

    def _answer(self, key: tuple[str, int], outcome: Outcome) -> Broadcast:
        broadcast = self._open.pop(key)
        broadcast.waiting.remove(key[0])
        broadcast.outcomes[key[0]] = outcome
        return broadcast


class MulticastReceiver:
    """Takes the control blocks of one session at a member."""

    def __init__(self, relation: VolumeMulticast, member: str, session: ReceiverSession) -> None:
        self.destination = relation.destination(member)
        self._session = session
        hello = session.hello
        if hello is None or (hello.member, hello.volume) != (member, self.destination):
            raise InvalidArgumentError(
                f"the session with {session.peer} is not for volume {self.destination} of {member}"
            )

    def take(self, command: m.Command) -> ControlBlock:
        """The control block in a command; ``ProtocolError`` when it lacks what it needs."""
        block = ControlBlock(command.name, command.arguments)
        try:
            block.check()
        except InvalidArgumentError as error:
            raise ProtocolError(f"session with {self._session.peer}: {error.message}") from None
        return block

    def answer(self, command: m.Command, outcome: Outcome, now: float) -> Message:
        """The acknowledgement to send when the work is done."""
        return self._session.send(m.CommandDone(id=command.id, ok=outcome.ok, result=dict(outcome.result)), now)
