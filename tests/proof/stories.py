"""The table of stories: what comes before, without a fault, and what must survive one at any of its calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from .restores import PastStory, RepairStory, SnapshotStory
from .story import Story, Variant


class Scenario(NamedTuple):
    """A story: ``make`` and ``before`` prepare it, faults come in ``acts``; ``primary`` has the role in the end."""

    name: str
    primary: str
    make: Callable[[Variant], Any]
    before: Callable[[Any], None]
    acts: Callable[[Any], None]


def pair(variant: Variant) -> Story:
    """Two sites."""
    return Story("ab", variant)


def three(variant: Variant) -> Story:
    """Three sites."""
    return Story("abc", variant)


def nothing(_story: Story) -> None:
    """The story begins with empty sites."""


def in_step(story: Story) -> None:
    """All have what A wrote."""
    story.write("a", 0, 16)
    story.write("a", 24, 4)
    story.add("a", *(name for name in story.world.fault_sites if name != "a"))


def cut_off(story: Story) -> None:
    """A is alone, and writes on: some in a set, some not, some where nothing was."""
    in_step(story)
    story.cut_off("a")
    story.write("a", 2, 5, lost=True)
    story.cut("a")
    story.write("a", 12, 2, lost=True)
    story.write("a", 32, 2, lost=True)


def parted(story: Story) -> None:
    """B was promoted meanwhile, and wrote too; the link is there again."""
    cut_off(story)
    story.fail_over("b")
    story.write("b", 4, 6)
    story.cut("b")
    story.write("b", 26, 3)
    story.discard("b", 14, 2)
    story.mend()


def returned(story: Story) -> None:
    """A is back."""
    parted(story)
    story.resync("a", "b")


# -- what is done under faults --


def new_copy(story: Story) -> None:
    story.may_copy = True
    story.write("a", 0, 16)
    story.add("a", "b")
    story.write("a", 30, 3)
    story.in_step("a", "b")


def failover(story: Story) -> None:
    story.fail_over("b")
    story.write("b", 4, 6)
    story.cut("b")


def received_not_played(story: Story) -> None:
    """B has a set that it has not played."""
    in_step(story)
    story.hold_playback("b")
    story.write("a", 6, 4)
    story.until(lambda: story.site("b").secondary.root.last == story.site("a").primary.root.last
                and not story.site("a").primary.volume.dirty_blocks, lambda: story.act("cut", "a"))  # fmt: skip
    story.cut_off("a")
    story.write("a", 2, 2, lost=True)


def failover_now(story: Story) -> None:
    """Before the set is played, or after it: either boundary will do, and no mixture (the checker knows both)."""
    story.fail_over("b", now=True)
    story.image[:] = story.checker.users["b"].image
    story.write("b", 20, 3)
    story.cut("b")


def switchover(story: Story) -> None:
    story.write("a", 8, 3)
    story.hand_over("a", "b")
    story.write("b", 9, 4)


def resync(story: Story) -> None:
    story.resync("a", "b")
    story.write("b", 11, 2)
    story.in_step("b", "a")


def small_and_parted(story: Story) -> None:
    """As ``parted``, but the save volume of A has room for a set of the whole volume, not for more."""
    parted(story)
    story.site("a").store.capacities["sets"] = len(story.image) * 9 // 8
    story.write("b", 0, 40)
    story.cut("b")


def forgotten_and_parted(story: Story) -> None:
    """As ``parted``, but the lists of A's sets are gone."""
    parted(story)
    story.site("a").primary.parts.root.mutate(
        lambda now: msgspec.structs.replace(now, first_listed=now.last.number + 1, first_kept=now.last.number + 1)
    )


def rewind(story: Story) -> None:
    story.resync("a", "b", rewind=True)


def failback(story: Story) -> None:
    story.write("b", 7, 2)
    story.hand_over("b", "a")
    story.write("a", 1, 2)
    story.in_step("a", "b")


def reverse(story: Story) -> None:
    story.write("a", 8, 3)
    story.hand_over("a", "b")
    story.write("b", 9, 4)
    story.hand_over("b", "a")
    story.write("a", 30, 2)


