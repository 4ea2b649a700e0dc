"""The old primary returns: FIG. 28, 29 and what they leave open: rewind, in place, a list that is gone (R4-R6)."""

from __future__ import annotations

import msgspec
import pytest

from replkit.errors import InconsistentError
from replkit.recovery.plan import plan_return
from replkit.testing.sim.machines import SimSaveVolume
from replkit.testing.sim.model import read_all

from .ledger import different


def failed_over(story):
    """Both sites have written since they parted: A cut a set, and has a change that is in none."""
    story.in_step()
    story.part()
    story.write("a", 2, "aaa")
    story.cut("a")
    story.write("a", 20, "A")
    story.failover("b")
    story.write("b", 4, "bb")
    story.write("b", 30, "B")
    story.meet()


@pytest.mark.requirement("R4")
def test_fig_28_resync(tell):
    """FIG. 28: the old primary has the list of what it changed after the restart point (531). In the source that is
    undone with before-images (532), then what changed up to an intermediate snapshot is copied (533, 534), then
    playback begins (535). Here undo and differential are one set: the blocks that either side changed, each once.
    """
    story = tell()
    failed_over(story)
    story.show()
    story.command("a", "plan resync vol")
    plan = story.show_plan(plan_return(story.site("a").primary, story.world.peer(story.site("b").url)))
    fork, theirs = story.ledger.image(plan.fork), bytes(story.ledger.images["b"])
    story.resync("a", "b")
    story.say("533: until all of it is there, A is neither read nor promoted.")
    with story.refused(InconsistentError):
        story.site("a").secondary.promote()
    story.show("a")
    (transfer,) = story.until(lambda: story.equal("b", "a"))
    moved, differs = story.cost([transfer], story.lost["a"], theirs)
    story.show()
    assert transfer.order == sorted(moved), "in block order, each once"
    assert moved == {*different(fork, story.lost["a"]), *different(fork, theirs)} == differs
    assert (plan.undone_blocks, plan.send_blocks) == (len(different(fork, story.lost["a"])), len(moved))
    assert plan.send_bytes == transfer.data_blocks * 512 <= transfer.wire_bytes
    assert story.site("a").content == theirs
    assert story.salvages("a") == [story.lost["a"]]
    story.end()


@pytest.mark.requirement("R5")
def test_fig_28_full_copy(tell):
    """FIG. 28, 536 and 537: the save volume of the old primary is destroyed, so nobody knows what it had. B copies all
    that is in use from a first snapshot; what users write meanwhile must not fill the save volumes, so the many sets
    after it become one difference up to a second point. In the source and here an operator is told before.
    """
    story = tell(blocks=512)
    story.in_step("0" * 400)
    story.say("A's disk survives, its save volume does not: it starts empty-handed, as a secondary without a copy.")
    story.part()
    story.lose("a")
    restart = story.failover("b")
    a, b = story.site("a"), story.site("b")
    a.save = SimSaveVolume(a.power, sets_bytes=50 << 10)
    b.save.sets_bytes = 50 << 10
    a.start("secondary")
    b.primary.set_policy(congestion="pull-ahead", keep_sets=0)
    story.meet()
    story.show()
    story.say("536: the copy begins, and users write on; six times they write the same blocks, and others.")
    story.command("b", "replica add vol a sim:a")
    b.primary.add_member("a", a.url, "vol")
    for number in range(6):
        story.write("b", 100, "bcdefg"[number] * 20)
        story.write("b", 400 + 10 * number, "bcdefg"[number] * 10)
        story.try_cut("b")
        story.world.round()
    story.travelled()
    assert not a.secondary.root.is_at_boundary
    story.say("537: B gave old sets up for lack of room; one set spans them, as from a first to a second snapshot.")
    story.until(lambda: story.equal("b", "a"))
    story.show()
    back = story.tap.between("b", "a")
    copied = {block for each in back if each.what.startswith("new copy") for block in each.order}
    moved = [block for each in back if each.what.startswith("set") for block in each.order]
    written = different(story.ledger.image(restart), b.content)
    story.note(
        f"= {len(written)} blocks were written since the copy began, of {6 * 30} writes; sets carried {len(moved)}"
    )
    assert any("spans" in each.what for each in back)
    assert set(written) <= {*moved, *copied}
    assert len(written) <= len(moved) < 6 * 30, "most blocks that were written six times travelled once"
    assert a.content == b.content
    story.end()


