"""Restoring a snapshot: content, in-use map, steps, and a crash at every device call (P3, P6)."""

from __future__ import annotations

import msgspec
import pytest

from replkit.errors import InvalidArgumentError, NotFoundError, SnapshotInvalidError
from replkit.snapshot.restore import Restore
from replkit.testing.crashing import PowerFailure

BLOCKS = 64
STEP_BYTES = 4 * 512


def changed_stack(new_stack, **options):
    """A volume changed in every way since the snapshot ``then``, with a newer snapshot between."""
    stack = new_stack(BLOCKS, **options)
    stack.write(0, 1, 24)
    stack.write(50, 2, 4)
    stack.snapshot("before")
    stack.write(4, 3, 2)
    stack.snapshot("then")
    stack.write(0, 4, 2)
    stack.volume.discard(10, 8)
    stack.write(30, 5, 6)
    stack.snapshot("since")
    stack.write(12, 6)
    stack.write(0, 7)
    stack.volume.discard(50, 2)
    stack.write(40, 8, 2)
    return stack


def finish(stack, progress, kept):
    """Restore to the end; ``kept`` is the caller's cell."""
    restore = Restore(stack.snapped, stack.volume, progress, step_bytes=STEP_BYTES)
    while not kept[-1].done:
        kept.append(restore.step())
    restore.release()


@pytest.mark.requirement("P3", "P6")
@pytest.mark.parametrize("name", ["before", "then", "since"])
@pytest.mark.parametrize("shift", [0, 1])
def test_a_restore_brings_content_and_in_use_map_back_and_leaves_the_other_snapshots(new_stack, name, shift):
    stack = changed_stack(new_stack, in_use_shift=shift)
    used = stack.in_use(name)
    progress = Restore.begin(stack.snapped, name)
    assert stack.snapped.snapshot(name).held
    finish(stack, progress, [progress])
    assert stack.image() == stack.images[name]
    assert stack.in_use() == used
    for other, image in stack.images.items():
        assert stack.image(other) == image
    assert not stack.snapped.snapshot(name).held


@pytest.mark.requirement("P6", "S5")
def test_what_a_restore_writes_is_logged_like_any_other_write_and_equal_blocks_are_not_written(new_stack):
    stack = changed_stack(new_stack)
    stack.volume.begin_cut().abandon()
    cut = stack.volume.begin_cut()
    cut.copy_range(0, BLOCKS)
    cut.finish()
    before = stack.image()
    progress = Restore.begin(stack.snapped, "then")
    finish(stack, progress, [progress])
    marked = {block for run in stack.volume.changelog.current.runs() for block in range(run.start, run.stop)}
    differs = {block for block, value in enumerate(stack.images["then"]) if value != before[block]}
    assert differs <= marked
    assert marked == {0, 1, *range(10, 18), *range(30, 36), 40, 41, 50, 51}


@pytest.mark.requirement("P6")
def test_a_step_is_bounded_and_progress_never_falls(new_stack):
    stack = changed_stack(new_stack)
    progress = Restore.begin(stack.snapped, "then")
    restore = Restore(stack.snapped, stack.volume, progress, step_bytes=STEP_BYTES)
    left, at = restore.blocks_left, 0
    assert left == 2 + 8 + 6 + 2 + 2
    while not restore.step().done:
        assert restore.progress.next_block >= at
        at = restore.progress.next_block
        assert restore.blocks_left <= left
        left = restore.blocks_left
    assert restore.blocks_left == 0
    assert restore.step() is restore.progress


@pytest.mark.requirement("P6", "P3", "S5")
def test_a_crash_at_any_device_call_of_a_restore_is_made_good_by_going_on(new_stack):
    """Invariant 4: a snapshot stays whole; a restore taken up again from what was kept ends the same."""
    fail_at = 0
    while True:
        fail_at += 1
        stack = changed_stack(new_stack, seed=fail_at)
        stack.volume.flush()
        kept = [Restore.begin(stack.snapped, "then")]
        stack.power.fail_at(fail_at)
        try:
            finish(stack, kept[0], kept)
            break
        except PowerFailure:
            stack.crash()
        assert stack.image("then") == stack.images["then"]
        was_done = kept[-1].done  # then a crash leaves more of the region in use than is, as after any write
        finish(stack, kept[-1], kept)
        assert stack.image() == stack.images["then"]
        assert all(stack.image(name) == image for name, image in stack.images.items())
        assert was_done or stack.in_use() == stack.in_use("then")
    assert fail_at > 30


@pytest.mark.requirement("P6")
def test_an_older_progress_does_no_harm(new_stack):
    stack = changed_stack(new_stack)
    progress = Restore.begin(stack.snapped, "then")
    kept = [progress]
    finish(stack, progress, kept)
    for old in kept[:-1]:
        finish(stack, old, [old])
        assert stack.image() == stack.images["then"]


@pytest.mark.requirement("P6")
def test_a_held_snapshot_stays_held_and_one_that_fills_the_area_is_not_invalidated_by_its_restore(new_stack):
    stack = new_stack(BLOCKS, areas_bytes=8 * 700, waits_for_room=False)
    stack.write(0, 1, 8)
    stack.snapshot("then")
    stack.write(0, 2, 4)
    stack.write(20, 2, 8)
    stack.snapshot("newer")
    progress = Restore.begin(stack.snapped, "then")
    finish(stack, progress, [progress])
    assert stack.image() == stack.images["then"]
    assert not stack.snapped.snapshot("newer").valid  # it gave way, the one that is restored did not
    stack.snapped.hold_snapshot("then", held=True)
    progress = Restore.begin(stack.snapped, "then")
    finish(stack, progress, [progress])
    assert stack.snapped.snapshot("then").held


@pytest.mark.requirement("P6")
def test_what_cannot_be_restored_is_refused_before_anything_is_touched(new_stack):
    stack = changed_stack(new_stack, waits_for_room=False)
    before = stack.image()
    with pytest.raises(NotFoundError, match="nowhere"):
        Restore.begin(stack.snapped, "nowhere")
    progress = Restore.begin(stack.snapped, "then")
    with pytest.raises(NotFoundError, match="made by that name"):
        Restore(stack.snapped, stack.volume, msgspec.structs.replace(progress, snapshot_id="other"))
    stack.volume.resize(BLOCKS * 512 + 512)
    with pytest.raises(InvalidArgumentError, match="resize the volume"):
        Restore(stack.snapped, stack.volume, progress)
    assert stack.image() == [*before, 0]
    stack.save.areas_bytes = 0
    stack.snapped.hold_snapshot("then", held=False)
    stack.write(20, 9)
    with pytest.raises(SnapshotInvalidError, match="then"):
        Restore.begin(stack.snapped, "then")
