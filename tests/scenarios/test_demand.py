"""Update on demand: FIG. 36, 37 and 38. B serves local clients and asks A for a version when somebody needs it (C5)."""

from __future__ import annotations

import msgspec
import pytest

from replkit.errors import NotFoundError, RefusedError
from replkit.recovery.ondemand import answer_pull
from replkit.replication.cells import Root
from replkit.testing.sim.model import read_all

from .story import Story


class Demand:
    """A volume at A, and B, which gets versions when it asks."""

    def __init__(self, story: Story) -> None:
        self.story, self.a = story, story.site("a").primary
        story.write("a", 0, "0123456789")
        self.a.add_member("b", story.site("b").url, "vol", on_demand=True)
        self.settle(lambda: self.a.root.members[0].state == "following")

    @property
    def have(self) -> Root:
        return self.story.site("b").secondary.root

    def settle(self, done) -> None:
        self.story.until(lambda: done() and self.have.is_at_boundary)
        self.story.rest(5)

    def version(self, start: int, letters: str, snapshot: str | None = None) -> int:
        """A new version at A; B is not told."""
        self.story.write("a", start, letters)
        return self.story.cut("a", snapshot).number

    def trim(self) -> None:
        """A keeps the data of no set; what it has are lists and snapshots."""
        self.a.set_policy(keep_sets=0)
        while self.a.trimmer.step() == 0.0:
            pass

    def pull(self, want: int | None = None, *, allow_copy: bool = False) -> str:
        """B asks, and waits until it stands there."""
        at = "" if want is None else f" --at {want}"
        self.story.command("b", f"pull vol{at}" + (" --allow-full-copy" if allow_copy else ""))
        have = msgspec.to_builtins(self.have.last)
        raw = {"member": "b", "have": have, "want": want, "allow_copy": allow_copy}
        answer = answer_pull(self.a, raw)
        self.story.note(f"A answers: {answer.how}")
        self.settle(lambda: self.have.last.number >= answer.number)
        return answer.how

    def is_at(self, number: int) -> bool:
        """B shows exactly that version."""
        secondary = self.story.site("b").secondary
        image = self.story.ledger.image(secondary.root.last)
        return secondary.root.last.number == number and read_all(secondary.view()) == image


@pytest.mark.requirement("C5")
def test_fig_36_versions_as_needed(tell):
    """FIG. 36: a network file server, A, makes versions; a local one, B, serves local clients and stays at its version
    until one is needed. It asks for the version that it wants: the newest, or a named one.
    """
    story = tell()
    demand = Demand(story)
    before = demand.have.last.number
    first, second, third = (demand.version(2 + number, "abc"[number]) for number in range(3))
    story.rest()
    story.say("Nothing comes by itself, and nothing is kept for B.")
    story.show("b")
    assert demand.is_at(before)
    story.say("A client needs the second version.")
    assert demand.pull(second) == "sets"
    story.show("b")
    assert demand.is_at(second)
    story.say("Another one the newest.")
    demand.pull()
    story.show("b")
    assert demand.is_at(third)
    assert first < second < third
    assert [each.what for each in story.tap.between("a", "b")[1:]] == [f"set 1:{n}" for n in (first, second, third)]
    story.end()


@pytest.mark.requirement("C5")
def test_fig_37_no_newer_version(tell):
    """FIG. 37: B has version Q and asks (641-643); A finds its oldest version J and its youngest J+K (644). Where Q is
    J+K, nothing is sent (646), and B serves what it has.
    """
    story = tell()
    demand = Demand(story)
    newest = demand.version(2, "a")
    demand.pull()
    story.show("b")
    sent = len(story.tap.transfers)
    assert demand.pull() == "nothing"
    assert demand.pull(newest) == "nothing"
    story.show("b")
    assert demand.is_at(newest)
    assert len(story.tap.transfers) == sent, "nothing travelled"
    story.command("b", "pull vol --at 99")
    with story.refused(NotFoundError):
        answer_pull(demand.a, {"member": "b", "have": msgspec.to_builtins(demand.have.last), "want": 99})
    story.end()


@pytest.mark.requirement("C5", "P7")
def test_fig_38_delta_or_full_copy(tell):
    """FIG. 38: where A knows what changed since Q, it sends the differential Q to J+K (649); where Q is older than all
    that it knows, the whole of J+K (648). Corrected: Q is compared with J, the oldest version kept, and the full copy
    must be allowed.
    """
    story = tell()
    demand = Demand(story)
    demand.version(2, "ab")
    demand.version(3, "cd")
    demand.trim()
    story.say("649: the sets are gone at A, the lists of what they changed are not.")
    had, now = read_all(story.site("b").secondary.view()), bytes(story.ledger.images["a"])
    count = len(story.tap.transfers)
    assert demand.pull() == "difference"
    moved, differs = story.cost(story.tap.transfers[count:], had, now)
    story.show("b")
    assert moved == differs == {2, 3, 4}
    story.say("648: the lists are gone too.")
    demand.version(20, "e")
    demand.version(20, "f")
    demand.trim()
    demand.a.parts.root.mutate(lambda root: msgspec.structs.replace(root, first_listed=root.last.number + 1))
    with story.refused(RefusedError):
        demand.pull()
    assert demand.pull(allow_copy=True) == "copy"
    story.show("b")
    assert read_all(story.site("b").secondary.view()) == bytes(story.ledger.images["a"])
    story.end()
