"""Failover as the source's figures have it: FIG. 21-23, 31, 32; and ``failover --now`` (R1-R3)."""

from __future__ import annotations

import pytest

from replkit.errors import FencedError, LinkClosedError
from replkit.recovery.leftbehind import open_left_behind
from replkit.recovery.plan import plan_failover
from replkit.replication.branches import branch_tags
from replkit.snapshot.differential import differential
from replkit.testing.sim.model import read_all

from .ledger import different, picture
from .tap import runs


@pytest.mark.requirement("R1", "R4", "R7", "R9")
def test_fig_21_failover_and_recovery(tell):
    """FIG. 21: the whole way round. A is the primary (461) and is lost (462). B takes over at the newest set that it
    has (463). A is back (464), is brought to B's state by what differs (465), and gets its role back (466).
    """
    story = tell()
    story.in_step()
    story.write("a", 2, "aa")
    story.cut("a")
    story.until(lambda: story.equal("a", "b"))
    story.say("462: A is cut off and ends, with a set that it had cut and a write that it had not. B has neither.")
    story.part()
    story.write("a", 4, "xx")
    story.cut("a")
    story.write("a", 20, "y")
    story.site("a").stop()
    story.show()
    story.say("463: B goes on.")
    fork = story.failover("b")
    story.write("b", 5, "bb")
    story.show()
    story.say("464: A starts as what its root says, meets epoch 2, and takes no more writes.")
    story.site("a").start()
    story.meet()
    story.world.settle(lambda: story.site("a").primary.root.fenced is not None)
    with story.refused(FencedError):
        story.site("a").write(0, bytes(512))
    story.show()
    story.say("465: A returns. What only it had is salvage before the first block of it is overwritten.")
    story.resync("a", "b")
    transfers = story.until(lambda: story.equal("b", "a"))
    moved, differs = story.cost(transfers, story.lost["a"], bytes(story.ledger.images["b"]))
    assert differs <= moved == {4, 5, 6, 20}
    story.show()
    story.say("466: A gets its role back. Nothing is copied.")
    story.hand_over("b", "a")
    story.until_swapped("b", "a")
    story.write("a", 30, "A")
    story.until(lambda: story.equal("a", "b"))
    story.show()
    expected = bytearray(story.ledger.image(fork))  # invariant 9: the boundary at failover, and later writes
    for start, letters in ((5, "bb"), (30, "A")):
        expected[start * 512 : (start + len(letters)) * 512] = b"".join(letter.encode() * 512 for letter in letters)
    assert story.site("a").content == story.site("b").content == expected
    story.end()


@pytest.mark.requirement("R1")
def test_fig_22_state_during_failover(tell):
    """FIG. 22: the secondary is played to the restart point; a snapshot of it is made and held; the snapshot facility
    keeps a record of what is changed after it, so that the old primary can be brought back by that.
    """
    story = tell()
    story.in_step()
    story.hold_playback("b")
    for letters in ("aa", "bbb"):
        story.write("a", 2, letters)
        story.cut("a")
        story.received("b", story.site("a").primary.root.last)
    story.say("B has received two sets and played neither. A is lost.")
    story.lose("a")
    story.show()
    restart = story.failover("b")
    story.show()
    story.say("What users write now, the restart point does not show, and the record of changes has.")
    story.write("b", 3, "w")
    story.write("b", 40, "ww")
    story.discard("b", 9, 1)
    found = differential(story.snapped("b"), "restart.2")
    recorded = [block for extent in (*found.data, *found.discards) for block in range(extent.start, extent.stop)]
    story.note(f"changed since the restart point: {runs(recorded)}")
    story.show("b")
    then = story.ledger.image(restart)
    assert read_all(story.snapped("b").open_snapshot("restart.2")) == then
    assert sorted(recorded) == different(then, bytes(story.ledger.images["b"])) == [3, 9, 40, 41]
    story.end()


@pytest.mark.requirement("R1", "R9")
def test_fig_23_failover_with_a_checkpoint_and_without_sync(tell):
    """FIG. 23: the old primary becomes read-only if it can be reached (471); what was received is played (472); the
    restart point is made, stamped with the last set played (473); the volume can be written (474), and its changes
    are recorded (475). Here A is well: only users were moved to B, and the link for sets is slow.
    """
    story = tell()
    story.in_step()
    story.hold_playback("b")
    for number in range(3):
        story.write("a", number * 4, "abc"[number] * 2)
        story.cut("a")
    last = story.site("a").primary.root.last
    story.received("b", last)
    story.site("a").primary.pause("b")
    story.write("a", 30, "zz")
    story.say("A has changes that B has not; B has three sets to play.")
    story.show()
    restart = story.failover("b")
    assert restart == last
    story.show()
    story.say("471: A was told. Its users' writes are refused; they can still read.")
    with story.refused(FencedError):
        story.site("a").write(1, bytes(512))
    story.say("475")
    story.write("b", 8, "B")
    story.cut("b")
    story.show("b")
    (record,) = story.snapped("b").snapshots()
    assert (record.name, record.stamp, record.held) == ("restart.2", last, True)
    assert read_all(story.snapped("b").open_snapshot("restart.2")) == story.ledger.image(last)
    story.end()


