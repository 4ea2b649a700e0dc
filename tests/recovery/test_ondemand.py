"""Update on demand: a member that stays where it is, and asks (C5, FIG. 36-38); copies between snapshots (P7)."""

from __future__ import annotations

import msgspec
import pytest

from replkit.errors import InvalidArgumentError, NotFoundError, RefusedError, WrongRoleError
from replkit.recovery.ondemand import answer_pull, copy_between
from replkit.replication.cells import Root
from replkit.testing.sim.machines import BLOCK_SIZE
from replkit.testing.sim.model import read_all
from replkit.testing.sim.world import World


class Demand:
    """A world whose one member asks for versions; ``images`` is what the primary held at each."""

    def __init__(self) -> None:
        self.world = World(5)
        self.world.write(0, b"\1" * BLOCK_SIZE * 8)
        self.secondary = self.world.secondaries[0]
        self.primary = self.world.primary.replica
        self.primary.add_member("m0", self.secondary.url, "vol", on_demand=True)
        self.run()
        self.images: dict[int, bytes] = {}
        self.sent_bytes = 0

    def run(self, rounds: int = 60) -> None:
        for _ in range(rounds):
            self.world.round()
            self.world.runtime.advance(0.1)

    def write_and_cut(self, block: int, letter: str, snapshot: str | None = None) -> int:
        self.world.write(block, letter.encode() * BLOCK_SIZE)
        number = self.primary.cut(snapshot).number
        self.images[number] = bytes(self.world.model.image)
        self.run(20)
        return number

    @property
    def root(self) -> Root:
        return self.secondary.replica.root

    def pull(self, want: int | None = None, *, allow_copy: bool = False) -> str:
        raw = {"member": "m0", "have": msgspec.to_builtins(self.root.last), "want": want, "allow_copy": allow_copy}
        how = answer_pull(self.primary, raw).how
        self.run()
        return how

    def trim(self) -> None:
        """The primary forgets the sets, not the lists."""
        while self.primary.trimmer.step() == 0.0:
            pass

    def stands_at(self, number: int) -> bool:
        return self.root.last.number == number and read_all(self.secondary.replica.view()) == self.images[number]


@pytest.mark.requirement("C5")
def test_a_member_on_demand_stays_where_it_is_and_holds_nothing() -> None:
    demand = Demand()
    before = demand.root.last.number
    numbers = [demand.write_and_cut(block, "a") for block in range(3)]
    demand.run()
    assert demand.root.last.number == before
    demand.trim()
    assert demand.primary.root.first_kept == numbers[-1] + 1


@pytest.mark.requirement("C5")
def test_figure_36_it_has_the_newest_version_and_gets_nothing() -> None:
    demand = Demand()
    assert demand.pull() == "nothing"
    assert demand.pull(want=demand.root.last.number) == "nothing"


@pytest.mark.requirement("C5")
def test_figure_37_it_gets_the_sets_or_what_differs_up_to_the_newest_version() -> None:
    demand = Demand()
    demand.primary.set_policy(keep_sets=10)
    first, second = demand.write_and_cut(1, "b"), demand.write_and_cut(2, "c")
    assert demand.pull(want=first) == "sets"
    assert demand.stands_at(first)
    assert demand.pull() == "sets"
    assert demand.stands_at(second)
    demand.primary.set_policy(keep_sets=0)
    demand.write_and_cut(3, "d")
    newest = demand.write_and_cut(4, "e")
    demand.trim()
    assert demand.pull() == "difference"
    demand.run()
    assert demand.root.last.number >= newest
    assert read_all(demand.secondary.replica.view()) == demand.images[newest]
    later = demand.root.last.number
    demand.write_and_cut(5, "f")
    demand.run()
    assert demand.root.last.number == later, "and stays there"


@pytest.mark.requirement("C5", "P7")
def test_figure_38_it_gets_a_version_that_it_names_and_a_full_copy_only_where_that_is_allowed() -> None:
    demand = Demand()
    named = demand.write_and_cut(1, "b", "named")
    newest = demand.write_and_cut(2, "c")
    demand.trim()
    with pytest.raises(NotFoundError, match="no position"):
        demand.pull(want=newest + 5)
    assert demand.pull(want=named) == "difference"
    assert demand.stands_at(named)
    gone = demand.write_and_cut(3, "d")
    last = demand.write_and_cut(4, "e")
    demand.trim()
    with pytest.raises(RefusedError, match="not kept") as refused:
        demand.pull(want=gone)
    assert refused.value.code == "not-kept"
    demand.primary.parts.root.mutate(lambda root: msgspec.structs.replace(root, first_listed=last + 1))
    with pytest.raises(RefusedError, match="only a full copy") as refused:
        demand.pull()
    assert refused.value.code == "too-old"
    assert demand.stands_at(named)
    assert demand.pull(allow_copy=True) == "copy"
    demand.run(200)
    assert read_all(demand.secondary.replica.view()) == demand.images[last]


@pytest.mark.requirement("P7", "P5")
def test_a_member_that_equals_a_snapshot_is_brought_to_another_one_by_what_differs() -> None:
    demand = Demand()
    older = demand.write_and_cut(1, "b", "older")
    demand.pull(want=older)
    demand.write_and_cut(2, "c")
    demand.primary.volume.discard(5, 1)
    demand.world.model.write(5, bytes(BLOCK_SIZE))
    newer = demand.write_and_cut(3, "d", "newer")
    demand.write_and_cut(4, "e")
    with pytest.raises(InvalidArgumentError, match="L >= M"):
        copy_between(demand.primary, "m0", "newer", "older")
    with pytest.raises(InvalidArgumentError, match="L >= M"):
        copy_between(demand.primary, "m0", "newer", "newer")
    found = copy_between(demand.primary, "m0", "older", "newer")
    assert (found["data_blocks"], found["discard_blocks"], found["number"]) == (2, 1, newer)
    demand.run(100)
    assert demand.stands_at(newer)
    with pytest.raises(WrongRoleError, match="stands at"):
        copy_between(demand.primary, "m0", "older", "newer")
    assert not [key for key in demand.primary.parts.save.list("lists/") if "copy-" in key], "its list is gone"


@pytest.mark.requirement("C5")
def test_what_never_was_here_and_a_member_that_follows_are_refused() -> None:
    demand = Demand()
    raw = {"member": "m0", "have": msgspec.to_builtins(demand.root.last)}
    raw["have"] = [*raw["have"][:2], "f" * 32]
    with pytest.raises(RefusedError) as refused:
        answer_pull(demand.primary, raw)
    assert refused.value.code == "diverged"
    with pytest.raises(NotFoundError, match="no secondary"):
        answer_pull(demand.primary, {**raw, "member": "m9"})
    with pytest.raises(InvalidArgumentError, match="pull:"):
        answer_pull(demand.primary, {"member": 7})
    demand.primary.add_member("m1", "sim:m1", "vol")
    with pytest.raises(WrongRoleError, match="follows by itself"):
        answer_pull(demand.primary, {**raw, "member": "m1"})
