"""Requests and bytes are counted by kind, and the counts outlive the process."""

from __future__ import annotations

import pytest

from replkit.errors import CorruptRecordError, RecordMissingError, StoreUnavailableError
from replkit.objectstore.cells import CellStore
from replkit.objectstore.memory import MemoryObjectStore
from replkit.objectstore.metered import USAGE_CELL, MeteredStore, decode_usage
from replkit.testing.runtime import ManualRuntime

MIDNIGHT_S = 1_700_006_400.0  # 2023-11-15 00:00 UTC


class World:
    """A bucket and a clock; each opener keeps its usage in the bucket, as an opener of ``s3:`` does."""

    def __init__(self):
        self.objects = {}
        self.runtime = ManualRuntime(MIDNIGHT_S + 3600)

    def open(self, *, keeps=True, inner=None):
        store = MeteredStore(inner or MemoryObjectStore("bucket:", self.objects), self.runtime)
        if keeps:
            store.keep_in(CellStore(store, "own", self.runtime.random_bytes))
        return store

    def saved(self):
        cells = CellStore(MemoryObjectStore("bucket:", self.objects), "own", self.runtime.random_bytes)
        return decode_usage(cells.load(USAGE_CELL).value, "test").as_dict()

    def versions(self):
        return sum(key.startswith("own/cells/") for key in self.objects)


@pytest.fixture
def world():
    return World()


def test_requests_and_bytes_are_counted_by_kind(world):
    store = world.open(keeps=False)
    store.put("a", [b"12345", b"67"])
    store.put_new("b", b"123")
    store.get("a", 2, 4)
    list(store.list(""))
    store.delete(["a", "b"])
    with pytest.raises(RecordMissingError):
        store.get("a")
    today = {
        "bytes_got": 2, "bytes_put": 10, "delete_requests": 1, "get_requests": 1, "list_requests": 1,
        "put_new_requests": 1, "put_requests": 1,
    }  # fmt: skip
    assert store.usage() == {"since": "2023-11-15", "day": "2023-11-15", "today": today, "total": today}


def test_a_store_that_counts_itself_is_believed(world):
    counts = {"get requests": 7, "bytes got": 70}

    class Counting(MemoryObjectStore):
        requests = counts

    store = MeteredStore(Counting(), world.runtime)
    store.put("a", [b"x"])
    assert store.usage()["today"] == {"bytes_got": 70, "get_requests": 7}
    counts["get requests"] = 9
    assert store.usage()["total"] == {"bytes_got": 70, "get_requests": 9}


def test_usage_is_saved_at_most_once_a_minute(world):
    store = world.open()
    for _ in range(59):
        store.put("a", [b"x"])
        world.runtime.advance(1)
    assert world.versions() == 0
    for _ in range(2):
        store.put("a", [b"x"])
        world.runtime.advance(1)
    assert world.versions() == 1
    assert world.saved()["total"]["put_requests"] == 61
    for _ in range(120):
        store.put("a", [b"x"])
        world.runtime.advance(1)
    assert world.versions() == 3


def test_openers_one_after_another_and_at_once_add_up(world):
    first, second = world.open(), world.open()
    for _ in range(5):
        first.put("a", [b"xx"])
        second.put("a", [b"xx"])
    first.save()
    second.save()
    first.put("a", [b"xx"])
    first.close()
    second.close()
    third = world.open()
    third.put("a", [b"xx"])
    third.close()
    saved = world.saved()["total"]
    assert saved["put_requests"] == 12
    assert world.open().usage()["total"] == {}  # nothing is read before it is needed
    assert saved["bytes_put"] > 24  # its own cell counts too


def test_a_new_day_begins_at_nothing_and_the_total_goes_on(world):
    store = world.open()
    for _ in range(3):
        store.put("a", [b"x"])
    world.runtime.advance(86_400)
    # Seen only now, and so counted on the day on which it is seen.
    assert store.usage()["today"] == {"bytes_put": 3, "put_requests": 3}
    world.runtime.advance(86_400)
    store.put("a", [b"x"])
    usage = store.usage()
    assert usage["day"] == "2023-11-17"
    assert usage["today"]["put_requests"] == 1
    assert usage["total"]["put_requests"] == 4
    store.close()
    assert (world.saved()["day"], world.saved()["since"]) == ("2023-11-17", "2023-11-16")


def test_what_cannot_be_saved_is_saved_later_and_never_fails_the_call(world):
    class Away(MemoryObjectStore):
        is_away = False

        def put_new(self, key, data):
            if self.is_away:
                raise StoreUnavailableError("away")
            super().put_new(key, data)

    inner = Away("bucket:", world.objects)
    store = world.open(inner=inner)
    inner.is_away = True
    store.put("a", [b"x"])
    world.runtime.advance(61)
    store.put("a", [b"x"])
    assert world.versions() == 0
    assert store.usage()["total"]["put_requests"] == 2
    inner.is_away = False
    world.runtime.advance(61)
    store.put("a", [b"x"])
    assert world.saved()["total"]["put_requests"] == 3


def test_a_store_that_is_away_is_not_asked_again_at_close(world):
    class Gone(MemoryObjectStore):
        calls = 0

        def get(self, key, start=0, stop=None):
            self.calls += 1
            raise StoreUnavailableError("gone")

    inner = Gone("bucket:", world.objects)
    store = world.open(inner=inner)
    store.put("a", [b"x"])
    with pytest.raises(StoreUnavailableError):
        store.get("a")
    store.close()
    assert inner.calls == 1


def test_damaged_usage_is_named():
    for value in (b"{", b'{"format": 9}', b'{"today": 3}'):
        with pytest.raises(CorruptRecordError, match="the cell: its usage"):
            decode_usage(value, "the cell")
