"""A role goes over without loss and without a copy: FIG. 30 (failback), 33 (failover with sync), reverse (R2, R7)."""

from __future__ import annotations

import pytest

from replkit.recovery.plan import plan_switchover


def is_copy(transfer):
    return "copy" in transfer.what or transfer.what.startswith("from ")


@pytest.mark.requirement("R7")
def test_fig_30_failback(tell):
    """FIG. 30: A is made almost identical to B (541); B becomes read-only and the last set is sent (542); replication
    goes on from A to B (543), and A can be written (544). Here the link breaks in the middle; the command is given
    again, and does no harm.
    """
    story = tell()
    story.in_step()
    story.failover("b")
    story.write("b", 2, "bb")
    story.resync("a", "b")
    story.until(lambda: story.equal("b", "a"))
    story.write("b", 6, "BB")
    story.show()
    story.command("b", "plan failback vol")
    plan = story.show_plan(plan_switchover(story.site("b").primary, "a"))
    assert (plan.lost_sets, plan.send_blocks) == (0, 2)
    story.hand_over("b", "a")
    b = story.site("b")
    story.world.settle(lambda: bool(b.primary.volume.stats()["writes_suspended"]))
    story.part()
    story.say("542: B's writers wait. The link breaks, so they go on, and the role stays where it is.")
    story.world.settle(lambda: not b.primary.volume.stats()["writes_suspended"])
    story.write("b", 8, "w")
    story.travelled()
    story.show()
    story.say("The link is back, and the command is given again.")
    story.meet()
    story.hand_over("b", "a")
    written = bytes(story.ledger.images["b"])
    story.until_swapped("b", "a")
    story.show()
    story.say("543, 544")
    story.write("a", 12, "A")
    story.until(lambda: story.equal("a", "b"))
    story.show()
    assert story.ledger.image(story.site("a").primary.root.restart) == written, "no write was lost"
    assert not [each for each in story.tap.between("a", "b")[1:] if is_copy(each)], "no copy"
    assert story.site("a").content == b.content
    story.end()


@pytest.mark.requirement("R2")
def test_fig_33_failover_with_sync(tell):
    """FIG. 33: B is made almost identical to A (571); A becomes read-only, and its last set is sent and played (572);
    the restart point is made at B (573), and B can be written (574). A is a secondary then.
    """
    story = tell()
    story.in_step()
    story.site("a").primary.pause("b")
    for number in range(3):
        story.write("a", 4 * number, "xyz"[number] * 3)
        story.cut("a")
    story.write("a", 30, "l")
    story.say("B is three sets behind, and one write is in no set yet.")
    story.show()
    story.site("a").primary.resume("b")
    story.command("b", "failover vol --sync")
    story.world.settle(lambda: story.site("a").sender("b").status()["state"] == "following")
    story.note("a is a " + story.world.peer(story.site("a").url).ask_handover("h1", "b"))
    written = bytes(story.ledger.images["a"])
    story.until_swapped("a", "b")
    story.show()
    restart = story.site("b").primary.root.restart
    (record,) = story.snapped("b").snapshots()
    assert (record.name, record.stamp) == ("restart.2", restart)
    assert story.ledger.image(restart) == written
    story.say("A follows without a copy: it gets what B's users write.")
    story.write("b", 31, "n")
    transfers = story.until(lambda: story.equal("b", "a"))
    assert [each.order for each in transfers] == [[31]]
    assert story.site("a").content == story.site("b").content
    story.show()
    story.end()


@pytest.mark.requirement("R7")
def test_reverse(tell):
    """The direction is swapped with no disaster at all, twice. Each time only the last set travels; a third site goes
    over to the new primary without a copy.
    """
    story = tell("abc")
    story.in_step()
    for source, target, letter in (("a", "b", "x"), ("b", "a", "y")):
        story.write(source, 3, letter)
        story.hand_over(source, target, f"reverse vol --to {target}")
        story.until_swapped(source, target)
        story.until(lambda target=target: story.equal(target, "c"))
        story.show()
    images = {story.site(name).content for name in "abc"}
    assert images == {bytes(story.ledger.images["a"])}
    after = [each for each in story.tap.transfers if not each.what.startswith("new copy")]
    assert {block for each in after for block in each.order} == {3}
    assert not [each for each in after if is_copy(each)]
    story.end()
