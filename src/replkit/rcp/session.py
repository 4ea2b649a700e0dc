"""A session of RCP without I/O: both ends give it every message that they send or receive, and it refuses the wrong.

The tables of ``states`` say what may follow; what is not listed raises ``LocalProtocolError`` for our own message and
``ProtocolError`` for the peer's. A session says when to ping and when the peer counts as dead; time is passed in.
"""

from __future__ import annotations

from replkit.contracts.buffers import Buffer
from replkit.contracts.message import Message
from replkit.errors import LocalProtocolError, ProtocolError
from replkit.rcp import messages as m
from replkit.rcp.states import COPY_BODIES, RECEIVER_STEPS, SET_BODIES, STEPS, Direction, Event, State, Steps
from replkit.rcp.transfer import AckBook, CopyTrack, OutOfOrderError, SetTrack

PING_AFTER_S = 5.0
DEAD_AFTER_S = 15.0
MAX_OPEN_COMMANDS = 1000
"""Bound of the memory that a peer can make us spend on commands."""


class _Session:
    """What both ends do alike.

    Args:
        peer: name of the other end, for messages to people.
        now: seconds of a clock that never goes back; all later times are of the same clock.
        ping_after_s: silence after which ``due`` asks for a ping.
        dead_after_s: silence after which ``is_dead``; longer on a link that takes long for one chunk.
    """

    _steps: Steps

    def __init__(
        self, peer: str, now: float, *, ping_after_s: float = PING_AFTER_S, dead_after_s: float = DEAD_AFTER_S
    ) -> None:
        self.peer = peer
        self.state = State.START
        self.set = SetTrack()
        self.copy = CopyTrack()
        self.acks = AckBook()
        self.hello: m.Hello | None = None
        self.welcome: m.Welcome | None = None
        self.credit_bytes = 0
        """Bytes of chunks that the sender may still send."""
        self.open_commands: set[int] = set()
        self._heard_s = now
        self._asked_s = now
        self._ping_after_s = ping_after_s
        self._dead_after_s = dead_after_s
        self._next_token = 0
        self._next_command = 0
        self._open_tokens: set[int] = set()

    def send(self, body: m.Body, now: float, payload: Buffer = b"") -> Message:
        """The message for ``body``, once it is known that it may be sent here."""
        message = m.encode(body, payload)
        try:
            self._pass(body, Direction.SENT, memoryview(payload).nbytes)
        except OutOfOrderError as error:
            raise LocalProtocolError(f"session with {self.peer}: cannot send: {error}") from None
        if isinstance(body, m.Ping):
            self._asked_s = now
        return message

    def receive(self, message: Message, now: float) -> m.Body:
        """The checked body of a message of the peer; after ``ProtocolError`` the session is closed."""
        try:
            body = m.decode(message)
            self._pass(body, Direction.RECEIVED, memoryview(message.payload).nbytes)
        except OutOfOrderError as error:
            self.state = State.CLOSED
            raise ProtocolError(f"session with {self.peer}: it sent {error}") from None
        except ProtocolError as error:
            self.state = State.CLOSED
            raise ProtocolError(f"session with {self.peer}: {error.message}") from None
        self._heard_s = self._asked_s = now
        return body

    def due(self, now: float) -> m.Body | None:
        """A ping to send, when nothing was heard for a while."""
        if self.state is not State.READY or now - self._asked_s < self._ping_after_s:
            return None
        return m.Ping(token=self._next_token)

    def is_dead(self, now: float) -> bool:
        """Whether the peer was silent for too long, the time before its hello or welcome included."""
        return now - self._heard_s >= self._dead_after_s

    def can_send(self, payload_bytes: int) -> bool:
        """Whether the credit covers a chunk record of this size (S4)."""
        return payload_bytes <= self.credit_bytes

    def new_command_id(self) -> int:
        """A number that no command of this session had."""
        return self._next_command

    def _pass(self, body: m.Body, direction: Direction, payload_bytes: int) -> None:
        """Check all, then change; a message that is refused leaves the session as it was."""
        following = self._steps.get((self.state, Event(direction, type(body))))
        if following is None:
            raise OutOfOrderError(f"{type(body).__name__} in state '{self.state.value}'")
        self._check(body, direction, payload_bytes)
        if type(body) in SET_BODIES:
            self.set.pass_on(body)
        elif type(body) in COPY_BODIES:
            self.copy.pass_on(body)
        self.acks.pass_on(body, self.set.begun)
        self._note(body, direction, payload_bytes)
        self.state = following

    def _check(self, body: m.Body, direction: Direction, payload_bytes: int) -> None:
        match body:
            case m.Welcome() if self.hello is None or body.version not in self.hello.versions:
                raise OutOfOrderError(f"Welcome to version {body.version}, which was not offered")
            case m.Chunk() | m.CopyChunk() if not self.can_send(payload_bytes):
                raise OutOfOrderError(f"{payload_bytes} bytes of chunk, credit is {self.credit_bytes}")
            case m.Command() if body.id in self.open_commands:
                raise OutOfOrderError(f"Command {body.id} while one of this number is open")
            case m.Command() if len(self.open_commands) >= MAX_OPEN_COMMANDS:
                raise OutOfOrderError(f"Command {body.id} while {MAX_OPEN_COMMANDS} are open")
            case m.CommandDone() if body.id not in self.open_commands:
                raise OutOfOrderError(f"CommandDone of command {body.id}, which is not open")
            case m.Pong() if direction is Direction.RECEIVED and body.token not in self._open_tokens:
                raise OutOfOrderError(f"Pong {body.token} that nobody asked for")
            case _:
                pass

    def _note(self, body: m.Body, direction: Direction, payload_bytes: int) -> None:
        match body:
            case m.Hello():
                self.hello = body
            case m.Welcome():
                self.welcome = body
                self.credit_bytes = body.credit_bytes
                self.set.partial = self.copy.partial = body.partial
            case m.Credit():
                self.credit_bytes += body.size_bytes
            case m.Chunk() | m.CopyChunk():
                self.credit_bytes -= payload_bytes
            case m.Command():
                self.open_commands.add(body.id)
                self._next_command = max(self._next_command, body.id + 1)
            case m.CommandDone():
                self.open_commands.remove(body.id)
            case m.Ping() if direction is Direction.SENT:
                self._open_tokens.add(body.token)
                self._next_token = body.token + 1
            case m.Pong() if direction is Direction.RECEIVED:
                self._open_tokens.remove(body.token)
            case _:
                pass


class SenderSession(_Session):
    """The end that opens the session and controls it (T7)."""

    _steps = STEPS


class ReceiverSession(_Session):
    """The end that takes sets and copies, grants credit and acknowledges."""

    _steps = RECEIVER_STEPS

    def grant(self, size_bytes: int) -> m.Credit:
        """The credit to send when ``size_bytes`` more can be taken; ``send`` of it makes it valid."""
        return m.Credit(size_bytes=size_bytes)
