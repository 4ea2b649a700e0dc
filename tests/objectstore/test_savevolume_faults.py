"""The save volume in a bucket after crashes, takeovers and faults of the store: nothing that was synced is lost."""

import random

import pytest

from replkit.errors import (
    CorruptRecordError,
    FencedError,
    SaveVolumeBusyError,
    StoreUnavailableError,
    SwapConflictError,
)
from replkit.objectstore.journal import OWN_PREFIX
from replkit.objectstore.uploads import MAX_PENDING_BYTES


class Crash(BaseException):
    """The process ends here."""


def test_a_living_producer_keeps_others_out_and_a_dead_one_does_not(bucket):
    first = bucket.open()
    first.put("sets/a/0", [b"data"])
    first.sync()
    with pytest.raises(SaveVolumeBusyError, match="machine-0"):
        bucket.open()
    first.host.kill()
    assert bytes(bucket.open().get("sets/a/0")) == b"data"


@pytest.mark.requirement("S1", "S2")
def test_whoever_takes_over_fences_the_producer_before(bucket):
    old = bucket.open()
    old.put("sets/a/0", [b"synced"])
    old.sync()
    old.swap("root", b"old", 0)
    old.put("sets/a/1", [b"not synced"])
    new = bucket.open(takeover=True)
    assert new.list("") == ["sets/a/0"]
    with pytest.raises(FencedError, match="machine-1"):
        old.swap("root", b"late", 1)
    for call in (old.sync, lambda: old.put("sets/a/2", [b"x"]), lambda: old.delete(["sets/a/0"])):
        with pytest.raises(FencedError):
            call()
    old.close()
    assert new.load("root").value == b"old"
    assert new.swap("root", b"new", 1) == 2
    new.put("sets/a/1", [b"mine"])
    new.sync()
    reader = bucket.open(producer=False)
    assert [bytes(reader.get(key)) for key in reader.list("")] == [b"synced", b"mine"]
    with pytest.raises(SaveVolumeBusyError):
        bucket.open()


@pytest.mark.parametrize("call", range(1, 6))
def test_a_takeover_at_any_call_of_a_sync_lets_all_of_it_through_or_nothing(bucket, call):
    calls, taken = [0], []

    def take_over(operation, key):
        calls[0] += 1
        if armed and calls[0] == call:
            armed.clear()
            taken.append(bucket.open(takeover=True))

    armed = []
    old = bucket.open(before_call=take_over)
    for number in range(3):
        old.put(f"sets/a/{number}", [b"data %d" % number])
    armed.append(True)
    calls[0] = 0
    fenced = False
    try:
        old.sync()
    except FencedError:
        fenced = True
    if not taken:
        assert not fenced
        return
    assert taken[0].list("") == ([] if fenced else [f"sets/a/{number}" for number in range(3)])
    taken[0].put("sets/b/0", [b"new"])
    taken[0].sync()
    with pytest.raises(FencedError):
        old.swap("root", b"late", 0)
    with pytest.raises(FencedError):
        old.sync()
    assert bytes(bucket.open(producer=False).get("sets/b/0")) == b"new"


def test_garbage_of_the_dead_is_collected_and_nothing_of_those_who_came_later(bucket):
    def die(operation, key):
        if operation == "put_new" and dying:
            raise Crash

    dying = []
    first = bucket.open(before_call=die)
    dying.append(True)
    first.put("sets/a/0", [b"never published"])
    with pytest.raises(Crash):
        first.sync()
    assert len(bucket.keys("bundles/")) == 1
    later = []

    def be_overtaken(operation, key):
        if operation == "list" and key == "bundles/" and not later:
            later.append(bucket.open(takeover=True))
            later[0].put("sets/c/0", [b"of the third"])
            later[0].sync()

    second = bucket.open(before_call=be_overtaken, takeover=True)
    with pytest.raises(FencedError):
        second.swap("root", b"late", 0)
    assert bytes(later[0].get("sets/c/0")) == b"of the third"
    assert len(bucket.keys("bundles/")) == 1


def test_what_a_fenced_producer_uploads_late_is_collected_at_the_next_opening(bucket):
    old = bucket.open()
    new = bucket.open(takeover=True)
    old.put("sets/a/0", [bytes(9 << 20)])  # full: uploaded at once, and never published
    assert len(bucket.keys("bundles/")) == 1
    new.close()
    heir = bucket.open()
    assert bucket.keys("bundles/") == heir.list("") == []
    for _ in range(3):  # and the list of producers that are gone does not grow for ever
        heir.close()
        heir = bucket.open()
    assert len(heir._journal.value.writers) == 2


