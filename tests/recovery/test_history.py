"""Where two histories parted: against naive trees of sites that cut and promote as they like (R4, R9)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replkit.contracts.position import Epoch, HistoryEntry, Position
from replkit.errors import DivergedError
from replkit.recovery.history import ForkPoint, Relation, epoch_of, fork_point, relation
from replkit.replication.branches import history_after


class NaiveSite:
    """A site as the list of all positions that its volume passed through, one after the other."""

    def __init__(self, path: list[tuple[Epoch, int]], epochs: list[Epoch]) -> None:
        self.path = path
        self.history: tuple[HistoryEntry, ...] = (HistoryEntry(epochs[0], 1),)

    @property
    def last(self) -> Position:
        epoch, number = self.path[-1]
        return Position(epoch, number, f"{epoch.promotion}-{number}")


FIRST = Epoch(1, "first")
Moves = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["cut", "follow", "promote"]), st.integers(0, 6)))


def play(moves: list[tuple[int, str, int]]) -> list[NaiveSite]:
    sites = [NaiveSite([(FIRST, 0)], [FIRST]) for _ in range(3)]
    writers = {0}
    for place, (who, what, amount) in enumerate(moves):
        site = sites[who]
        if what == "cut" and who in writers:
            for _ in range(amount):
                site.path.append((site.history[-1].epoch, site.path[-1][1] + 1))
        elif what == "follow" and who not in writers:
            other = sites[(who + 1 + amount % 2) % 3]
            if other.path[: len(site.path)] == site.path:  # only what continues it
                site.path = other.path[: len(site.path) + amount]
                site.history = other.history
        elif what == "promote" and len(site.path) > amount:
            back = amount if who not in writers else 0
            site.path = site.path[: len(site.path) - back]
            epoch = Epoch(max(each.history[-1].epoch.count for each in sites) + 1, f"p{place}")
            site.history = history_after(site.history, site.path[-1][1], epoch)
            writers.add(who)
    return sites


@pytest.mark.requirement("R4", "R9")
@given(Moves)
def test_the_fork_point_is_the_end_of_the_common_path(moves: list[tuple[int, str, int]]) -> None:
    sites = play(moves)
    for left in sites:
        for right in sites:
            shared = 0
            while shared < min(len(left.path), len(right.path)) and left.path[shared] == right.path[shared]:
                shared += 1
            epoch, number = left.path[shared - 1]
            found = fork_point(left.history, left.last, right.history, right.last)
            assert found == ForkPoint(number, epoch)
            assert fork_point(right.history, right.last, left.history, left.last) == found
        assert [epoch_of(left.history, number) for _epoch, number in left.path] == [epoch for epoch, _ in left.path]


@pytest.mark.requirement("R9")
def test_equal_counts_with_different_ids_are_a_divergence_and_the_higher_count_wins() -> None:
    assert relation(Epoch(2, "a"), Epoch(2, "b")) is Relation.DIVERGED
    assert relation(Epoch(2, "a"), Epoch(2, "a")) is Relation.SAME
    assert relation(Epoch(2, "a"), Epoch(3, "b")) is Relation.NEWER
    assert relation(Epoch(2, "a"), Epoch(1, "b")) is Relation.OLDER


@pytest.mark.requirement("R4")
def test_two_volumes_have_no_fork_point() -> None:
    other = Epoch(1, "other")
    mine, theirs = (HistoryEntry(FIRST, 1),), (HistoryEntry(other, 1),)
    with pytest.raises(DivergedError, match="share no epoch"):
        fork_point(mine, Position(FIRST, 4, ""), theirs, Position(other, 4, ""))
