"""Wrong bytes in the bucket: what is wrong is named, nothing is believed, and the rest stays usable."""

from __future__ import annotations

import random

import pytest

from replkit.errors import CorruptRecordError, RecordMissingError
from replkit.objectstore import map_pages, pack, volume_format
from replkit.objectstore.map_pages import BLOCK_TREE, OBJECT_TREE, LeafRuns
from replkit.objectstore.memory import MemoryObjectStore
from replkit.objectstore.volume import ObjectVolume
from replkit.objectstore.volume_format import DataRow, Root, WriterRow, stride
from replkit.objectstore.volume_objects import Tuning
from replkit.testing.runtime import ManualRuntime

BLOCK = 512
BLOCKS = 6000
PLAIN = Tuning(cache_bytes=0, page_cache_bytes=0, object_bytes=64 * BLOCK, recent_objects=1, small_bytes=0)


class World:
    def __init__(self) -> None:
        self.runtime = ManualRuntime()
        self.store = MemoryObjectStore()
        self.volume = ObjectVolume.create(
            self.store, block_size=BLOCK, size_bytes=BLOCKS * BLOCK, runtime=self.runtime, tuning=PLAIN
        )
        self.image = random.Random(1).randbytes(100 * BLOCK)
        self.volume.write(50, self.image)
        self.volume.flush()

    def open(self, **options) -> ObjectVolume:
        return ObjectVolume.open(self.store, runtime=self.runtime, tuning=PLAIN, **options)

    def key(self, prefix: str) -> str:
        return min(key for key in self.store.objects if key.startswith(prefix))

    def rot(self, key: str, at: int) -> None:
        data = bytearray(self.store.objects[key])
        data[at] ^= 1
        self.store.objects[key] = bytes(data)


@pytest.fixture
def world() -> World:
    return World()


def read(volume: ObjectVolume, start: int, count: int = 1) -> bytes:
    buffer = bytearray(count * BLOCK)
    volume.read_into(start, buffer)
    return bytes(buffer)


@pytest.mark.parametrize("at", [0, 7, 8, stride(BLOCK) - 1])
def test_a_rotten_block_is_named_with_its_object_and_others_are_read(world, at):
    key = world.key("data/")
    world.rot(key, 3 * stride(BLOCK) + at)
    with pytest.raises(CorruptRecordError, match=rf"{key}: block 53 \(slot 3\): checksum is wrong"):
        read(world.volume, 50, 10)
    assert read(world.volume, 50, 3) + read(world.volume, 54, 96) == world.image[: 3 * BLOCK] + world.image[4 * BLOCK :]


def test_a_block_of_another_place_is_not_taken_for_the_right_one(world):
    key, step = world.key("data/"), stride(BLOCK)
    data = world.store.objects[key]
    world.store.objects[key] = data[step : 2 * step] + data[:step] + data[2 * step :]
    with pytest.raises(CorruptRecordError, match="block 50"):
        read(world.volume, 50)


def test_a_short_object_and_a_missing_one_are_told_apart(world):
    key = world.key("data/")
    world.store.objects[key] = world.store.objects[key][: 3 * stride(BLOCK) + 5]
    with pytest.raises(CorruptRecordError, match="bytes came for"):
        read(world.volume, 50, 10)
    del world.store.objects[key]
    with pytest.raises(RecordMissingError, match=key):
        read(world.volume, 50)


def test_every_damaged_byte_of_the_pages_that_a_read_needs_is_found(world):
    """The pages of the table of objects and the index of the pack are not needed by it."""
    key, root = world.key("map/"), world.volume._objects.root
    (top,) = root.block_top.values()
    for at in range(top.offset + top.length):
        world.rot(key, at)
        with pytest.raises(CorruptRecordError, match=key):
            read(world.open(read_only=True), 50)
        world.rot(key, at)
    for at in range(top.offset + top.length, len(world.store.objects[key])):
        world.rot(key, at)
        assert read(world.open(read_only=True), 50, 100) == world.image
        world.rot(key, at)


def test_a_damaged_object_does_not_stop_garbage_collection_of_the_others(world):
    key = world.key("data/")  # blocks 50 to 113; the next object has the rest
    for block in range(50, 150):
        if block % 8:
            world.volume.write(block, bytes([3]) * BLOCK)
    world.volume.flush()
    world.rot(key, 6 * stride(BLOCK))
    world.volume.compact()
    assert world.volume.counts.damaged_objects == 1
    assert world.volume.counts.moved_blocks == len(range(120, 150, 8))
    assert key in world.store.objects
    for block in range(64, 150, 8):
        assert read(world.volume, block) == world.image[(block - 50) * BLOCK : (block - 49) * BLOCK]
    with pytest.raises(CorruptRecordError, match="block 56"):
        read(world.volume, 56)
    world.volume.write(56, bytes([4]) * BLOCK)
    world.volume.flush()
    assert read(world.open(), 55, 2) == bytes([3]) * BLOCK + bytes([4]) * BLOCK