def test_memory_stays_bounded_while_the_store_is_away(bucket):
    save = bucket.open(rate=1)
    save.flaky.faults, data = frozenset({"unavailable"}), bytes(1 << 20)
    taken = [f"sets/a/{number:03d}" for number in range(MAX_PENDING_BYTES // len(data) + 1)]
    for key in taken:
        save.put(key, [data])
    with pytest.raises(StoreUnavailableError):
        save.put("sets/a/one-more", [data])
    assert save.list("") == taken
    save.flaky.faults = frozenset()
    save.put("sets/b/0", [b"again"])
    save.sync()
    assert bucket.open(producer=False).list("") == [*taken, "sets/b/0"]


def use(save, model, chance, step):
    """One random step; ``model`` holds what must be there, ``maybe`` what may."""
    synced, maybe = model
    kind = chance.choice(["put", "put", "put", "delete", "sync", "swap"])
    if kind == "put":
        key = f"{chance.choice(['sets', 'areas', 'lists'])}/k{chance.randrange(4)}/{step:04d}"
        data = chance.randbytes(chance.choice([0, 10, 3000, 400_000]))
        maybe[key] = data
        save.put(key, [data])
    elif kind == "delete" and maybe:
        key = chance.choice(sorted(maybe))
        synced.pop(key, None)
        save.delete([key])
        model[2][key] = maybe.pop(key)
    elif kind == "sync":
        before, gone = dict(maybe), set(model[2])
        save.sync()
        synced.update(before)
        for key in gone:
            del model[2][key]
    elif kind == "swap":
        save.swap("root", b"%d" % step, save.load("root").version)


class Model(tuple):
    """``synced``, ``there now``, ``deleted and not synced``."""

    __slots__ = ()

    def __iter__(self):
        return iter(self[:2])


def check(save, model):
    synced, there, deleted = model[0], model[1], model[2]
    found = set(save.list(""))
    assert set(synced) <= found
    assert found <= set(there) | set(deleted)
    for key in found:
        assert bytes(save.get(key)) == (there.get(key) if key in there else deleted[key])


@pytest.mark.parametrize("seed", range(40))
def test_after_a_crash_at_any_call_all_that_was_synced_is_there_and_no_garbage(bucket, seed):
    chance, model = random.Random(seed), Model(({}, {}, {}))
    for _ in range(4):
        calls_left = [chance.randrange(1, 60)]

        def die(operation, key, left=calls_left):
            left[0] -= 1
            if left[0] <= 0:
                raise Crash

        try:
            save = bucket.open(before_call=die, capacity_bytes=64 << 20, seed=seed)
            for step in range(200):
                use(save, model, chance, 1000 * len(bucket.hosts) + step)
        except Crash:
            pass
        bucket.kill_all()
        heir = bucket.open(capacity_bytes=64 << 20, seed=seed)
        check(heir, model)
        reader = bucket.open(producer=False)
        assert reader.list("") == heir.list("")
        needed = {place.bundle for _, place in heir._live.items()}
        assert {key.removeprefix("bundles/") for key in bucket.keys("bundles/")} == needed
        found = {key: bytes(heir.get(key)) for key in heir.list("")}
        model = Model((dict(found), dict(found), {}))
        heir.close()


@pytest.mark.parametrize("seed", range(40))
def test_a_store_that_fails_now_and_then_loses_nothing(bucket, seed):
    chance, model = random.Random(seed), Model(({}, {}, {}))

    def stubborn(call):
        for _ in range(300):
            try:
                return call()
            except (StoreUnavailableError, CorruptRecordError):
                continue
            except SwapConflictError:
                return None
        raise AssertionError("the store never recovered")

    save = stubborn(lambda: bucket.open(
        rate=chance.choice([0.02, 0.1, 0.2]), seed=100 * seed + len(bucket.hosts), takeover=True,
        faults=("timeout", "unavailable", "short body", "stale list", "duplicate put"),
    ))  # fmt: skip
    for step in range(120):  # put and delete cannot fail: they make no request
        if chance.random() < 0.3:
            stubborn(save.sync)
            stubborn(lambda: save.swap("root", b"x", save.load("root").version))
        elif model[1] and chance.random() < 0.4:
            key = chance.choice(sorted(model[1]))
            del model[1][key]
            save.delete([key])
        else:
            key, data = f"sets/k{step % 5}/{step}", chance.randbytes(chance.choice([0, 10, 3000, 900_000]))
            model[1][key] = data
            save.put(key, [data])
            assert bytes(stubborn(lambda key=key: save.get(key))) == data
    stubborn(save.sync)
    save.flaky.faults = frozenset()
    check(save, Model((dict(model[1]), model[1], {})))
    assert sum(save.flaky.happened.values())
    save.close()
    heir = bucket.open()
    assert {key: bytes(heir.get(key)) for key in heir.list("")} == model[1]
    assert all(key.startswith((OWN_PREFIX, "bundles", "index", "cells", "hints")) for key in bucket.objects)
