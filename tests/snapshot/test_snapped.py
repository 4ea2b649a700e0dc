"""Snapshots of a volume: the rules of P1 to P6 one by one."""

from __future__ import annotations

import pytest

from replkit.blocks.extent import Extent
from replkit.errors import (
    AlreadyExistsError,
    NotFoundError,
    ReadOnlyError,
)

from .snapped_world import BLOCKS, SIZE, World, block, read


@pytest.fixture
def world():
    return World()


@pytest.mark.requirement("P1")
def test_a_read_falls_through_newer_snapshots_to_the_live_volume(world):
    world.volume.write(0, block(1, 4))
    world.volume.create_snapshot("a")
    world.volume.write(0, block(2))
    world.volume.create_snapshot("b")
    world.volume.write(1, block(3))
    assert world.image("a", 0, 4) == [1, 1, 1, 1]
    assert world.image("b", 0, 4) == [2, 1, 1, 1]
    assert read(world.volume, 0, 4) == [2, 3, 1, 1]


@pytest.mark.requirement("P1", "P2")
def test_a_block_unused_in_a_snapshot_reads_as_zeros_and_saves_no_before_image(world):
    world.volume.create_snapshot("a")
    world.volume.write(5, block(1))
    assert world.before_images() == 0
    assert world.image("a", 5, 1) == [0]
    assert world.volume.open_snapshot("a").in_use_runs(0, BLOCKS) == []


@pytest.mark.requirement("P2")
def test_a_discard_saves_its_before_image(world):
    world.volume.write(5, block(1))
    world.volume.create_snapshot("a")
    world.volume.discard(5, 1)
    assert read(world.volume, 5) == [0]
    world.volume.write(5, block(2))
    world.volume.create_snapshot("b")
    assert world.image("a", 5, 1) == [1]
    assert list(world.volume.in_use()) == [Extent(5, 1)]


@pytest.mark.requirement("P2")
def test_a_block_used_in_an_older_snapshot_and_saved_by_none_since_is_saved(world):
    world.volume.write(5, block(1))
    world.volume.create_snapshot("a")
    world.volume._in_use.clear(5, 1)  # a clone that tells of a block no longer in use, without a discard
    world.volume.create_snapshot("b")
    world.volume.write(5, block(2))
    assert world.image("a", 5, 1) == [1]
    assert world.image("b", 5, 1) == [0]
    world.volume.delete_snapshot("b")
    assert world.image("a", 5, 1) == [1]


def test_one_batch_saves_one_record_and_syncs_once(world):
    world.volume.write(0, block(1, 64))
    world.volume.create_snapshot("a")
    syncs, real = [], world.save.sync
    world.save.sync = lambda: (syncs.append(1), real())
    world.volume.write_extents([(number, block(2)) for number in (1, 7, 9, 30)])
    assert (world.before_images(), len(syncs)) == (1, 1)
    world.volume.write_extents([(number, block(3)) for number in (1, 7, 9, 30)])
    assert (world.before_images(), len(syncs)) == (1, 1)
    assert world.image("a", 0, 64) == [1] * 64


@pytest.mark.requirement("P3")
def test_the_in_use_map_is_part_of_a_snapshot_at_the_granularity_chosen():
    world = World(in_use_shift=3)
    world.volume.write(9, block(1))
    world.volume.create_snapshot("a")
    world.volume.write(100, block(1))
    assert list(world.volume.open_snapshot("a").in_use()) == [Extent(8, 8)]
    world.volume.discard(8, 7)
    assert Extent(8, 8) in list(world.volume.in_use())
    world.volume.discard(8, 8)
    assert list(world.volume.in_use()) == [Extent(96, 8)]
    world.open()
    assert list(world.volume.open_snapshot("a").in_use()) == [Extent(8, 8)]


