"""What a file save volume says of rot (invariant 12)."""

import pytest

from replkit.backends.file.layout import RECORD_MAGIC, SECTOR_BYTES, decode_layout, plan
from replkit.contracts.scrub import scrub
from replkit.errors import CorruptRecordError, InvalidArgumentError, RecordMissingError


def keys(save, prefix=""):
    return list(save.list(prefix))


def damage(path, offset, data=b"\xff"):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def offset_of(save, key):
    return save._of(key).find(key).offset


def synced_records(save, count=6):
    for number in range(count):
        save.put(f"areas/s/{number}", [bytes([number]) * 1000])
    save.put("areas/other/0", [b"other"])
    save.sync()


def test_a_rotten_head_in_the_middle_of_a_save_area_is_said_not_swallowed(registry, directory, opened):
    """Before-image records are the durable map: a save area that lacks one must not look whole (invariant 4)."""
    save = opened()
    synced_records(save)
    offset = offset_of(save, "areas/s/2")
    save.close()
    damage(directory / "areas", offset + 20)
    again = opened()
    assert len(again.damaged) == 1
    assert str(offset) in again.damaged[0]
    with pytest.raises(CorruptRecordError, match="damaged"):
        again.list("areas/s/")
    with registry.open_save_volume(f"file://{directory}", producer=False) as reader:
        with pytest.raises(CorruptRecordError):
            reader.list("areas/s/")
        assert reader.list("areas/other/") == ["areas/other/0"]
    assert again.list("areas/other/") == ["areas/other/0"]
    assert {found.split(":")[0] for found in scrub(again)} == {f"areas/s/{n}" for n in (0, 1, 3, 4, 5)}
    assert bytes(again.get("areas/s/5")) == bytes([5]) * 1000
    with pytest.raises(RecordMissingError):
        again.get("areas/s/2")
    again.delete([key for key in again.list("areas/") if key.startswith("areas/s/")])
    again.sync()
    assert again.list("areas/s/") == []
    assert opened().damaged == []


def test_a_flipped_bit_of_a_record_head_hides_the_record(directory, opened):
    """Which bits are noticed is tested with the format; here, that opening asks."""
    save = opened()
    save.put("sets/a/0", [b"x" * 100])
    offset = offset_of(save, "sets/a/0")
    save.close()
    path = directory / "sets"
    original = path.read_bytes()[offset : offset + SECTOR_BYTES]
    assert original.startswith(RECORD_MAGIC)
    for at in range(0, 72, 9):
        damage(path, offset + at, bytes([original[at] ^ 1 << at % 8]))
        assert keys(opened()) == []
        damage(path, offset, original)
    assert keys(opened()) == ["sets/a/0"]


@pytest.mark.parametrize("copy", [0, SECTOR_BYTES])
def test_either_copy_of_a_segment_head_may_rot(directory, opened, copy):
    save = opened()
    save.put("sets/a/0", [b"x"])
    segment = save._of("sets/a/0").find("sets/a/0").segment.start
    save.close()
    damage(directory / "sets", segment + copy, bytes(SECTOR_BYTES))
    assert bytes(opened().get("sets/a/0")) == b"x"


def test_a_rotten_cell_is_found(directory, opened):
    save = opened()
    save.swap("root", b"a value that is long enough", 0)
    save.close()
    path = directory / "cells.sqlite3"
    at = path.read_bytes().index(b"a value that")
    damage(path, at, b"b")
    again = opened()
    with pytest.raises(CorruptRecordError, match="root"):
        again.load("root")
    assert [found.split(":")[0] for found in scrub(again)] == ["root"]


@pytest.mark.parametrize("data", [b"", b"{}", b"not json", b"\xff\xfe"])
def test_a_rotten_format_file_is_refused(directory, opened, data):
    opened().close()
    (directory / "format.json").write_bytes(data)
    with pytest.raises(CorruptRecordError, match="format"):
        opened()


def test_a_layout_of_another_version_or_of_no_capacity_is_refused():
    with pytest.raises(InvalidArgumentError):
        plan(1 << 19, 1)
    with pytest.raises(CorruptRecordError, match="version 2"):
        decode_layout(b'{"version":2,"identity":1,"capacity_bytes":1,"partitions":{}}', "here")
    with pytest.raises(CorruptRecordError, match="capacity"):
        decode_layout(b'{"version":1,"identity":1,"capacity_bytes":33554432,"partitions":{}}', "here")


@pytest.mark.parametrize("capacity", [1 << 20, 32 << 20, 1 << 30, 1 << 40])
def test_quotas_are_within_the_capacity_and_waste_little(capacity):
    layouts = plan(capacity, 1).partitions
    assert 0.98 * capacity < sum(layout.size_bytes for layout in layouts.values()) <= capacity
    assert all(layout.segment_bytes >= layout.slot_bytes for layout in layouts.values())
