"""A primary is resized while it is replicated: members follow, or say that they cannot (X5)."""

from __future__ import annotations

import pytest

from replkit.blocks.extent import Extent
from replkit.contracts.volume import Capability
from replkit.deltaset.pieces import Kind, Piece
from replkit.errors import UnsupportedError, VolumeFailedError
from replkit.replication.cells import MemberProgress, sent_cell
from replkit.replication.root import load_struct
from replkit.snapshot.reader import SnapshotReader
from replkit.testing.sim.machines import BLOCK_SIZE
from replkit.testing.sim.model import read_all
from replkit.testing.sim.world import World

BLOCKS = 64


def block(letter: str, count: int = 1) -> bytes:
    return letter.encode() * BLOCK_SIZE * count


def following(**options: object) -> World:
    world = World(block_count=BLOCKS, **options)  # type: ignore[arg-type]
    world.primary.replica.volume.write(0, block("0", BLOCKS))
    world.add_members()
    world.settle()
    return world


def resize(world: World, blocks: int) -> None:
    world.primary.replica.resize(blocks * BLOCK_SIZE)
    assert world.primary.disk.block_count == blocks


def check_followed(world: World, blocks: int, *, secondaries: list[int] | None = None) -> None:
    for number, secondary in enumerate(world.secondaries):
        if secondaries is None or number in secondaries:
            assert secondary.disk.block_count == blocks
            assert read_all(secondary.disk) == read_all(world.primary.disk)
            assert read_all(secondary.replica.view()) == read_all(world.primary.disk)


def said(world: World, member: str) -> str:
    progress, _version = load_struct(world.primary.save, sent_cell(member), MemberProgress)
    assert progress is not None
    return progress.last_error


