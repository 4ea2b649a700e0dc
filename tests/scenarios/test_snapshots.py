"""Differentials between snapshots as the source's figures have them, 34, 35, 39, 40; deleting one of them (P5-P7)."""

from __future__ import annotations

import pytest

from replkit.errors import InvalidArgumentError
from replkit.recovery.ondemand import copy_between
from replkit.snapshot.differential import differential
from replkit.testing.sim.model import read_all

from .ledger import different, picture
from .story import Story
from .tap import runs


class Queue:
    """The snapshots of one volume, oldest first: their bit maps and meta bit maps, and an image of each as it was."""

    def __init__(self, story: Story, site: str = "a") -> None:
        self.story, self.site = story, site
        self.images: dict[str, bytes] = {}

    def add(self, name: str) -> None:
        """A snapshot at a cut."""
        self.story.cut(self.site, name)
        self.images[name] = bytes(self.story.ledger.images[self.site])

    def bit_map(self, name: str) -> set[int]:
        """Blocks that the save area of a snapshot keeps."""
        layer = next(each for each in self.story.snapped(self.site).queue.layers if each.record.name == name)
        return {block for area in layer.areas for extent, _at in area.blocks.runs() for block in _blocks([extent])}

    def meta(self, name: str) -> set[int]:
        """Blocks in use in a snapshot."""
        return set(_blocks(self.story.snapped(self.site).open_snapshot(name).in_use()))

    def from_to(self, older: str, newer: str) -> list[str]:
        """The names L to M-1."""
        names = list(self.images)
        return names[names.index(older) : names.index(newer)]

    def show(self, *lines: tuple[str, str]) -> None:
        """Each snapshot, its bit map and its meta bit map, a column a block."""
        count = len(self.story.ledger.images[self.site]) // 512
        rows = []
        for name in self.images:
            rows += [(name, picture(self.images[name])), ("  saved", _marks(self.bit_map(name), count))]
            rows.append(("  in use", _marks(self.meta(name), count)))
        for name, row in (*rows, *lines):
            self.story.note(f"{name:12}|{row}|")

    def check(self) -> None:
        """Every snapshot is what the volume was then."""
        for name, image in self.images.items():
            assert read_all(self.story.snapped(self.site).open_snapshot(name)) == image, name


def _blocks(extents):
    return [block for extent in extents for block in range(extent.start, extent.stop)]


def _marks(blocks: set[int], count: int) -> str:
    return "".join("x" if block in blocks else "." for block in range(count))


def with_member(tell) -> tuple[Story, Queue]:
    """A volume of 32 blocks, and B, which is updated when it is told to."""
    story = tell(blocks=32)
    story.write("a", 0, "0123456789")
    story.site("a").primary.add_member("b", story.site("b").url, "vol", on_demand=True)
    story.until(lambda: is_at(story, story.site("a").primary.root.last))
    queue = Queue(story)
    return story, queue


def is_at(story: Story, position) -> bool:
    a, b = story.site("a").primary, story.site("b").secondary
    (member,) = a.root.members
    progress = a.progress()["b"]
    return member.state == "following" and b.root.last == position and progress == (position.number, position.number)


def bring_to(story: Story, name: str) -> None:
    """The member is at a snapshot."""
    (record,) = [each for each in story.site("a").primary.snapshots() if each.name == name]
    story.site("a").primary.members.send_until("b", record.stamp.number)
    story.until(lambda: is_at(story, record.stamp))


@pytest.mark.requirement("P5", "P7")
def test_fig_34_differential(tell):
    """FIG. 34: the blocks that changed from snapshot L to M are those that the bit map of any snapshot from L to M-1
    has (584-587). M not greater than L is an error (582). Here all blocks were in use all the time.
    """
    story, queue = with_member(tell)
    story.write("a", 10, "abcdefghijklmnopqrstuv")
    for name, start, letters in (("s1", 3, "AAA"), ("s2", 4, "B"), ("s3", 12, "CC"), ("s4", 20, "D")):
        queue.add(name)
        story.write("a", start, letters)
    found = differential(story.snapped("a"), "s1", "s4")
    passed = queue.from_to("s1", "s4")
    which = "".join(
        next((name[1] for name in passed if block in queue.bit_map(name)), ".") for block in range(32)
    )  # 584-587
    queue.show(("s1 to s4", which))
    story.note(f"s1 to s4: {runs(_blocks(found.data))} with data, {runs(_blocks(found.discards)) or 'none'} as unused")
    assert _blocks(found.data) == [block for block in range(32) if which[block] != "."]
    assert _blocks(found.data) == different(queue.images["s1"], queue.images["s4"])
    assert found.discards == []
    bring_to(story, "s1")
    for older, newer in (("s4", "s1"), ("s2", "s2")):
        story.command("a", f"copy vol --from {older} --to {newer} b")
        with story.refused(InvalidArgumentError):
            copy_between(story.site("a").primary, "b", older, newer)
    queue.check()
    story.end()