def parted_with_c(story: Story) -> None:
    """B was promoted, C follows it, A wrote alone."""
    parted(story)
    story.resync("c", "b")


def second_failover(story: Story) -> None:
    """B goes while A returns to it; C is promoted, and both return."""
    story.resync("a", "b", wait=False)
    for _ in range(2):
        story.round()
    story.in_step("b", "c")
    story.cut_off("b")
    story.fail_over("c")
    story.write("c", 35, 3)
    story.cut("c")
    story.resync("a", "c")
    story.mend()
    story.resync("b", "c")


def beyond_at_c(story: Story) -> None:
    """C has a set of A that B never got; B was promoted."""
    in_step(story)
    story.cut_off("b")
    story.write("a", 2, 5, lost=True)
    story.in_step("a", "c")
    story.beyond["c"] = dict(story.beyond["a"])
    story.write("a", 12, 2, lost=True)
    story.fail_over("b")
    story.write("b", 4, 6)
    story.mend()


def three_sites(story: Story) -> None:
    story.resync("c", "b")
    story.resync("a", "b")
    story.write("b", 11, 2)
    story.in_step("b", "a", "c")


def writing(story: Story) -> None:
    """Users of A, cuts, a snapshot; B follows when it can."""
    story.write("a", 3, 6)
    story.cut("a")
    story.act("snapshot", "a", a=1)
    story.write("a", 5, 7)
    story.discard("a", 16, 4)
    story.round()
    story.write("a", 10, 12, by="cut")
    story.act("delete-snapshot", "a", a=1)
    story.write("a", 0, 3)
    story.in_step("a", "b")


def three_to_play(story: Story) -> None:
    """B has three sets that it has not played."""
    in_step(story)
    story.hold_playback("b")
    for start in (2, 6, 20):
        story.write("a", start, 8)
        story.cut("a")
    story.discard("a", 12, 3)
    story.cut("a")
    story.until(lambda: story.site("b").secondary.root.last == story.site("a").primary.root.last)


def playing(story: Story) -> None:
    """B plays them."""
    story.let_play("b")
    story.in_step("a", "b")


SCENARIOS: tuple[Scenario, ...] = (
    Scenario("new copy", "a", pair, nothing, new_copy),
    Scenario("failover", "b", pair, cut_off, failover),
    Scenario("failover now", "b", pair, received_not_played, failover_now),
    Scenario("switchover", "b", pair, in_step, switchover),
    Scenario("resync", "b", pair, parted, resync),
    Scenario("resync in place", "b", pair, small_and_parted, resync),
    Scenario("resync without lists", "b", pair, forgotten_and_parted, resync),
    Scenario("rewind", "b", pair, parted, rewind),
    Scenario("failback", "a", pair, returned, failback),
    Scenario("reverse", "a", pair, in_step, reverse),
    Scenario("second failover", "c", three, parted_with_c, second_failover),
    Scenario("three sites", "b", three, beyond_at_c, three_sites),
    Scenario("restore a past boundary", "a", PastStory, PastStory.prepare, PastStory.act_out),
    Scenario("restore a snapshot", "a", SnapshotStory, SnapshotStory.prepare, SnapshotStory.act_out),
    Scenario("verify and repair", "a", RepairStory, RepairStory.prepare, RepairStory.act_out),
    Scenario("writes and cuts", "a", pair, in_step, writing),
    Scenario("playback", "a", pair, three_to_play, playing),
)


def in_bucket(variant: Variant) -> Story:
    """Two sites, of which B is in a bucket."""
    return Story("ab", variant, buckets="b")


IN_BUCKETS: tuple[Scenario, ...] = tuple(
    scenario._replace(name=f"{scenario.name}, B in a bucket", make=in_bucket)
    for scenario in SCENARIOS
    if scenario.name in {"failover", "switchover", "resync", "rewind", "failback", "writes and cuts", "playback"}
)
"""The same with one side in an object store."""
ALL = (*SCENARIOS, *IN_BUCKETS)
