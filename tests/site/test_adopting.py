"""At which boundaries a bucket stands for a reader that has nothing else."""

from types import SimpleNamespace

import pytest

from replkit.contracts.position import Epoch, Position
from replkit.replication.cells import Base, Playing, Root
from replkit.site.adopting import Adopted

EPOCH = Epoch(1, "e")


def at(number):
    return Position(EPOCH, number, f"identity {number}")


@pytest.mark.requirement("U3")
@pytest.mark.parametrize(
    ("until", "target", "first"),
    [(0, None, 4), (4, None, 4), (5, None, 5), (0, 6, 6), (3, 6, 6)],
    ids=["at rest", "at rest since", "announced with its set", "announced by the player", "both, one of them played"],
)
def test_the_volume_is_a_base_from_the_end_of_a_pass_on_that_may_have_begun(until, target, first):
    """Invariant 5: while it may hold a part of a later set, it is no boundary before that one."""
    adopted = object.__new__(Adopted)
    adopted.entry = SimpleNamespace(place="dr/disk")
    adopted.root = Root(
        lineage="l", role="secondary", epoch=EPOCH, history=(), last=at(6),
        base=Base(copy_id="c", position=at(2), until=until),
    )  # fmt: skip
    adopted._playing = Playing(copy_id="c", position=at(4), target=target)
    assert adopted._first == first