def test_a_damaged_root_is_refused(world):
    value = volume_format.encode_root(world.volume._objects.root)
    assert volume_format.decode_root(value, "root").size_bytes == BLOCKS * BLOCK
    for at in range(len(value)):
        wrong = bytearray(value)
        wrong[at] ^= 1
        with pytest.raises(CorruptRecordError, match="root 9"):
            volume_format.decode_root(bytes(wrong), "root 9")
    for change in ({"block_size": 1000}, {"size_bytes": -1}, {"generation": 5}):
        root = Root(volume="v", block_size=512, size_bytes=1, writers={0: WriterRow("t", 0)})
        for name, number in change.items():
            setattr(root, name, number)
        with pytest.raises(CorruptRecordError):
            volume_format.decode_root(volume_format.encode_root(root), "root")


def leaf(*runs: tuple[int, int, int]) -> tuple:
    columns = map_pages.empty_columns(BLOCK_TREE, 0)
    for run in runs:
        for column, field in zip(columns, run, strict=True):
            column.append(field)
    return columns


@pytest.mark.parametrize(
    "runs",
    [
        [(4095, 2, 1)], [(5, 0, 1)], [(5, 3, 1), (7, 1, 9)], [(9, 1, 1), (5, 1, 1)], [(5000, 1, 1)], [(0, 1, 1 << 62)],
    ],
)  # fmt: skip
def test_a_page_whose_runs_cannot_be_is_refused(runs):
    record = memoryview(map_pages.encode_page(BLOCK_TREE, 0, 7, leaf(*runs)))
    with pytest.raises(CorruptRecordError, match="page 7"):
        map_pages.decode_page(BLOCK_TREE, 0, 7, record, "page 7")


def test_a_page_of_another_place_is_refused():
    record = memoryview(map_pages.encode_page(BLOCK_TREE, 0, 7, leaf((1, 1, 1))))
    assert map_pages.decode_page(BLOCK_TREE, 0, 7, record, "page 7") == leaf((1, 1, 1))
    for place in ((OBJECT_TREE, 0, 7), (BLOCK_TREE, 1, 7), (BLOCK_TREE, 0, 8)):
        with pytest.raises(CorruptRecordError, match="is page 7 of level 0 of tree 0"):
            map_pages.decode_page(*place, record, "the page")


def test_an_index_of_another_object_or_with_runs_that_cannot_be_is_refused():
    row = DataRow(9, 3, 0)
    good = volume_format.encode_index(9, 512, [(5, 2), (7, -100), (200, 1)])
    assert volume_format.decode_index(row, 512, memoryview(good), "index") == [(5, 2), (7, -100), (200, 1)]
    wrong = [
        volume_format.encode_index(8, 512, [(5, 3)]),
        volume_format.encode_index(9, 1024, [(5, 3)]),
        volume_format.encode_index(9, 512, [(5, 2)]),
        volume_format.encode_index(9, 512, [(5, 2), (6, 1)]),
        volume_format.encode_index(9, 512, [(5, 3), (9, 0)]),
    ]
    for record in wrong:
        with pytest.raises(CorruptRecordError):
            volume_format.decode_index(row, 512, memoryview(record), "index")
    with pytest.raises(CorruptRecordError):
        pack.decode_pack_index(4, memoryview(pack.encode_pack_index(3, [])), "pack")


@pytest.mark.parametrize("seed", range(20))
def test_runs_of_a_leaf_equal_a_plain_list(seed):
    source = random.Random(seed)
    runs, plain = LeafRuns(), [None] * 4096
    for turn in range(60):
        start = source.randrange(4096)
        count = min(source.choice([1, 2, 50, 1000]), 4096 - start)
        value = source.choice([None, (turn + 1) << 16])
        lost = [(at, plain[at]) for at in range(start, start + count) if plain[at] is not None]
        plain[start : start + count] = [None if value is None else value + at for at in range(count)]
        found = runs.replace(start, count, value)
        assert [(at + step, place + step) for at, length, place in found for step in range(length)] == lost
    runs.columns = runs.joined()
    assert map_pages.decode_page(0, 0, 0, memoryview(map_pages.encode_page(0, 0, 0, runs.columns)), "") == runs.columns
    for start in range(0, 4096, 97):
        pieces = runs.find(start, 97)
        mapped = {at + step: place + step for at, length, place in pieces for step in range(length)}
        assert mapped == {at: plain[at] for at in range(start, min(4096, start + 97)) if plain[at] is not None}
