"""The save volume in a bucket: what it costs, what goes and stays, and how readers keep up."""

import random

import pytest

from replkit.contracts.savevolume import Partition
from replkit.errors import CorruptRecordError, RecordMissingError
from replkit.objectstore.bundle import MAX_BYTES, decode_table
from replkit.objectstore.journal import LOG_BYTES


def counted(bucket, calls, **options):
    return bucket.open(before_call=lambda call, key: calls.append((call, key.split("/")[0])), **options)


def put_set(save, name, chunk, *, lists=2):
    save.put(f"sets/{name}/0", [chunk])
    for number in range(lists):
        save.put(f"lists/{name}/{number}", [f"{name} {number}".encode() * 20])


@pytest.mark.requirement("S1")
def test_a_small_set_is_one_object_and_one_swap(bucket):
    calls = []
    save = counted(bucket, calls)
    calls.clear()
    put_set(save, "a", b"chunk" * 1000)
    assert calls == []
    save.sync()
    assert calls == [("put", "bundles"), ("put_new", "own"), ("get", "own")]
    assert len(bucket.keys("bundles/")) == 1
    calls.clear()
    save.sync()
    assert calls == []


@pytest.mark.requirement("S2")
def test_a_reader_follows_without_a_list(bucket):
    calls, save = [], bucket.open()
    reader = counted(bucket, calls, producer=False)
    for number in range(100):
        put_set(save, f"s{number}", b"x" * 5000)
        save.sync()
        assert reader.list(f"sets/s{number}") == [f"sets/s{number}/0"]
        assert bytes(reader.get(f"sets/s{number}/0")) == b"x" * 5000
    late = counted(bucket, calls, producer=False)
    assert late.list("") == save.list("")
    assert "list" not in {call for call, _ in calls}
    calls.clear()
    reader.list("")
    assert calls == [("get", "own")] * 2


def test_a_reader_that_was_told_by_a_cell_finds_the_record_under_a_key_used_again(bucket):
    save, reader = bucket.open(), bucket.open(producer=False)
    save.put("areas/s/0", [b"first"])
    save.sync()
    assert bytes(reader.get("areas/s/0")) == b"first"
    save.delete(["areas/s/0"])
    save.put("areas/s/0", [b"second"])
    save.sync()
    save.swap("root", b"it is there", 0)
    assert reader.load("root").value == b"it is there"
    assert bytes(reader.get("areas/s/0")) == b"second"


def test_a_bundle_is_full_at_8_mib_and_only_a_larger_record_makes_a_larger_one(bucket):
    save = bucket.open()
    for number in range(40):
        save.put(f"sets/a/{number:02d}", [random.Random(number).randbytes(1 << 20)])
    save.put("sets/b/0", [bytes(20 << 20)])
    save.sync()
    sizes = sorted(len(bucket.objects[key]) for key in bucket.keys("bundles/"))
    assert sizes[-1] > 20 << 20
    assert all((8 << 20) < size <= MAX_BYTES for size in sizes[:-1])
    assert len(sizes) == 6


@pytest.mark.requirement("S1")
def test_the_bucket_stays_near_to_what_is_in_use(bucket):
    """Chunks go, lists stay: what is left of a bundle is moved, and tiny bundles are joined."""
    save, reader, chance = bucket.open(capacity_bytes=64 << 20), bucket.open(producer=False), random.Random(1)
    for number in range(400):
        put_set(save, f"{number:03d}", chance.randbytes(chance.choice([100, 30_000, 300_000])), lists=1)
        save.sync()
        if number >= 5:
            save.delete([f"sets/{number - 5:03d}/0"])
    save.sync()
    live = sum(save.used_bytes(partition) for partition in Partition)
    stored = sum(len(bucket.objects[key]) for key in bucket.keys("bundles/"))
    assert stored < 2.5 * live + (1 << 20)
    assert len(bucket.keys("bundles/")) < 60
    assert len(bucket.keys("index/")) <= 1
    assert len(bucket.keys("own/")) < 20
    assert reader.list("") == save.list("")
    for number in range(400):
        assert bytes(reader.get(f"lists/{number:03d}/0")) == f"{number:03d} 0".encode() * 20


