"""The states of a replica in recovery, and every step between them, as one table (R1-R9; FIG. 21).

What is not in the table is refused: ``require`` is asked first by everything that changes a role or a phase.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from replkit.errors import FencedError, InconsistentError, WrongRoleError
from replkit.replication.cells import Root


class State(Enum):
    """Where a replica is, read off its root alone."""

    PRIMARY = "primary"
    FENCED = "fenced primary"
    DRAINING = "primary that hands over"
    EMPTY = "secondary without a copy"
    COPYING = "secondary in the middle of a new copy"
    FOLLOWING = "secondary"
    GRANTED = "secondary that waits for the new primary"
    ASKING = "secondary that asks for a resync"
    RECEIVING = "secondary in the middle of a resync"


class Step(Enum):
    """What a command or a service does to a replica."""

    PROMOTE = "promote"
    FENCE = "fence"
    BEGIN_EPOCH = "begin an epoch"
    DEMOTE = "demote"
    STEP_BACK = "step back to the fork"
    REDIRECT = "resync with another primary"
    ASKED = "have the peer make it a member"
    ARRIVED = "end the resync"
    HAND_OVER = "hand over"
    CANCEL = "cancel the handover"
    GRANT = "grant the role"
    RELEASE = "end the handover"


S, T = State, Step
STEPS: Final[dict[tuple[State, Step], State]] = {
    (S.PRIMARY, T.FENCE): S.FENCED,
    (S.PRIMARY, T.DEMOTE): S.ASKING,
    (S.PRIMARY, T.HAND_OVER): S.DRAINING,
    (S.PRIMARY, T.BEGIN_EPOCH): S.PRIMARY,
    (S.FENCED, T.FENCE): S.FENCED,
    (S.FENCED, T.DEMOTE): S.ASKING,
    (S.FENCED, T.BEGIN_EPOCH): S.PRIMARY,
    (S.DRAINING, T.FENCE): S.FENCED,
    (S.DRAINING, T.CANCEL): S.PRIMARY,
    (S.DRAINING, T.GRANT): S.GRANTED,
    (S.FOLLOWING, T.PROMOTE): S.PRIMARY,
    (S.FOLLOWING, T.STEP_BACK): S.ASKING,
    (S.GRANTED, T.RELEASE): S.FOLLOWING,
    (S.GRANTED, T.PROMOTE): S.PRIMARY,
    (S.GRANTED, T.STEP_BACK): S.ASKING,
    (S.ASKING, T.ASKED): S.RECEIVING,
    (S.ASKING, T.REDIRECT): S.ASKING,
    (S.ASKING, T.ARRIVED): S.FOLLOWING,
    (S.RECEIVING, T.REDIRECT): S.ASKING,
    (S.RECEIVING, T.ARRIVED): S.FOLLOWING,
}
"""State and step, and the state after it. A resync whose peer forgot it goes back by ``REDIRECT`` to the same peer."""


def state_of(root: Root) -> State:
    """The state that a root tells."""
    if root.role == "primary":
        if root.fenced is not None:
            return State.FENCED
        return State.DRAINING if root.handover is not None else State.PRIMARY
    if root.resync is not None:
        return State.ASKING if root.resync.phase == "asking" else State.RECEIVING
    if root.inconsistent is not None:
        return State.COPYING
    if root.base is None:
        return State.EMPTY
    return State.GRANTED if root.handover is not None else State.FOLLOWING


def require(name: str, root: Root, step: Step) -> State:
    """The state after ``step``; a typed error that names both where the table does not have the pair.

    ``InconsistentError`` in a copy or resync, ``FencedError`` at a fenced primary, ``WrongRoleError`` else.
    """
    state = state_of(root)
    after = STEPS.get((state, step))
    if after is not None:
        return after
    allowed = (
        ", ".join(sorted(each.value for here, each in STEPS if here is state)) or "nothing before its copy is done"
    )
    text = f"{name} is a {state.value}: it cannot {step.value}"
    hint = f"it can: {allowed}"
    if state in {State.COPYING, State.ASKING, State.RECEIVING, State.EMPTY}:
        raise InconsistentError(text, hint=hint)
    if state is State.FENCED:
        raise FencedError(text, hint=hint)
    raise WrongRoleError(text, hint=hint)
