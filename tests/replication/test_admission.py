"""Who is let in, and what an old primary learns from a refusal (R9, invariant 8)."""

from __future__ import annotations

import msgspec
import pytest

from replkit.contracts.position import Epoch
from replkit.rcp import messages as m
from replkit.rcp.session import ReceiverSession
from replkit.replication.admission import epoch_for, refusal_at_primary
from replkit.replication.cells import MemberProgress, Root, sent_cell
from replkit.replication.receiver import greet, refuse_at_primary
from replkit.replication.root import load_struct
from replkit.testing.sim.returning import Fork
from replkit.testing.sim.sites import Sites


def hello_of(root: Root, **changes: object) -> m.Hello:
    hello = m.Hello(
        versions=(1,), site="x", volume="vol", member="a", lineage=root.lineage, epoch=root.epoch,
        history=root.history, position=root.last, block_size=512, volume_size_bytes=512,
    )  # fmt: skip
    return msgspec.structs.replace(hello, **changes)


@pytest.mark.requirement("R9")
def test_an_old_primary_learns_from_the_new_one_that_its_epoch_is_over() -> None:
    """Invariant 8: without any clock; both are up, and the old one still sends to the new."""
    fork = Fork()
    runtime = fork.world.runtime
    old = fork.a.primary.root.epoch
    fork.b.receive = lambda: None  # type: ignore[method-assign]
    links = []
    fork.world.network._listeners[fork.b.url] = links.append
    fork.world.network.down.clear()

    def answered() -> bool:
        while links:
            link = links.pop()
            refuse_at_primary(greet(link, runtime), fork.b.primary.root, runtime)
        progress, _version = load_struct(fork.a.save, sent_cell("b"), MemberProgress)
        return progress is not None and progress.fenced_by is not None

    fork.world.settle(answered)
    progress, _version = load_struct(fork.a.save, sent_cell("b"), MemberProgress)
    assert progress is not None
    assert progress.fenced_by == fork.b.primary.root.epoch
    assert progress.fenced_by.count > old.count


@pytest.mark.requirement("R9")
def test_a_primary_says_fenced_to_an_older_epoch_and_diverged_to_an_equal_count() -> None:
    root = Sites("a").a.primary.root
    newer = msgspec.structs.replace(root, epoch=Epoch(5, "me"))
    assert refusal_at_primary(hello_of(root), newer, "vol")[0] == "fenced"
    assert refusal_at_primary(hello_of(root, epoch=Epoch(5, "you")), newer, "vol")[0] == "diverged"
    assert refusal_at_primary(hello_of(root, epoch=Epoch(6, "you")), newer, "vol")[0] == "role"
    assert refusal_at_primary(hello_of(root, lineage="another"), newer, "vol")[0] == "role"


@pytest.mark.requirement("R9")
def test_a_sender_of_another_volume_is_told_no_epoch() -> None:
    """Else a wrong URL would stop the writes of a primary that nobody replaced."""
    root = Sites("a").a.primary.root
    assert epoch_for(hello_of(root), root) == root.epoch
    assert epoch_for(hello_of(root, lineage="another"), root) is None


def test_a_session_that_is_refused_with_an_epoch_passes_both_ends() -> None:
    root = Sites("a").a.primary.root
    session = ReceiverSession("x", 0.0)
    session.receive(m.encode(hello_of(root)), 0.0)
    body = m.decode(session.send(m.Refuse(code="fenced", text="over", epoch=root.epoch), 0.0))
    assert isinstance(body, m.Refuse)
    assert body.epoch == root.epoch
