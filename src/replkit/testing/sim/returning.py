"""A fork of two sites, and the return of the old primary by a difference, without the commands that do it in a site."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from replkit.blocks.bitmap import PagedBitmap
from replkit.contracts.position import Position
from replkit.replication.branches import cut_back, tags_after
from replkit.replication.cells import Base, Difference, Resync
from replkit.replication.changelog import forget_changes
from replkit.replication.difference import blocks_between, put_list
from replkit.replication.primary import PrimaryReplica
from replkit.replication.root import RootCell
from replkit.replication.secondary import SecondaryReplica
from replkit.testing.sim.sites import VOLUME, Site, Sites, block

RESYNC = "r1"
LIST = "lists/resync-r1"


class Fork:
    """B was promoted at ``fork``, A wrote on and was stopped there; ``mine`` are the blocks that only A changed."""

    def __init__(self, names: str = "ab", *, blocks: int = 64, seed: int = 0, first: bytes = b"") -> None:
        self.world = Sites(names, blocks=blocks, seed=seed)
        a, b = self.world.a, self.world.b
        a.write(0, first or block("0", min(16, blocks)))
        self.world.follow(a, *(site for name, site in self.world.sites.items() if name != "a"))
        self.world.network.down.update({a.url, b.url})
        self.world.network.break_links()
        self.fork: Position = b.secondary.promote()
        b.reopen()
        self.mine = PagedBitmap(blocks)
        setattr(a, "_recovery", _nothing)  # noqa: B010 - its part is done by hand in ``leave``

    @property
    def a(self) -> Site:
        """The old primary."""
        return self.world.a

    @property
    def b(self) -> Site:
        """The new one."""
        return self.world.b

    def leave(self, *, resync_id: str = RESYNC, fork: Position | None = None, snapshot: str = "") -> None:
        """A gives its role up, durably, and B makes it a member that needs a difference."""
        a, b, runtime = self.a, self.b, self.world.runtime
        a.primary.cut()
        here = a.primary.root
        at = fork or self.fork
        self.mine = blocks_between(a.save, here, self.fork.number, here.last.number, a.disk.block_count)
        a.stop()
        new, cell = b.primary.root, RootCell.claim(a.save, runtime, "primary")
        resync = Resync(
            id=resync_id, peer=b.url, peer_volume=VOLUME, member="a", own_url=a.url, fork=at, list_key=LIST,
            phase="receiving",
        )  # fmt: skip
        tags = tags_after(here, self.fork.number)
        cell.mutate(
            lambda root: msgspec.structs.replace(
                cut_back(root, self.fork), role="secondary", epoch=new.epoch, history=new.history, members=(),
                condemned=tags, base=Base(copy_id=resync_id, position=self.fork), resync=resync,
            )
        )  # fmt: skip
        forget_changes(a.save, a.disk.block_count)
        a.start()
        put_list(b.save, LIST, self.mine)
        difference = Difference(fork=self.fork, list_key=LIST, snapshot=snapshot)
        b.primary.members.add_difference("a", a.url, VOLUME, difference, RESYNC)
        self.world.network.down.clear()

    def theirs(self, stamp: Position) -> PagedBitmap:
        """The blocks that B changed after the fork, up to ``stamp``."""
        root = self.b.primary.root
        return blocks_between(self.b.save, root, self.fork.number, stamp.number, self.b.disk.block_count)

    def is_back(self) -> bool:
        """Whether A stands where B does, and B knows it."""
        return not self.b.primary.volume.dirty_blocks and Sites.is_equal(self.b, self.a)


def _nothing(_replica: PrimaryReplica | SecondaryReplica) -> list[Callable[[], object]]:
    return []