@pytest.mark.requirement("P4")
def test_maps_of_older_snapshots_are_staged_out_and_back_and_rebuilt_without_their_checkpoint(world):
    world.volume.write(0, block(1, 8))
    world.volume.create_snapshot("a")
    world.volume.write(0, block(2))
    world.volume.create_snapshot("b")
    world.volume.write(1, block(3))
    (staged,) = world.save.list("lists/block-maps/")
    assert world.image("a") == [1] * 8
    world.open()
    assert world.image("a") == [1] * 8
    world.save.delete([staged])
    world.open()
    assert world.image("a") == [1] * 8
    assert world.image("b") == [2, *[1] * 7]


@pytest.mark.requirement("P6")
@pytest.mark.parametrize("victim", ["a", "b", "c"])
def test_any_snapshot_can_be_deleted_and_the_others_stay_as_they_are(world, victim):
    images = {}
    for value, name in enumerate("abc", 1):
        world.volume.write(0, block(value, value * 2))
        images[name] = read(world.volume, 0, 8)
        world.volume.create_snapshot(name)
    world.volume.write(0, block(9, 3))
    world.volume.delete_snapshot(victim)
    world.volume.write(3, block(10, 5))
    del images[victim]
    for _ in range(2):
        assert {name: world.image(name) for name in images} == images
        world.open()
    for name in images:
        world.volume.delete_snapshot(name)
    assert world.before_images() == 0
    assert world.save.list("lists/block-maps/") == []
    assert len(world.save.list("lists/in-use/")) == 1


@pytest.mark.requirement("P6")
def test_before_images_that_the_older_snapshot_has_itself_go_with_the_deleted_one(world):
    world.volume.write(0, block(1, 2))
    world.volume.create_snapshot("a")
    world.volume.write(0, block(2))
    world.volume.create_snapshot("b")
    world.volume.write(0, block(3))
    world.volume.write(1, block(3))
    world.volume.create_snapshot("c")
    assert world.before_images() == 3
    world.volume.delete_snapshot("b")
    assert world.before_images() == 2
    assert world.image("a", 0, 2) == [1, 1]


def test_a_name_is_used_once_and_an_unknown_one_is_refused(world):
    world.volume.create_snapshot("a")
    with pytest.raises(AlreadyExistsError, match="a"):
        world.volume.create_snapshot("a")
    with pytest.raises(NotFoundError, match="b"):
        world.volume.open_snapshot("b")
    with pytest.raises(NotFoundError, match="b"):
        world.volume.delete_snapshot("b")


def test_a_snapshot_is_read_only_and_ends_with_an_error_when_it_is_deleted(world):
    world.volume.create_snapshot("a")
    shot = world.volume.open_snapshot("a")
    with pytest.raises(ReadOnlyError):
        shot.write(0, block(1))
    with pytest.raises(ReadOnlyError):
        shot.discard(0, 1)
    world.volume.delete_snapshot("a")
    with pytest.raises(NotFoundError, match="a was deleted"):
        read(shot, 0)


def test_a_restamp_is_durable(world):
    world.volume.create_snapshot("a")
    world.volume.restamp("a", None, at_boundary=True)
    world.open()
    assert world.volume.snapshot("a").at_boundary


@pytest.mark.requirement("X5")
def test_a_snapshot_keeps_its_size_and_content_when_the_volume_shrinks_and_grows(world):
    world.volume.write(BLOCKS - 4, block(1, 4))
    world.volume.create_snapshot("a")
    world.volume.resize((BLOCKS - 2) * SIZE)
    world.volume.resize((BLOCKS + 2) * SIZE)
    assert read(world.volume, BLOCKS - 4, 6) == [1, 1, 0, 0, 0, 0]
    world.volume.write(BLOCKS - 2, block(7, 4))
    for _ in range(2):
        assert world.image("a", BLOCKS - 4, 4) == [1] * 4
        assert world.volume.open_snapshot("a").size_bytes == BLOCKS * SIZE
        world.open()


def test_after_a_clean_close_the_in_use_map_is_exact(world):
    world.volume.write(5, block(1))
    world.volume.close_clean()
    world.open()
    assert list(world.volume.in_use()) == [Extent(5, 1)]
    world.open()  # as after a crash: the region counts as in use
    assert list(world.volume.in_use()) == [Extent(0, 2048)]
