"""The state machines of a session: every transition that there is, in tables; what is not listed is refused.

A link of calls is no session: ``CALL_STEPS`` is all that there is to it.
A session is three small machines side by side. ``STEPS`` is the session itself, as the sender sees it; the receiver's
is its mirror. ``SET_STEPS`` follows the one set, ``COPY_STEPS`` the one new copy that may be under way; the two may
take turns message by message (sets go on arriving during a copy, C1). Drawn in ``docs/reference/rcp.md``.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, TypeAlias

from replkit.rcp import messages as m


class State(Enum):
    """Where a session stands."""

    START = "start"
    GREETED = "greeted"
    """The hello is out, the welcome is not."""
    READY = "ready"
    CLOSED = "closed"


class SetState(Enum):
    """Where the transfer of a delta set stands."""

    BETWEEN = "between"
    IN_SET = "in set"


class CopyState(Enum):
    """Where the transfer of a new copy stands."""

    NONE = "none"
    COPYING = "copying"
    ENDED = "ended"
    """All is sent; the receiver has not said that it is durable."""


class Direction(Enum):
    """Seen from the side whose session it is."""

    SENT = "sent"
    RECEIVED = "received"

    @property
    def mirrored(self) -> Direction:
        """The same message as the other side sees it."""
        return Direction.RECEIVED if self is Direction.SENT else Direction.SENT


class Event(NamedTuple):
    """A message that passes."""

    direction: Direction
    body: type[m.Body]


Steps: TypeAlias = dict[tuple[State, Event], State]

_FROM_SENDER: tuple[type[m.Body], ...] = (
    m.SetBegin, m.Chunk, m.SetEnd, m.SetAbort, m.CopyBegin, m.CopyChunk, m.CopyEnd, m.Command, m.Ping, m.Pong,
)  # fmt: skip
_FROM_RECEIVER: tuple[type[m.Body], ...] = (
    m.Ack, m.Credit, m.CopyProgress, m.CopyDone, m.CommandDone, m.Ping, m.Pong,
)  # fmt: skip


def _sent(body: type[m.Body]) -> Event:
    return Event(Direction.SENT, body)


def _received(body: type[m.Body]) -> Event:
    return Event(Direction.RECEIVED, body)


STEPS: Steps = {
    (State.START, _sent(m.Hello)): State.GREETED,
    (State.GREETED, _received(m.Welcome)): State.READY,
    (State.GREETED, _received(m.Refuse)): State.CLOSED,
    (State.GREETED, _received(m.Bye)): State.CLOSED,
    (State.GREETED, _sent(m.Bye)): State.CLOSED,
    **{(State.READY, _sent(body)): State.READY for body in _FROM_SENDER},
    **{(State.READY, _received(body)): State.READY for body in _FROM_RECEIVER},
    (State.READY, _received(m.Refuse)): State.CLOSED,
    (State.READY, _received(m.Bye)): State.CLOSED,
    (State.READY, _sent(m.Bye)): State.CLOSED,
}
"""Steps of the sender's session."""
RECEIVER_STEPS: Steps = {
    (state, Event(event.direction.mirrored, event.body)): following for (state, event), following in STEPS.items()
}
"""Steps of the receiver's: the same messages, seen from the other end."""

SET_STEPS: dict[tuple[SetState, type[m.Body]], SetState] = {
    (SetState.BETWEEN, m.SetBegin): SetState.IN_SET,
    (SetState.IN_SET, m.Chunk): SetState.IN_SET,
    (SetState.IN_SET, m.SetEnd): SetState.BETWEEN,
    (SetState.IN_SET, m.SetAbort): SetState.BETWEEN,
}
COPY_STEPS: dict[tuple[CopyState, type[m.Body]], CopyState] = {
    (CopyState.NONE, m.CopyBegin): CopyState.COPYING,
    (CopyState.COPYING, m.CopyChunk): CopyState.COPYING,
    (CopyState.COPYING, m.CopyProgress): CopyState.COPYING,
    (CopyState.COPYING, m.CopyEnd): CopyState.ENDED,
    (CopyState.ENDED, m.CopyProgress): CopyState.ENDED,
    (CopyState.ENDED, m.CopyDone): CopyState.NONE,
}
SET_BODIES = frozenset(body for _, body in SET_STEPS)
COPY_BODIES = frozenset(body for _, body in COPY_STEPS)


class CallState(Enum):
    """Where a link of calls stands."""

    IDLE = "idle"
    CALLED = "called"
    """The call is out, its reply is not."""


CALL_STEPS: dict[tuple[CallState, type[m.Body]], CallState] = {
    (CallState.IDLE, m.Call): CallState.CALLED,
    (CallState.CALLED, m.Reply): CallState.IDLE,
}
"""The caller sends every Call, the side that is called every Reply."""
