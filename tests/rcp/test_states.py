"""Every pair of state and message: what the tables list is done, everything else is refused and changes nothing."""

from __future__ import annotations

import itertools

import pytest

from replkit.errors import LocalProtocolError, ProtocolError
from replkit.rcp import messages as m
from replkit.rcp.states import (
    CALL_STEPS,
    COPY_BODIES,
    COPY_STEPS,
    RECEIVER_STEPS,
    SET_BODIES,
    SET_STEPS,
    STEPS,
    CopyState,
    Direction,
    Event,
    SetState,
    State,
)

KINDS = list(m.KINDS.values())
SIDES = ["sender", "receiver"]
pytestmark = pytest.mark.requirement("T7")


def label(value: object) -> str:
    return getattr(value, "__name__", None) or getattr(value, "name", None) or str(value)


@pytest.mark.parametrize(("by", "state", "kind"), list(itertools.product(SIDES, State, KINDS)), ids=label)
def test_each_message_in_each_state(talk, samples, by, state, kind):
    talk.reach(state)
    if state is State.READY:
        talk.lead_to(kind, by)
    steps = STEPS if by == "sender" else RECEIVER_STEPS
    following = steps.get((state, Event(Direction.SENT, kind)))
    if following is not None:
        assert talk.sample(by, kind) == samples[kind]
        assert talk.sender.state is talk.receiver.state is following
        return
    here, there = (talk.sender, talk.receiver) if by == "sender" else (talk.receiver, talk.sender)
    with pytest.raises(LocalProtocolError, match=kind.__name__):
        here.send(samples[kind], 0.0)
    assert here.state is state
    with pytest.raises(ProtocolError, match=kind.__name__):
        there.receive(m.encode(samples[kind]), 0.0)
    assert there.state is State.CLOSED


@pytest.mark.parametrize(
    ("state", "kind"), list(itertools.product(SetState, sorted(SET_BODIES, key=label))), ids=label
)  # fmt: skip
def test_each_message_of_a_set_in_each_state_of_it(talk, samples, state, kind):
    talk.reach_set(state)
    sample = samples[kind]
    if kind is m.SetEnd and state is SetState.IN_SET:
        for index in range(2):
            talk.say("sender", m.Chunk(tag=sample.tag, index=index))
    if (following := SET_STEPS.get((state, kind))) is not None:
        talk.say("sender", sample)
        assert talk.sender.set.state is talk.receiver.set.state is following
        return
    with pytest.raises(LocalProtocolError, match=kind.__name__):
        talk.sender.send(sample, 0.0)
    assert talk.sender.set.state is state
    with pytest.raises(ProtocolError, match=kind.__name__):
        talk.receiver.receive(m.encode(sample), 0.0)


@pytest.mark.parametrize(
    ("state", "kind"), list(itertools.product(CopyState, sorted(COPY_BODIES, key=label))), ids=label
)  # fmt: skip
def test_each_message_of_a_copy_in_each_state_of_it(talk, samples, state, kind):
    talk.reach_copy(state)
    by = "receiver" if kind in (m.CopyDone, m.CopyProgress) else "sender"
    here, there = (talk.sender, talk.receiver) if by == "sender" else (talk.receiver, talk.sender)
    if (following := COPY_STEPS.get((state, kind))) is not None:
        talk.sample(by, kind)
        assert here.copy.state is there.copy.state is following
        return
    with pytest.raises(LocalProtocolError, match=kind.__name__):
        here.send(samples[kind], 0.0)
    assert here.copy.state is state
    with pytest.raises(ProtocolError, match=kind.__name__):
        there.receive(m.encode(samples[kind]), 0.0)


def test_every_message_is_passed_by_somebody_in_some_state():
    passed = {event.body for _, event in STEPS} | {body for _, body in CALL_STEPS}
    assert passed == set(KINDS)


def test_the_receiver_is_the_mirror_of_the_sender():
    assert len(RECEIVER_STEPS) == len(STEPS)
    for (state, event), following in STEPS.items():
        assert RECEIVER_STEPS[state, Event(event.direction.mirrored, event.body)] is following


def test_nothing_leads_out_of_closed():
    assert not [state for state, _ in STEPS if state is State.CLOSED]
