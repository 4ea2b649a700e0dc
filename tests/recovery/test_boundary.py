"""Past boundaries of a secondary: opened while replication goes on, each equal to what the primary was then (X2)."""

from __future__ import annotations

import msgspec
import pytest

from replkit.errors import NotFoundError, ReadOnlyError
from replkit.recovery.boundary import Boundaries, Boundary, Standing, standing_of
from replkit.recovery.holds import Holds
from replkit.recovery.retention import PREFIX, Retention
from replkit.replication.cells import Base, Playing, Root
from replkit.replication.policy import change_policy
from replkit.testing.sim.machines import BLOCK_SIZE
from replkit.testing.sim.model import read_all
from replkit.testing.sim.world import World


class Past:
    """A world with one secondary, what its primary held at each boundary, and the means to open them."""

    def __init__(self, seed: int = 1, **policy: object) -> None:
        self.world = World(seed)
        self.world.write(0, b"\1" * BLOCK_SIZE * 8)
        self.world.add_members()
        self.world.settle()
        self.replica = self.world.secondaries[0].replica
        self.save = self.world.secondaries[0].save
        self.images: dict[int, bytes] = {}
        self.boundaries = Boundaries(
            self.save, self.root, self.replica.volume.open_snapshot, self.replica.volume.delete_snapshot,
            self.replica.player.make_snapshot, self.world.runtime, self.replica.volume.block_count,
        )  # fmt: skip
        self.retention = Retention(
            self.save, self.root, lambda name: self.replica.player.make_snapshot(name, held=False),
            self.replica.volume.delete_snapshot, self.boundaries, self.world.runtime,
        )  # fmt: skip
        self.replica.floors.append(self.boundaries.floor)
        self.replica.kept_floors.append(self.retention.floor)
        if policy:
            change_policy(self.save, **policy)

    def root(self) -> Root:
        return self.replica.root

    def write_and_cut(self, block: int, letter: str) -> int:
        self.world.write(block, letter.encode() * BLOCK_SIZE)
        number = self.world.primary.replica.cut().number
        self.images[number] = bytes(self.world.model.image)
        return number

    def open(self, number: int) -> Boundary:
        boundary = None
        while boundary is None:
            boundary = self.boundaries.open(number)
            self.world.round()
        return boundary


@pytest.mark.requirement("X2", "C3", "P6")
def test_a_past_boundary_is_what_the_primary_was_then_and_stays_while_playback_goes_on() -> None:
    past = Past()
    past.replica.player.create_snapshot("monday")
    numbers = [past.write_and_cut(block, letter) for block, letter in ((0, "a"), (3, "b"), (0, "c"))]
    opened = None

    def received() -> bool:
        return past.root().last.number == numbers[-1]

    past.replica.floors.append(lambda: numbers[0] - 1)  # a policy keeps the sets
    past.world.settle(received)
    past.world.settle()
    opened = past.open(numbers[1])
    assert opened.position.number == numbers[1]
    past.write_and_cut(3, "z")
    past.world.settle()
    assert read_all(opened) == past.images[numbers[1]]
    assert read_all(past.open(numbers[0])) == past.images[numbers[0]]
    assert {start for start, count in opened.in_use()} == {0}
    with pytest.raises(ReadOnlyError):
        opened.write(0, bytes(BLOCK_SIZE))
    opened.close()


@pytest.mark.requirement("X2")
def test_the_newest_boundary_opens_without_a_snapshot_made_before_and_leaves_none_behind() -> None:
    past = Past()
    number = past.write_and_cut(5, "n")
    past.world.settle()
    opened = past.open(number)
    past.write_and_cut(5, "m")
    past.world.settle()
    assert read_all(opened) == past.images[number]
    opened.close()
    assert past.root().snapshots == ()


@pytest.mark.requirement("X2")
def test_what_an_open_boundary_names_is_not_trimmed_and_is_after_it_was_closed() -> None:
    past = Past()
    past.replica.player.create_snapshot("base")
    held = past.root().last.number
    kept: list[int | None] = [held]
    past.replica.floors.append(lambda: kept[0])
    numbers = [past.write_and_cut(block, "x") for block in range(4)]
    past.world.settle()
    opened = past.open(numbers[1])
    kept[0] = None
    past.world.settle()
    for _ in range(20):
        past.world.round()
    assert past.root().first_kept == held + 1
    assert read_all(opened) == past.images[numbers[1]]
    opened.close()
    past.world.settle(lambda: past.root().first_kept > numbers[-1])
    with pytest.raises(NotFoundError, match="not kept"):
        past.boundaries.open(numbers[1])


@pytest.mark.requirement("X2")
def test_retention_keeps_every_boundary_for_a_time_then_one_each_so_often_then_none() -> None:
    past = Past(keep_all_s=100.0, keep_each_s=50.0, keep_for_s=400.0)
    for number in range(60):
        past.write_and_cut(number % 32, chr(97 + number % 26))
        past.world.settle()
        past.retention.step()
        past.world.runtime.advance(10.0)
    while past.retention.step() == 0.0:
        pass
    past.world.settle()
    now_s = past.world.runtime.now()
    moments = [moment for moment in past.boundaries.moments() if moment.position.number in past.images]
    recent = {number for number in past.images if number > past.root().last.number - 9}
    assert recent <= {moment.position.number for moment in moments}
    old = [moment for moment in moments if moment.created_s < now_s - 170]
    assert all(moment.is_snapshot for moment in old)
    assert len(old) >= 3
    assert all(moment.created_s > now_s - 480 for moment in moments)
    for moment in moments:
        boundary = past.open(moment.position.number)
        assert read_all(boundary) == past.images[moment.position.number], moment
        boundary.close()
    at = past.boundaries.at_time(moments[1].created_s + 0.001)
    assert at == moments[1].position