def test_the_journal_stays_small_and_a_reader_that_was_away_catches_up(bucket):
    save, reader = bucket.open(), bucket.open(producer=False)
    for number in range(300):
        save.put(f"areas/s/{number:04d}", [b"%d" % number])
        save.put(f"lists/s/{number:04d}-{'x' * 100}", [b"%d" % number])
        save.sync()
    assert save._journal.value.checkpoint is not None
    assert max(len(bucket.objects[key]) for key in bucket.keys("own/")) < 2 * LOG_BYTES
    for one in (reader, bucket.open(producer=False)):
        assert one.list("") == save.list("")
        assert all(bytes(one.get(f"areas/s/{number:04d}")) == b"%d" % number for number in range(300))


def test_one_publication_larger_than_the_log_goes_into_the_checkpoint(bucket):
    save, reader = bucket.open(), bucket.open(producer=False)
    for number in range(4000):
        save.put(f"areas/s/{number:04d}", [b"x"])
    save.sync()
    assert reader.list("") == save.list("")
    assert save._journal.value.entries == []
    save.put("areas/t/0", [b"after"])
    save.sync()
    assert bytes(reader.get("areas/t/0")) == b"after"


def test_what_was_put_and_not_synced_reaches_readers_soon(bucket):
    save, reader = bucket.open(), bucket.open(producer=False)
    save.put("sets/a/0", [b"early"])
    assert reader.list("") == []
    save.flush_idle()  # what the backend calls each few seconds
    assert bytes(reader.get("sets/a/0")) == b"early"


def test_a_record_that_is_deleted_before_it_was_uploaded_costs_no_request(bucket):
    calls = []
    save = counted(bucket, calls)
    calls.clear()
    for number in range(7):
        save.put(f"sets/{number}/0", [bytes(1 << 20)])
        save.delete([f"sets/{number}/0"])
    save.sync()
    assert calls == []


def test_a_lost_object_is_damage_and_not_a_trimmed_record(bucket):
    save, reader = bucket.open(), bucket.open(producer=False)
    save.put("sets/a/0", [b"data"])
    save.sync()
    assert bytes(reader.get("sets/a/0")) == b"data"
    (key,) = bucket.keys("bundles/")
    del bucket.objects[key]
    for one in (save, reader):
        with pytest.raises(CorruptRecordError, match=key):
            one.get("sets/a/0")
        with pytest.raises(RecordMissingError):
            one.get("sets/b/0")


def test_a_damaged_bundle_is_not_moved_and_stays_to_be_found(bucket):
    save = bucket.open()
    put_set(save, "a", random.Random(1).randbytes(2 << 20))
    save.sync()
    save.close()
    save = bucket.open()  # one that has none of it in memory
    (key,) = bucket.keys("bundles/")
    rotten = bytearray(bucket.objects[key])
    rotten[rotten.index(b"a 0a 0")] ^= 1
    bucket.objects[key] = bytes(rotten)
    save.delete(["sets/a/0"])
    for number in range(3):
        save.put(f"lists/b/{number}", [b"x"])
        save.sync()
    with pytest.raises(CorruptRecordError, match=key):
        save.get("lists/a/0")
    assert bytes(save.get("lists/a/1")) == b"a 1" * 20


def test_a_bundle_can_be_read_without_the_journal_and_each_damaged_byte_of_its_frame_is_found(bucket):
    save = bucket.open()
    put_set(save, "a", b"chunk")
    save.sync()
    (key,) = bucket.keys("bundles/")
    data, identity = bucket.objects[key], save._journal.value.identity
    table = decode_table(key, data, identity)
    assert [name for name, *_ in table] == ["sets/a/0", "lists/a/0", "lists/a/1"]
    for name, offset, size, _ in table:
        assert data[offset : offset + size] == bytes(save.get(name))
    records_end = max(offset + size for _, offset, size, _ in table)
    for place in [*range(24), *range(records_end, len(data))]:
        with pytest.raises(CorruptRecordError):
            decode_table(key, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], identity)
    with pytest.raises(CorruptRecordError):
        decode_table(key, data[:-1], identity)