@pytest.mark.requirement("R2", "R9")
def test_fig_31_a_failover_with_or_without_sync(tell):
    """FIG. 31: without sync the failover is carried out as FIG. 32 says (552). With sync it fails when the primary is
    not operational (553), else it is carried out as FIG. 33 says (554).
    """
    story = tell()
    story.in_step()
    story.write("a", 1, "a")
    story.say("553: A is down.")
    story.site("a").stop()
    before = story.site("b").secondary.root
    story.command("b", "failover vol --sync")
    with story.refused(LinkClosedError):
        story.world.peer(story.site("a").url).ask_handover("h1", "b")
    assert story.site("b").secondary.root == before, "a refusal changes nothing"
    story.show()
    story.say("554: A is up again, with what it had not sent.")
    story.site("a").start()
    story.command("b", "failover vol --sync")
    story.note(story.world.peer(story.site("a").url).ask_handover("h1", "b"))
    written = bytes(story.ledger.images["a"])
    story.until_swapped("a", "b")
    story.show()
    assert story.site("b").content == story.site("a").content == written, "nothing was lost"
    story.say("552: B is lost, and A does not ask it.")
    story.lose("b")
    story.failover("a")
    story.show()
    assert story.site("a").content == written
    story.end()


@pytest.mark.requirement("R1")
def test_fig_32_failover_without_sync(tell):
    """FIG. 32: the primary read-only if possible (561), what was received before the command is played (562), a
    snapshot of the secondary is made (563), it can be written (564). What was not received is lost, and the plan says
    how much.
    """
    story = tell()
    story.in_step()
    story.hold_playback("b")
    kept = []
    for letter in "ab":
        story.write("a", 10, letter * 3)
        kept.append(story.cut("a"))
    story.received("b", kept[-1])
    story.part()
    story.write("a", 20, "lost")
    story.cut("a")
    story.say("The link is cut: one set is at A alone.")
    story.show()
    story.command("b", "plan failover vol")
    story.meet()
    info = story.world.peer(story.site("a").url).info()
    plan = story.show_plan(plan_failover(story.site("b").secondary, "received", info))
    assert (plan.lost_sets, plan.play_sets, plan.position) == (1, 2, kept[-1])
    story.part()
    position = story.failover("b")
    story.show()
    assert position == kept[-1]
    assert story.site("b").content == story.ledger.image(kept[-1])
    assert [each.what for each in story.tap.between("a", "b")] == ["new copy of 1:1", "set 1:2", "set 1:3"]
    story.end()


@pytest.mark.requirement("R3")
def test_failover_now(tell):
    """Failover at once: what was received is not played. A pass that is under way is finished, so that the volume
    stands at a boundary; the sets beyond it stay readable, outside the history, until the role goes back.
    """
    story = tell()
    story.in_step()
    story.hold_playback("b")
    for letter in "ab":
        story.write("a", 4, letter * 3)
        story.cut("a")
    last = story.site("a").primary.root.last
    story.received("b", last)
    story.lose("a")
    story.show()
    before = story.site("b").secondary.player.position
    assert story.failover("b", "now") == before
    story.write("b", 12, "w")
    story.cut("b")
    story.show()
    assert story.site("b").content[4 * 512 : 7 * 512] == b"4" * 512 + b"5" * 512 + b"6" * 512
    (branch,) = story.site("b").primary.root.branches
    kept = {key.split("/")[1] for key in story.site("b").save.list("sets/")}
    assert len(branch_tags(branch)) == 2
    assert set(branch_tags(branch)) <= kept, "their data is still there"
    story.command("b", "export vol --left-behind")
    left = read_all(open_left_behind(story.site("b").primary))
    story.note(f"|{picture(left)}|")
    assert left == story.ledger.image(last), "as if it had been played"
    story.say("A is back, and beyond the fork it holds what B gave up: it is taken back like any old primary.")
    story.site("a").start()
    story.resync("a", "b")
    story.until(lambda: story.equal("b", "a"))
    story.show()
    assert story.site("a").content == story.site("b").content
    assert story.salvages("a") == [story.lost["a"]]
    story.hand_over("b", "a")
    story.until_swapped("b", "a")
    story.show()
    assert not story.site("b").secondary.root.branches, "the role went back: it is given up for good"
    story.end()