@pytest.mark.requirement("R4")
def test_fig_29_state_during_resync(tell):
    """FIG. 29: while A gets what differs up to the intermediate snapshot, users write B. Their sets travel at the same
    time, and wait at A; they are played when A has all of the difference.
    """
    story = tell(blocks=512)
    story.in_step("0" * 400)
    story.part()
    story.write("a", 0, "a" * 200)
    story.failover("b")
    story.write("b", 150, "b" * 100)
    story.meet()
    story.resync("a", "b")
    waited = False
    for number in range(6):
        story.write("b", 500, "cdefgh"[number])
        story.cut("b")
        story.world.round()
        a = story.site("a").secondary
        if not waited and not a.root.is_at_boundary and any("set" in each.what for each in story.tap.transfers[1:]):
            waited = True
            story.travelled()
            story.say("Some sets are here and wait; A is still what cannot be read.")
            story.show()
    assert waited, "a set came while the difference was under way"
    story.until(lambda: story.equal("b", "a"))
    story.show()
    back = story.tap.between("b", "a")
    assert {*range(250)} <= {block for each in back for block in each.order} <= {*range(250), 500}
    assert story.site("a").content == story.site("b").content
    assert story.salvages("a") == [story.lost["a"]]
    story.end()


@pytest.mark.requirement("R4")
def test_rewind(tell):
    """Restore the old primary to the restart point by itself: the before-images of what it changed come from the
    snapshot at B; what was unused there becomes unused. From that boundary it follows.
    """
    story = tell()
    failed_over(story)
    fork = story.site("b").primary.root.restart
    story.resync("a", "b", rewind=True)
    seen = []

    def stands_at_fork():
        replica = story.site("a").secondary
        if not seen and replica.root.is_at_boundary and replica.player.position == fork:
            story.travelled()
            story.show("a")
            seen.append(story.site("a").content)
        return bool(seen)

    story.world.settle(stands_at_fork)
    assert seen == [story.ledger.image(fork)]
    (transfer,) = story.tap.between("b", "a")
    assert set(transfer.order) == set(different(story.ledger.image(fork), story.lost["a"]))
    story.say("Then come the sets after it.")
    story.until(lambda: story.equal("b", "a"))
    story.show()
    assert story.site("a").content == story.site("b").content
    assert story.salvages("a") == [story.lost["a"]]
    story.end()


@pytest.mark.requirement("R4", "R6")
def test_resync_larger_than_the_save_volume(tell):
    """The save volume of A has no room for what differs. It goes in place, block by block into the volume, which is
    marked for as long as that takes: a power failure in the middle leaves it marked, and the resync goes on.
    """
    story = tell(blocks=256)
    story.in_step("0" * 200)
    story.part()
    story.write("a", 0, "a" * 160)
    story.failover("b")
    story.write("b", 100, "b" * 100)
    story.meet()
    story.site("a").save.sets_bytes = 16 << 10
    story.resync("a", "b")
    a = story.site("a")
    story.until(lambda: getattr(a.secondary.root.resync, "in_place", False) and a.content != story.lost["a"])
    with story.refused(InconsistentError):
        a.secondary.promote()
    story.say("The power of A fails, and comes back.")
    a.crash()
    assert not a.secondary.root.is_at_boundary
    assert a.content not in {story.lost["a"], bytes(story.ledger.images["b"])}, "in the middle"
    story.show("a")
    story.until(lambda: story.equal("b", "a"))
    story.show()
    assert a.content == story.site("b").content
    assert story.salvages("a") == [story.lost["a"]]
    story.end()


