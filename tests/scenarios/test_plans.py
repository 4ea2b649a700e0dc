"""A plan says what a command will do; the command refuses where that holds no more (invariant 10)."""

from __future__ import annotations

import pytest

from replkit.errors import PlanStaleError
from replkit.recovery.plan import check, plan_failover, plan_return


@pytest.mark.requirement("R1", "R4", "R9")
def test_plan(tell):
    """A plan is made and its command given later. What has only gone on since, new sets and cursors, does no harm to
    it; where more would be lost or undone than was said, or roles, epochs, fork or holds are others, it is refused.
    """
    story = tell()
    story.in_step()
    story.site("a").primary.pause("b")
    info = lambda: story.world.peer(story.site("a").url).info()  # noqa: E731
    story.write("a", 2, "a")
    story.cut("a")
    story.command("b", "plan failover vol")
    plan = story.show_plan(plan_failover(story.site("b").secondary, "received", info()))
    assert plan.lost_sets == 1
    for letter in "bc":
        story.write("a", 2, letter)
        story.cut("a")
    story.command("b", "failover vol --plan ID")
    with story.refused(PlanStaleError):
        check(plan, plan_failover(story.site("b").secondary, "received", info()))
    story.command("b", "plan failover vol")
    plan = story.show_plan(plan_failover(story.site("b").secondary, "received", info()))
    assert plan.lost_sets == 3
    check(plan, plan_failover(story.site("b").secondary, "received", info()))
    fork = story.failover("b")
    lost = story.site("a").primary.root.last.number - fork.number
    assert lost == plan.lost_sets, "what was said is what was lost"

    story.write("b", 8, "B")
    story.command("a", "plan resync vol")
    peer = story.world.peer(story.site("b").url)
    plan = story.show_plan(plan_return(story.site("a").primary, peer))
    story.write("b", 9, "B")
    story.cut("b")
    story.say("B has gone on: the plan holds.")
    check(plan, plan_return(story.site("a").primary, peer))
    story.say("Somebody makes a snapshot at A and holds it: what the plan rests on is another.")
    story.snapped("a").create_snapshot("mine", held=True)
    story.command("a", "resync vol --plan ID")
    with story.refused(PlanStaleError):
        check(plan, plan_return(story.site("a").primary, peer))
    story.command("a", "plan resync vol")
    plan = story.show_plan(plan_return(story.site("a").primary, peer))
    story.resync("a", "b")
    (transfer,) = story.until(lambda: story.equal("b", "a"))
    assert (plan.send_blocks, plan.send_bytes) == (len(transfer.order), transfer.data_blocks * 512)
    story.show()
    story.end()