@pytest.mark.requirement("X2")
def test_a_policy_that_keeps_nothing_gives_everything_back() -> None:
    past = Past(keep_all_s=100.0, keep_each_s=1.0)
    for number in range(5):
        past.write_and_cut(number, "k")
        past.world.settle()
        past.retention.step()
        past.world.runtime.advance(5.0)
    assert any(record.name.startswith(PREFIX) for record in past.root().snapshots)
    change_policy(past.save, keep_all_s=0.0)
    while past.retention.step() == 0.0:
        pass
    past.world.settle(lambda: past.root().first_kept > past.root().last.number)
    assert past.root().snapshots == ()


@pytest.mark.requirement("X2")
def test_a_boundary_that_never_was_or_is_not_here_yet_is_refused() -> None:
    past = Past()
    with pytest.raises(NotFoundError, match="not here yet"):
        past.boundaries.open(99)
    with pytest.raises(NotFoundError, match="of epoch 1, not 7"):
        past.boundaries.open(past.root().last.number, epoch=7)
    with pytest.raises(NotFoundError, match="as old as that"):
        past.boundaries.at_time(0.0)
    past.world.settle()
    assert past.root().snapshots == ()


def holds_of(past: Past) -> Holds:
    volume = past.replica.volume
    holds = Holds(
        past.save, past.root, past.boundaries, lambda name, held: volume.hold_snapshot(name, held=held),
        lambda name: past.replica.player.make_snapshot(name, held=False), past.world.runtime,
    )  # fmt: skip
    past.replica.floors.append(holds.floor)
    return holds


@pytest.mark.requirement("X2")
def test_a_hold_of_the_newest_boundary_costs_a_snapshot_and_keeps_no_set_back() -> None:
    past = Past(keep_all_s=30.0, keep_each_s=1e6)
    holds = holds_of(past)
    past.retention.step()
    for number in range(3):
        past.write_and_cut(number, "h")
    past.world.settle()
    held = past.root().last.number
    assert holds.hold(held)
    for number in range(20):
        past.write_and_cut(number % 32, "n")
        past.world.settle()
        past.retention.step()
        past.world.runtime.advance(10.0)
    assert holds.floor() is None
    boundary = past.open(held)
    assert read_all(boundary) == past.images[held]
    boundary.close()


@pytest.mark.requirement("X2")
def test_a_hold_of_a_boundary_between_snapshots_keeps_it_until_it_is_released() -> None:
    past = Past(keep_all_s=30.0, keep_each_s=10.0)
    holds = holds_of(past)
    past.retention.step()
    numbers = [past.write_and_cut(number, "h") for number in range(3)]
    past.world.settle()
    assert holds.hold(numbers[0])
    for number in range(20):
        past.write_and_cut(number % 32, "n")
        past.world.settle()
        past.retention.step()
        past.world.runtime.advance(10.0)
    boundary = past.open(numbers[0])
    assert read_all(boundary) == past.images[numbers[0]]
    boundary.close()
    holds.release(numbers[0])
    while past.retention.step() == 0.0:
        pass
    past.world.settle(lambda: past.root().first_kept > numbers[0] + 1)
    with pytest.raises(NotFoundError, match="not kept"):
        past.boundaries.open(numbers[0])


@pytest.mark.requirement("X2", "R6")
def test_where_a_volume_stands_that_has_no_services_is_told_by_its_cells() -> None:
    """Invariant 6, as ``adopt`` reads a bucket whose site is gone, in the middle of anything."""
    past = Past()
    last = past.root().last
    position = msgspec.structs.replace(last, number=last.number - 1)
    base = Base(copy_id="c", position=position)

    def stands(base: Base, **playing: object) -> Standing | None:
        known = Playing(**{"copy_id": "c", "position": last, **playing}) if playing else None  # type: ignore[arg-type]
        return standing_of(msgspec.structs.replace(past.root(), base=base), known)

    assert stands(base) == (position, position.number), "nothing was played yet"
    assert stands(base, target=None) == (last, last.number)
    assert stands(base, target=last.number + 3) == (last, last.number + 3), "in a pass of playback"
    assert stands(base, copy_id="an older copy") == (position, position.number)
    differing = msgspec.structs.replace(base, difference="d", until=last.number + 5)
    assert stands(differing) == (position, last.number + 5), "a difference is here, and not played"
    assert stands(differing, target=None) == (last, last.number + 5)
    assert stands(differing, target=last.number + 7) == (last, last.number + 7)
    assert stands(msgspec.structs.replace(base, until=last.number), target=None) == (last, last.number), "played since"
    in_copy = msgspec.structs.replace(past.root(), base=None)
    assert standing_of(in_copy, None) is None
