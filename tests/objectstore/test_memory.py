"""The object store in memory keeps the contract, also through each layer; real ones do so in tests/backends."""

import os
import threading

import pytest

from replkit.errors import AlreadyExistsError, InvalidArgumentError, RecordMissingError
from replkit.objectstore.encrypted import EncryptedStore
from replkit.objectstore.keys import KeyRing, new_key
from replkit.objectstore.memory import MemoryObjectStore
from replkit.objectstore.metered import MeteredStore
from replkit.objectstore.throttled import Bandwidth, Slots, ThrottledStore, parse_limit
from replkit.testing.runtime import ThreadRuntime

KEYS = KeyRing([new_key(bytes(range(32)), 0.0)])
RUNTIME = ThreadRuntime()
LAYERS = {
    "plain": lambda inner: inner,
    "encrypted": lambda inner: EncryptedStore(inner, KEYS, os.urandom),
    "throttled": lambda inner: ThrottledStore(
        inner, up=Bandwidth(parse_limit("1GiB/s"), RUNTIME), slots=Slots(2, RUNTIME)
    ),
    "metered": lambda inner: MeteredStore(inner, RUNTIME),
}


@pytest.fixture(params=LAYERS)
def store(request):
    return LAYERS[request.param](MemoryObjectStore())


def test_an_object_comes_back_whole_and_in_ranges(store):
    store.put("a/b", [b"0123", bytearray(b"45"), memoryview(b"6789")])
    assert store.get("a/b") == b"0123456789"
    assert (store.get("a/b", 3, 5), store.get("a/b", 8, 100), store.get("a/b", 20)) == (b"34", b"89", b"")


def test_what_is_absent_says_so_and_deleting_it_is_harmless(store):
    store.delete(["a", "b"])
    with pytest.raises(RecordMissingError):
        store.get("a")


def test_one_of_many_creators_wins(store):
    wins, barrier = [], threading.Barrier(8)

    def create(me):
        for number in range(50):
            barrier.wait()
            try:
                store.put_new(f"race/{number}", b"%d" % me)
                wins.append((number, me))
            except AlreadyExistsError:
                continue

    threads = [threading.Thread(target=create, args=(me,)) for me in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for number, _ in wins) == list(range(50))
    assert all(store.get(f"race/{number}") == b"%d" % me for number, me in wins)
    same = b"same bytes"
    store.put_new("same", same)
    with pytest.raises(AlreadyExistsError):
        store.put_new("same", same)


@pytest.mark.parametrize("key", ["", "A", "a//b", "/a", "a/", "a b", "a/../b", "x" * 201, "/".join(["x" * 100] * 10)])
def test_a_key_that_some_store_would_not_take_is_refused(store, key):
    for call in (lambda: store.put(key, [b"x"]), lambda: store.put_new(key, b"x"), lambda: store.get(key)):
        with pytest.raises(InvalidArgumentError):
            call()


def test_an_empty_object_is_refused(store):
    for call in (lambda: store.put("a", [b""]), lambda: store.put_new("a", b"")):
        with pytest.raises(InvalidArgumentError):
            call()
