"""A limit of bandwidth and requests holds, on a clock that only the test moves."""

from __future__ import annotations

import threading
from datetime import UTC, timedelta, timezone

import pytest

from replkit.errors import InvalidArgumentError
from replkit.objectstore.memory import MemoryObjectStore
from replkit.objectstore.throttled import BURST_S, Bandwidth, Slots, ThrottledStore, parse_limit
from replkit.testing.runtime import ManualRuntime, ThreadRuntime

MIB = 1 << 20
MIDNIGHT_S = 1_700_006_400.0  # 2023-11-15 00:00 UTC


def clock(hour=12.0):
    return ManualRuntime(MIDNIGHT_S + hour * 3600, waits_advance=True)


def taken_s(runtime, work):
    begun_s = runtime.monotonic()
    work()
    return runtime.monotonic() - begun_s


def store_with(runtime, limit, **options):
    bandwidth = Bandwidth(parse_limit(limit), runtime, options.get("zone", UTC))
    return ThrottledStore(MemoryObjectStore(), up=bandwidth, down=bandwidth)


def put_all(store, count, size=MIB):
    for number in range(count):
        store.put(f"data/{number}", [bytes(size - 10), b"0123456789"])


def test_puts_take_the_time_that_the_limit_gives_them():
    runtime = clock()
    store = store_with(runtime, "2MiB/s")
    assert taken_s(runtime, lambda: put_all(store, 21)) == pytest.approx(10, abs=0.01)  # the first one goes at once


def test_gets_take_the_time_that_the_limit_gives_them():
    runtime = clock()
    inner = MemoryObjectStore()
    inner.put("a", [bytes(MIB)])
    store = ThrottledStore(inner, down=Bandwidth(parse_limit("512KiB/s"), runtime, UTC))
    assert taken_s(runtime, lambda: [store.get("a") for _ in range(6)]) == pytest.approx(10, abs=0.01)
    assert taken_s(runtime, lambda: store.put("b", [bytes(MIB)])) == 0  # the other direction is free


def test_a_pause_saves_up_a_short_burst_only():
    runtime = clock()
    store = store_with(runtime, "1MiB/s")
    put_all(store, 1)
    runtime.advance(1000)
    assert taken_s(runtime, lambda: put_all(store, 11)) == pytest.approx(10 - BURST_S, abs=0.01)


def test_a_limit_holds_in_its_window_only():
    runtime = clock(hour=7.99)
    store = store_with(runtime, "1MiB/s@08:00-18:00")
    assert taken_s(runtime, lambda: put_all(store, 100)) == 0
    runtime.advance(0.02 * 3600)
    assert taken_s(runtime, lambda: put_all(store, 11)) == pytest.approx(10 - BURST_S, abs=0.01)
    runtime.advance(10 * 3600)
    assert taken_s(runtime, lambda: put_all(store, 100)) == 0


def test_who_waits_goes_when_the_window_ends():
    runtime = clock(hour=17.5)
    store = store_with(runtime, "1KiB/s@08:00-18:00")
    put_all(store, 1, 100 * MIB)
    assert taken_s(runtime, lambda: put_all(store, 2)) == pytest.approx(1800, abs=0.01)


def test_another_rate_pays_what_is_owed_from_its_first_second():
    runtime = clock(hour=17 + 59 / 60)
    store = store_with(runtime, "1MiB/s@08:00-18:00,10MiB/s")
    put_all(store, 1, 160 * MIB)  # 60 in the last minute, the rest at 10 MiB/s
    assert taken_s(runtime, lambda: put_all(store, 1)) == pytest.approx(70, abs=0.1)


def test_a_window_may_go_past_midnight_and_is_in_the_zone_of_its_place():
    for zone, hour in ((UTC, 23.5), (UTC, 5.5), (timezone(timedelta(hours=-3)), 2.0)):
        runtime = clock(hour)
        store = store_with(runtime, "1MiB/s@22:00-06:00", zone=zone)
        assert taken_s(runtime, lambda store=store: put_all(store, 11)) == pytest.approx(10, abs=0.01)
    runtime = clock(12)
    assert taken_s(runtime, lambda: put_all(store_with(runtime, "1MiB/s@22:00-06:00"), 11)) == 0


def test_cells_never_wait_and_are_paid_by_the_others():
    runtime = clock()
    store = store_with(runtime, "1MiB/s")
    put_all(store, 1, 10 * MIB)

    def swap():
        for key in ("cells/1/root/1", "own/cells/1/owner/1", "hints/1/root", "holds/1"):
            store.put_new(key, bytes(MIB))
            store.get(key, 0, 1)

    assert taken_s(runtime, swap) == 0
    assert taken_s(runtime, lambda: put_all(store, 1)) == pytest.approx(14, abs=0.01)


def test_many_threads_share_one_limit():
    runtime = ThreadRuntime()
    bandwidth = Bandwidth(parse_limit("40MiB/s"), runtime, UTC)
    begun_s = runtime.monotonic()
    threads = [threading.Thread(target=lambda: [bandwidth.take(MIB) for _ in range(6)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert runtime.monotonic() - begun_s >= 22 / 40  # 24 MiB, of which the last one does not wait for itself


def test_no_more_requests_at_a_time_than_there_are_slots():
    entered, leave, at_work = threading.Semaphore(0), threading.Event(), []

    class Slow(MemoryObjectStore):
        def put(self, key, parts):
            at_work.append(key)
            entered.release()
            leave.wait(60)
            super().put(key, parts)

    store = ThrottledStore(Slow(), slots=Slots(3, ThreadRuntime()))
    threads = [threading.Thread(target=store.put, args=(f"a/{number}", [b"x"])) for number in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        assert entered.acquire(timeout=60)
    assert not entered.acquire(timeout=0.05)
    assert len(at_work) == 3
    leave.set()
    for thread in threads:
        thread.join()
    assert len(list(store.list(""))) == 8


def test_a_listing_that_is_not_read_on_and_a_failing_request_hold_no_slot():
    store = ThrottledStore(MemoryObjectStore(), slots=Slots(1, ThreadRuntime()))
    put_all(store, 3, 20)
    listing = store.list("")
    next(listing)
    with pytest.raises(InvalidArgumentError):
        store.put("a", [b""])
    assert len(store.get("data/1")) == 20
    assert len(list(listing)) == 2


@pytest.mark.parametrize(
    "text",
    ["", "20", "20MB/s", "0MiB/s", "-1MiB/s", "1MiB/s@8:00-18:00", "1MiB/s@25:00-18:00", "1MiB/s@08:00", "1MiB/s,"],
)
def test_what_is_no_limit_is_refused(text):
    with pytest.raises(InvalidArgumentError, match="20MiB/s@08:00-18:00"):
        parse_limit(text)


def test_a_window_to_the_end_of_the_day():
    limit = parse_limit("1.5KiB/s@20:00-24:00")
    assert [limit.at(hour * 3600)[0] for hour in (0, 19.9, 20, 23.9)] == [None, None, 1536, 1536]
