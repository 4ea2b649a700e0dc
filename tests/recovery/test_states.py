"""Roles and phases as one table (FIG. 21): what is not in it is refused, with what can be done instead."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from replkit.contracts.position import Epoch, Position
from replkit.errors import FencedError, InconsistentError, WrongRoleError
from replkit.recovery.states import STEPS, State, Step, require, state_of
from replkit.replication.cells import Base, CopyInfo, Handover, Resync, Root

EPOCH = Epoch(1, "one")
HERE = Position(EPOCH, 5, "5")
HANDOVER = Handover(id="h", member="b", phase="draining")
RESYNC = Resync(id="r", peer="p", peer_volume="vol", member="a", own_url="u", fork=HERE, list_key="")


def root_in(state: State) -> Root:
    """A root that tells this state."""
    base = Base(copy_id="c", position=HERE)
    secondary = {"role": "secondary", "base": base}
    fields: dict[State, dict[str, Any]] = {
        State.PRIMARY: {"role": "primary"},
        State.FENCED: {"role": "primary", "fenced": Epoch(2, "two"), "handover": HANDOVER},
        State.DRAINING: {"role": "primary", "handover": HANDOVER},
        State.EMPTY: {"role": "secondary"},
        State.COPYING: {"role": "secondary", "inconsistent": CopyInfo(copy_id="c", stamp=HERE)},
        State.FOLLOWING: secondary,
        State.GRANTED: {**secondary, "handover": msgspec.structs.replace(HANDOVER, phase="granted")},
        State.ASKING: {**secondary, "resync": RESYNC},
        State.RECEIVING: {**secondary, "resync": msgspec.structs.replace(RESYNC, phase="receiving")},
    }
    return Root(lineage="l", epoch=EPOCH, history=(), last=HERE, **fields[state])


@pytest.mark.requirement("R6", "R9")
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("step", Step)
def test_every_pair_that_the_table_does_not_have_is_refused(state: State, step: Step) -> None:
    root = root_in(state)
    assert state_of(root) is state
    if (state, step) in STEPS:
        assert require("vol", root, step) is STEPS[state, step]
        return
    with pytest.raises((FencedError, InconsistentError, WrongRoleError)) as refused:
        require("vol", root, step)
    assert state.value in str(refused.value)
    assert step.value in str(refused.value)


@pytest.mark.requirement("R6")
def test_no_volume_in_the_middle_of_a_copy_or_resync_can_become_a_primary() -> None:
    """Invariant 6."""
    for state in (State.EMPTY, State.COPYING, State.ASKING, State.RECEIVING):
        assert all(STEPS.get((state, step)) not in {State.PRIMARY, State.DRAINING} for step in Step)


@pytest.mark.requirement("R9")
def test_a_fenced_primary_writes_again_only_in_a_new_epoch() -> None:
    assert [step for (state, step), after in STEPS.items() if state is State.FENCED and after is State.PRIMARY] == [
        Step.BEGIN_EPOCH
    ]