@pytest.mark.requirement("P5", "P7")
def test_fig_35_blocks_in_order_from_snapshot_m(tell):
    """FIG. 35: each block that was found is read from snapshot M (589) and returned with its index (590), in the order
    of the indices to the end of the volume (591), whatever users write meanwhile.
    """
    story, queue = with_member(tell)
    queue.add("monday")
    bring_to(story, "monday")
    for start, letters in ((31, "z"), (7, "s"), (2, "rr"), (8, "t")):
        story.write("a", start, letters)
    queue.add("tuesday")
    story.write("a", 0, "w" * 32)
    story.say("Users have written over everything since.")
    story.show()
    story.command("a", "copy vol --from monday --to tuesday b")
    found = copy_between(story.site("a").primary, "b", "monday", "tuesday")
    stamp = next(each.stamp for each in story.site("a").primary.snapshots() if each.name == "tuesday")
    story.until(lambda: is_at(story, stamp))
    story.show()
    transfer = story.tap.between("a", "b")[-1]
    assert transfer.order == sorted(transfer.order) == different(queue.images["monday"], queue.images["tuesday"])
    assert found["data_blocks"] == transfer.data_blocks == 5
    assert story.site("b").content == queue.images["tuesday"]
    queue.check()
    story.end()


@pytest.mark.requirement("P5", "P7")
def test_fig_39_blocks_not_in_use(tell):
    """FIG. 39: with meta bit maps. No data is sent of a block that is not in use in M (655). A block that no bit map
    has may have changed all the same where it was not in use in a snapshot from L to M-1 (657): a first write to an
    unused block saves no before-image. Corrected: what was in use and is not any more goes as unused.
    """
    story, queue = with_member(tell)
    queue.add("s1")
    bring_to(story, "s1")
    story.write("a", 12, "new")
    queue.add("s2")
    story.discard("a", 3, 2)
    story.discard("a", 13, 1)
    queue.add("s3")
    story.write("a", 4, "again")
    queue.add("s4")
    found = differential(story.snapped("a"), "s1", "s4")
    queue.show()
    unused = {block for block in range(32) if queue.images["s4"][block * 512] == 0}
    differs = set(different(queue.images["s1"], queue.images["s4"]))
    assert set(_blocks(found.data)) == differs - unused
    assert set(_blocks(found.discards)) >= differs & unused
    story.command("a", "copy vol --from s1 --to s4 b")
    copy_between(story.site("a").primary, "b", "s1", "s4")
    stamp = next(each.stamp for each in story.site("a").primary.snapshots() if each.name == "s4")
    story.until(lambda: is_at(story, stamp))
    story.note(f"= {len(differs)} blocks differed; {runs(_blocks(found.discards))} carried no data")
    story.show("b")
    assert story.site("b").content == queue.images["s4"]
    queue.check()
    story.end()


@pytest.mark.requirement("P5")
def test_fig_40_one_walk(tell):
    """FIG. 40: the same by one walk over the snapshots from L to M-1. A block that M uses (665) is returned at the
    first snapshot whose bit map has it (667) or whose meta bit map has it not (668). Below: b found by a bit map,
    m by a meta bit map, = in use and unchanged, a dot where M does not use it.
    """
    story, queue = with_member(tell)
    queue.add("s1")
    story.write("a", 2, "x")
    story.write("a", 12, "new")
    queue.add("s2")
    story.discard("a", 3, 2)
    story.write("a", 8, "y")
    queue.add("s3")
    story.write("a", 4, "z")
    queue.add("s4")
    for older, newer in (("s1", "s2"), ("s1", "s4"), ("s2", "s3"), ("s3", "s4")):
        walk = ""
        for block in range(32):
            hits = (
                "b" if block in queue.bit_map(name) else "m"
                for name in queue.from_to(older, newer)
                if block in queue.bit_map(name) or block not in queue.meta(name)
            )
            walk += next(hits, "=") if block in queue.meta(newer) else "."
        found = differential(story.snapped("a"), older, newer)
        queue.show((f"{older} to {newer}", walk)) if (older, newer) == ("s1", "s2") else story.note(
            f"{f'{older} to {newer}':12}|{walk}|"
        )
        assert _blocks(found.data) == [block for block in range(32) if walk[block] in "bm"]
        copy = bytearray(queue.images[older])
        for block in _blocks(found.data):
            copy[block * 512 : (block + 1) * 512] = queue.images[newer][block * 512 : (block + 1) * 512]
        for block in _blocks(found.discards):
            copy[block * 512 : (block + 1) * 512] = bytes(512)
        assert copy == queue.images[newer]
    queue.check()
    story.end()


@pytest.mark.requirement("P6")
def test_snapshot_delete_anywhere(tell):
    """Any snapshot of the queue can be deleted. What its save area keeps and the older one needs moves there; the
    others show what they showed, to their end.
    """
    story, queue = with_member(tell)
    for name, start, letters in (("s1", 2, "aa"), ("s2", 3, "bb"), ("s3", 4, "cc"), ("s4", 12, "n")):
        queue.add(name)
        story.write("a", start, letters)
    queue.show()
    for name in ("s3", "s4", "s1", "s2"):
        story.command("a", f"snapshot delete vol {name}")
        story.site("a").primary.delete_snapshot(name)
        del queue.images[name]
        queue.show()
        queue.check()
    assert story.snapped("a").queue.layers == []
    story.end()