@pytest.mark.requirement("X5")
@pytest.mark.parametrize("blocks", [BLOCKS * 3, BLOCKS // 2, BLOCKS + 1])
def test_members_follow_a_resize_and_their_snapshots_keep_their_size(blocks: int) -> None:
    world = following(secondaries=2)
    before = read_all(world.primary.disk)
    member = world.secondaries[0].replica
    assert member.player.create_snapshot("before") is not None
    resize(world, blocks)
    world.primary.replica.volume.write(blocks - 1, block("z"))
    world.settle()
    check_followed(world, blocks)
    assert read_all(member.volume.open_snapshot("before")) == before
    world.primary.replica.volume.write(0, block("y"))
    world.settle()
    check_followed(world, blocks)


@pytest.mark.requirement("X5")
def test_a_resize_is_a_cut_of_its_own_even_when_nothing_else_changed() -> None:
    world = following()
    last = world.primary.replica.root.last
    resize(world, BLOCKS // 2)
    assert world.primary.replica.root.last.number == last.number + 1
    world.settle()
    check_followed(world, BLOCKS // 2)


@pytest.mark.requirement("X5", "C2")
def test_a_shrink_and_a_growth_received_together_leave_nothing_old_at_a_member() -> None:
    world = following()
    world.network.down.add(world.secondaries[0].url)
    resize(world, 8)
    resize(world, BLOCKS)
    world.primary.replica.volume.write(20, block("n"))
    world.settle()
    check_followed(world, BLOCKS)
    assert read_all(world.primary.disk) == block("0", 8) + bytes(12 * BLOCK_SIZE) + block("n") + bytes(43 * BLOCK_SIZE)


@pytest.mark.requirement("X5")
def test_a_view_that_was_open_before_a_shrink_reads_zeros_beyond_the_end() -> None:
    world = following()
    view = world.secondaries[0].replica.view()
    resize(world, 8)
    world.settle()
    assert read_all(view) == block("0", 8) + bytes(56 * BLOCK_SIZE)


@pytest.mark.requirement("X5")
def test_a_pinned_view_keeps_the_boundary_before_a_shrink() -> None:
    world = following()
    before = read_all(world.primary.disk)
    view = world.secondaries[0].replica.pin()
    resize(world, 8)
    world.settle()
    assert world.secondaries[0].disk.block_count == 8
    assert read_all(view) == before
    view.close()


@pytest.mark.requirement("X5")
def test_a_member_that_cannot_be_resized_refuses_the_set_and_says_so_and_holds_up_nobody() -> None:
    world = World(secondaries=2, block_count=BLOCKS)
    rigid = world.secondaries[0]
    rigid.disk.resizes = Capability.NONE
    rigid.replica.volume.resizes = Capability.NONE
    world.primary.replica.volume.write(0, block("0", BLOCKS))
    world.add_members()
    world.settle()
    stands, before = rigid.replica.player.position, read_all(rigid.disk)
    resize(world, BLOCKS * 2)
    world.primary.replica.volume.write(BLOCKS + 3, block("b"))
    last = world.primary.replica.cut()
    world.settle(lambda: world.secondaries[1].replica.player.position == last and "resized" in said(world, "m0"))
    check_followed(world, BLOCKS * 2, secondaries=[1])
    assert "cannot be resized" in said(world, "m0")
    assert rigid.replica.player.position == stands
    assert read_all(rigid.replica.view()) == before


@pytest.mark.requirement("X5")
def test_a_larger_member_that_cannot_be_resized_serves_as_well() -> None:
    world = World(block_count=BLOCKS)
    member = world.secondaries[0]
    member.disk.resize(BLOCKS * 2 * BLOCK_SIZE)
    member.disk.resizes = Capability.NONE
    member.stop()
    member.start()
    world.primary.replica.volume.write(0, block("0", BLOCKS))
    world.add_members()
    world.settle()
    resize(world, 8)
    resize(world, BLOCKS + 5)
    world.settle()
    assert member.disk.block_count == BLOCKS * 2
    assert read_all(member.disk)[: (BLOCKS + 5) * BLOCK_SIZE] == read_all(world.primary.disk)


@pytest.mark.requirement("X5", "C1")
def test_a_new_copy_gives_the_member_the_size_of_the_primary() -> None:
    world = World(block_count=BLOCKS, found=block("x", BLOCKS))
    world.primary.replica.volume.write(0, block("0", 10))
    resize(world, BLOCKS * 2)
    world.primary.replica.volume.write(BLOCKS * 2 - 3, block("e", 3))
    world.add_members()
    world.settle()
    check_followed(world, BLOCKS * 2)


@pytest.mark.requirement("X5", "C2")
@pytest.mark.parametrize("blocks", [BLOCKS + 40, 10])
def test_a_crash_of_a_member_at_any_call_while_it_follows_is_made_good(blocks: int) -> None:
    """Invariants 5 and 6."""
    fail_at = crashes = 0
    while crashes == fail_at:
        fail_at += 1
        world = following(seed=fail_at)
        member = world.secondaries[0]
        assert member.replica.player.create_snapshot("before") is not None
        before = read_all(world.primary.disk)
        resize(world, blocks)
        world.primary.replica.volume.write(1, block("n", 4))
        world.primary.replica.cut()
        member.power.fail_at(fail_at)
        for _ in range(60):
            if member.is_up:
                world.round()
        crashes += member.crashes
        if not member.is_up:
            world.restart(member)
        world.settle()
        check_followed(world, blocks)
        assert read_all(member.replica.volume.open_snapshot("before")) == before
        if fail_at > 200:
            raise AssertionError("it never came through")


@pytest.mark.requirement("X5")
def test_a_primary_that_cannot_be_resized_says_so_and_goes_on() -> None:
    world = following()
    primary = world.primary.replica
    primary.volume.snapped.resizes = Capability.NONE
    last = primary.root.last
    with pytest.raises(UnsupportedError, match="backend cannot"):
        primary.resize(8 * BLOCK_SIZE)
    assert primary.root.last == last
    primary.volume.write(0, block("q"))
    world.settle()
    check_followed(world, BLOCKS)


@pytest.mark.requirement("X5")
def test_a_growth_is_one_piece_whatever_its_length() -> None:
    world = World(secondaries=0, block_count=BLOCKS)
    world.primary.replica.volume.write(3, block("a"))
    world.primary.replica.volume.resize((BLOCKS + 100_000) * BLOCK_SIZE)
    cut = world.primary.replica.volume.begin_cut()
    ranges = list(cut.ranges(8))
    assert ranges == [Extent(3, BLOCKS + 100_000 - 3)]
    assert cut.copy_range(ranges[0].start, ranges[0].stop)[0] == [
        Piece(3, 1, Kind.DATA), Piece(BLOCKS, 100_000, Kind.DISCARD),
    ]  # fmt: skip
    cut.finish()


@pytest.mark.requirement("X5", "T6")
def test_a_reader_whose_volume_was_opened_before_it_grew_says_so_instead_of_reading_zeros() -> None:
    world = World(secondaries=0, block_count=BLOCKS)
    primary = world.primary.replica

    class OpenedBefore:
        """The volume as another process opened it, with the size of then."""

        block_size, size_bytes, block_count = BLOCK_SIZE, BLOCKS * BLOCK_SIZE, BLOCKS

        def read_into(self, start: int, buffer: bytearray) -> None:
            world.primary.disk.read_into(start, buffer)

    primary.resize((BLOCKS + 8) * BLOCK_SIZE)
    primary.volume.write(BLOCKS + 1, block("a"))
    primary.create_snapshot("s")
    table = primary.volume.snapped.queue._table
    reader = SnapshotReader("s", OpenedBefore(), world.primary.save, table)  # type: ignore[arg-type]
    buffer = bytearray(2 * BLOCK_SIZE)
    with pytest.raises(VolumeFailedError, match="open the volume again"):
        reader.read_into(BLOCKS, buffer)
    primary.volume.write(BLOCKS + 1, block("b"))
    reader.read_into(BLOCKS, buffer)
    assert bytes(buffer) == bytes(BLOCK_SIZE) + block("a")