@pytest.mark.requirement("R5")
def test_resync_with_the_list_gone(tell):
    """A's lists were trimmed beyond the fork: what it changed is not known. Both sides are compared by hashes, which
    an operator is told before, and only the ranges that differ travel; nothing is copied whole.
    """
    story = tell(blocks=1024)
    story.in_step("0" * 512)
    story.part()
    story.write("a", 100, "aaa")
    story.cut("a")
    story.failover("b")
    story.write("b", 450, "b")
    story.meet()
    root = story.site("a").primary.parts.root
    root.mutate(
        lambda now: msgspec.structs.replace(now, first_listed=now.last.number + 1, first_kept=now.last.number + 1)
    )
    story.command("a", "plan resync vol")
    plan = story.show_plan(plan_return(story.site("a").primary, story.world.peer(story.site("b").url)))
    assert (plan.way, plan.undone_blocks, plan.send_blocks) == ("comparison", None, None)
    story.resync("a", "b")
    transfers = story.until(lambda: story.equal("b", "a"))
    moved, differs = story.cost(transfers, story.lost["a"], story.site("b").content)
    asked = story.tap.calls["b", "hashes"]
    story.note(f"hashes were asked for {asked} times; calls carried {story.tap.call_bytes} bytes")
    story.show()
    assert differs <= moved
    assert len(moved) == 4, "ranges of 64 KiB that differ are compared block by block"
    assert story.tap.call_bytes < 1024 * 512 // 100
    assert story.site("a").content == story.site("b").content
    assert story.salvages("a") == [story.lost["a"]]
    story.end()


@pytest.mark.requirement("R4", "S5")
def test_resync_after_a_power_failure(tell):
    """A lost its power while users wrote. Which blocks its last writes hit is known by region only, so these regions
    are compared by hashes before anything travels; what was cut is known block by block.
    """
    story = tell(blocks=1024)
    story.in_step("0" * 512)
    story.rest()
    story.part()
    story.write("a", 100, "aaa")
    story.site("a").primary.volume.flush()
    story.say("The power of A fails before the next cut.")
    story.lose("a")
    story.failover("b")
    story.write("b", 450, "b")
    story.site("a").start()
    story.show()
    story.meet()
    story.resync("a", "b")
    transfers = story.until(lambda: story.equal("b", "a"))
    moved, differs = story.cost(transfers, story.lost["a"], story.site("b").content)
    story.show()
    assert differs == {100, 101, 102, 450} <= moved
    assert len(moved) <= 2 * 128
    assert read_all(story.site("a").secondary.view()) == story.site("b").content
    assert story.salvages("a") == [story.lost["a"]]
    story.end()


@pytest.mark.requirement("R6", "R9")
def test_second_failover_during_a_resync(tell):
    """A returns to B; B is lost in the middle of it, and C, which followed B, is promoted. A goes on to C, and what it
    had in the first place is still its salvage.
    """
    story = tell("abc")
    story.in_step()
    story.part()
    story.write("a", 2, "aaa")
    story.failover("b")
    story.write("b", 4, "bb")
    story.meet()
    story.resync("c", "b")
    story.until(lambda: story.equal("b", "c"))
    story.resync("a", "b")
    story.lose("b")
    story.say("B is lost before it has sent anything.")
    story.show()
    story.failover("c")
    story.write("c", 8, "c")
    story.resync("a", "c")
    transfers = story.until(lambda: story.equal("c", "a"))
    moved, differs = story.cost(transfers, story.lost["a"], story.site("c").content)
    story.show()
    assert differs <= moved == {2, 3, 4, 5, 8}
    assert story.site("a").content == story.site("c").content
    assert story.lost["a"] in story.salvages("a")
    story.end()
