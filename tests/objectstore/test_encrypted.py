"""Objects that are encrypted before they leave: what a bucket can do to them is noticed, and costs are as said."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replkit.backends.s3.host import ThreadHost
from replkit.contracts.registry import SaveVolumeOptions
from replkit.contracts.scrub import scrub
from replkit.contracts.volume import Capability
from replkit.errors import CorruptRecordError, InvalidArgumentError, KeyMissingError, ReplkitError, SwapConflictError
from replkit.objectstore.cells import CellStore
from replkit.objectstore.encrypted import HEAD_FETCH_BYTES, EncryptedStore
from replkit.objectstore.keys import KeyRing, new_key, parse_keys
from replkit.objectstore.memory import MemoryObjectStore
from replkit.objectstore.opening import open_save_volume
from replkit.objectstore.sealing import SEGMENT_BYTES, TAG_BYTES
from replkit.objectstore.volume_open import open_object_volume
from replkit.testing.flaky_store import FlakyStore
from replkit.testing.objectstore_host import InlineHost
from replkit.testing.runtime import ManualRuntime, ThreadRuntime
from replkit.testing.savevolume_suite import SaveVolumeSuite, SaveVolumeWorld
from replkit.testing.volume_suite import VolumeSuite, VolumeWorld

FIRST, SECOND = new_key(b"1" * 32, 0.0), new_key(b"2" * 32, 1.0)
KEYS = KeyRing([FIRST], "test.keys")
NOISE = random.Random(5).randbytes(5 * SEGMENT_BYTES + 77)
TEXT = b"The same words, over and over again. " * 10_000
RAW_HEAD = 40 + TAG_BYTES
STRIDE = SEGMENT_BYTES + TAG_BYTES


class Watched(MemoryObjectStore):
    """Notes how much each get asked for."""

    def __init__(self, objects=None):
        super().__init__("bucket:", objects)
        self.gets = []

    def get(self, key, start=0, stop=None):
        data = super().get(key, start, stop)
        self.gets.append((start, len(data)))
        return data


@pytest.fixture
def inner():
    return Watched()


@pytest.fixture
def store(inner):
    return EncryptedStore(inner, KEYS, os.urandom)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), content=st.sampled_from([NOISE, TEXT, NOISE[:3] + TEXT[:70_000] + NOISE, b"x", TEXT[:65536]]))
def test_every_range_is_what_a_slice_would_be(data, content):
    inner = Watched()
    EncryptedStore(inner, KEYS, os.urandom).put("a", [content])
    reader = EncryptedStore(inner, KEYS, os.urandom)
    place = st.one_of(st.integers(0, len(content) + 5), st.sampled_from([0, SEGMENT_BYTES, 2 * SEGMENT_BYTES]))
    for _ in range(4):
        start, stop = data.draw(place), data.draw(st.none() | place)
        assert reader.get("a", start, stop) == content[start:stop]


def test_a_range_fetches_and_decrypts_only_its_segments(inner, store):
    store.put("a", [random.Random(1).randbytes(32 * SEGMENT_BYTES)])
    reader = EncryptedStore(inner, KEYS, os.urandom)
    reader.get("a", 10 * SEGMENT_BYTES + 5, 10 * SEGMENT_BYTES + 4101)
    assert inner.gets == [(0, HEAD_FETCH_BYTES), (RAW_HEAD + 10 * STRIDE, STRIDE)]
    reader.get("a", 20 * SEGMENT_BYTES - 1, 20 * SEGMENT_BYTES + 1)
    assert inner.gets[2:] == [(RAW_HEAD + 19 * STRIDE, 2 * STRIDE)]  # the header is remembered
    other = EncryptedStore(inner, KEYS, os.urandom)
    other.get("a", 0, 100)
    assert inner.gets[3:] == [(0, HEAD_FETCH_BYTES + STRIDE)]  # near the beginning: one request


def test_what_is_compressible_is_compressed_and_what_would_grow_stays_raw(inner, store):
    store.put("text", [TEXT])
    store.put("noise", [NOISE])
    store.put("mixed", [TEXT[: 2 * SEGMENT_BYTES], NOISE])
    assert len(inner.objects["text"]) < len(TEXT) // 50
    assert len(inner.objects["noise"]) == len(NOISE) + RAW_HEAD + 6 * TAG_BYTES
    assert len(inner.objects["mixed"]) < len(NOISE) + 3000
    assert store.get("mixed", 100_000) == (TEXT[: 2 * SEGMENT_BYTES] + NOISE)[100_000:]


def test_nothing_of_the_content_is_in_the_bucket_and_no_two_objects_are_alike(inner, store):
    store.put("a", [b"attack at dawn" * 3])
    store.put("b", [b"attack at dawn" * 3])
    assert b"attack" not in inner.objects["a"]
    assert inner.objects["a"][40:] != inner.objects["b"][40:]


def damages(stored, other):
    """What a bucket may do to an object: name, what is then in its place."""
    first, second = RAW_HEAD, RAW_HEAD + STRIDE
    yield "cut in the header", stored[:30]
    yield "cut in a segment", stored[:-1]
    yield "cut between segments", stored[: RAW_HEAD + 5 * STRIDE]
    yield "longer", stored + b"x"
    yield (
        "reordered",
        stored[:first] + stored[second : second + STRIDE] + stored[first:second] + stored[second + STRIDE :],
    )
    yield "spliced", stored[:first] + other[first:second] + stored[second:]
    yield "another object", other
    yield "header of another", other[:first] + stored[first:]
    yield "not encrypted", NOISE
    size = int.from_bytes(stored[32:40], "little")
    shorter = stored[:32] + (size - SEGMENT_BYTES).to_bytes(8, "little") + stored[40:-STRIDE]
    yield "a shorter size in the header", shorter
    yield "a huge size in the header", stored[:32] + (1 << 62).to_bytes(8, "little") + stored[40:]


@pytest.mark.requirement("U2")
def test_whatever_the_bucket_does_to_an_object_is_noticed_and_named(inner, store):
    store.put("d/a", [NOISE])
    store.put("d/b", [bytes(reversed(NOISE))])
    kept = inner.objects["d/a"]
    assert store.get("d/a") == NOISE
    for name, damaged in damages(kept, inner.objects["d/b"]):
        inner.objects["d/a"] = damaged
        reader = EncryptedStore(inner, KEYS, os.urandom)
        with pytest.raises(CorruptRecordError, match=r"bucket:: d/a\b"):
            pytest.fail(f"{name}: {reader.get('d/a')[:20]!r}")


def test_each_single_bit_counts(inner, store):
    store.put("a", [b"short"])
    kept = inner.objects["a"]
    for bit in range(8 * len(kept)):
        rotten = bytearray(kept)
        rotten[bit // 8] ^= 1 << bit % 8
        inner.objects["a"] = bytes(rotten)
        with pytest.raises((CorruptRecordError, KeyMissingError)):  # a changed key id names a key that is not there
            EncryptedStore(inner, KEYS, os.urandom).get("a")


def test_an_object_under_another_prefix_or_name_is_refused(inner):
    EncryptedStore(inner, KEYS, os.urandom, place="one").put("a", [b"data"])
    assert EncryptedStore(inner, KEYS, os.urandom, place="one").get("a") == b"data"
    with pytest.raises(CorruptRecordError, match="another name or prefix"):
        EncryptedStore(inner, KEYS, os.urandom, place="two").get("a")


def test_an_overwritten_object_is_read_although_its_old_header_is_remembered(inner, store):
    store.put("hint", [NOISE])
    store.get("hint", 0, 10)
    EncryptedStore(inner, KEYS, os.urandom).put("hint", [NOISE[::-1]])
    assert store.get("hint", 0, 10) == NOISE[::-1][:10]


def test_damage_on_the_way_is_read_again(inner, store):
    store.put("a", [NOISE])
    flaky = FlakyStore(inner, random.Random(2), rate=0.3, faults=["short body"])
    reader, wrong = EncryptedStore(flaky, KEYS, os.urandom), 0
    for at in range(0, len(NOISE), 10_000):
        try:
            assert reader.get("a", at, at + 5000) == NOISE[at : at + 5000]
        except CorruptRecordError:
            wrong += 1
    assert flaky.happened["short body"] > wrong


def test_new_objects_use_the_newest_key_and_old_ones_stay_readable(inner, store):
    store.put("old", [b"old"])
    rotated = EncryptedStore(inner, KeyRing([FIRST, SECOND], "both.keys"), os.urandom)
    rotated.put("new", [b"new"])
    assert (rotated.get("old"), rotated.get("new")) == (b"old", b"new")
    assert inner.objects["new"][8:16].hex() == SECOND.key_id
    with pytest.raises(KeyMissingError, match=rf"new is encrypted with key {SECOND.key_id}, which test.keys does not"):
        store.get("new")


def test_a_key_file_is_read_back_and_a_damaged_line_named_without_its_content():
    ring = KEYS.with_new(b"3" * 32, 2.0)
    text = ring.text()
    assert parse_keys(text, "f").key_ids == ring.key_ids == [FIRST.key_id, ring.newest.key_id]
    secret = text.split()[-1]
    lines = text.splitlines()
    for broken in (text.replace(secret, secret[:-4] + "AAA="), text.replace(secret, "*"), text + lines[-1], text + "x"):
        with pytest.raises(InvalidArgumentError, match=r"f: line [45] is damaged") as raised:
            parse_keys(broken, "f")
        assert secret[:20] not in str(raised.value)
    for empty in ("", "something", lines[0]):
        with pytest.raises(InvalidArgumentError):
            parse_keys(empty, "f")
    assert secret not in repr(ring)
    assert secret not in repr(ring.newest)
    assert "3333" not in repr(vars(ring))


def test_a_cell_swap_whose_answer_was_lost_is_known_by_its_decrypted_token():
    objects, swapped, conflicts, lost = {}, 0, 0, 0
    for seed in range(40):
        flaky = FlakyStore(MemoryObjectStore("bucket:", objects), random.Random(seed), rate=0.2, faults=["timeout"])
        cells = CellStore(EncryptedStore(flaky, KEYS, os.urandom), "", os.urandom)
        for number in range(6):
            try:
                version = cells.load("c").version
                assert cells.swap("c", b"%d.%d" % (seed, number), version) == version + 1
                swapped += 1
            except SwapConflictError:
                conflicts += 1
            except ReplkitError:
                continue
        lost += flaky.happened["timeout"]
    plain = CellStore(EncryptedStore(MemoryObjectStore("bucket:", objects), KEYS, os.urandom), "", os.urandom)
    assert plain.load("c").version >= swapped > 100
    assert lost > 50
    assert conflicts == 0  # one writer at a time: its own version is never taken for another's


def test_a_cell_that_is_rolled_back_is_noticed_by_whoever_has_seen_more_and_not_by_others():
    objects = {}

    def opened():
        return CellStore(EncryptedStore(MemoryObjectStore("bucket:", objects), KEYS, os.urandom), "", os.urandom)

    writer, reader = opened(), opened()
    for number in range(20):
        if number == 12:
            older = dict(objects)
        writer.swap("c", b"%d" % number, number)
    assert reader.load("c").version == 20
    objects.clear()
    objects.update(older)
    for seen in (reader, writer):
        with pytest.raises(CorruptRecordError, match="cell c is back at version 12, after 20 was seen"):
            seen.load("c")
    with pytest.raises(CorruptRecordError, match="back at version"):
        reader.swap("c", b"next", 20)
    assert opened().load("c") == (b"11", 12)  # as the page says: a new machine cannot know
    objects.clear()
    with pytest.raises(CorruptRecordError, match="back at version 0"):
        reader.load("c")


@pytest.mark.parametrize("rate", [0.0, 0.05])
def test_a_save_volume_lives_in_an_untrusted_bucket_through_faults(rate):
    objects = {}

    def opened(seed, **options):
        runtime = ManualRuntime(seed=seed)
        flaky = FlakyStore(MemoryObjectStore("bucket:", objects), random.Random(seed), rate=rate)
        store = EncryptedStore(flaky, KEYS, os.urandom)
        host = InlineHost(runtime, f"machine-{seed}")
        return open_save_volume(store, SaveVolumeOptions(create=True, **options), host, takeover=True)

    known, seed = {}, 0
    while len(known) < 20:
        seed += 1
        try:
            save = opened(seed)
            key = f"sets/s{seed}/0"
            save.put(key, [b"content of %d " % seed * 500])
            save.sync()
            known[key] = b"content of %d " % seed * 500
        except ReplkitError:
            continue
    reader = open_save_volume(
        EncryptedStore(MemoryObjectStore("bucket:", objects), KEYS, os.urandom),
        SaveVolumeOptions(producer=False),
        InlineHost(ManualRuntime(seed=999)),
    )
    assert {key: bytes(reader.get(key)) for key in known} == known
    assert not any(b"content of" in stored for stored in objects.values())


@pytest.mark.requirement("U2", "U3", "S1", "S2")
class TestEncryptedSaveVolume(SaveVolumeSuite):
    @pytest.fixture
    def world(self, registry):
        objects = {}

        def encrypted(url):
            return EncryptedStore(MemoryObjectStore(url, objects), KEYS, os.urandom)

        def rot(data):
            store = encrypted("bucket:save")
            ((key, place),) = [(key, where) for key in objects if (where := store.get(key).find(data)) >= 0]
            rotten = bytearray(objects[key])
            rotten[RAW_HEAD + place] ^= 1
            objects[key] = bytes(rotten)

        registry.add_save_volume_scheme(
            "bucket", lambda url, options: open_save_volume(encrypted(url), options, ThreadHost())
        )
        return SaveVolumeWorld(registry=registry, url="bucket:save", rot=rot)

    def test_rotten_bytes_are_found(self, world, save):
        """A damaged segment takes with it all that lies in it, so both records are named."""
        data = random.Random(3).randbytes(10_000)
        save.put("sets/a/0", [data])
        save.put("sets/a/1", [b"another"])
        save.sync()
        assert list(scrub(save)) == []
        world.rot(data[5000:5100])
        with world.open(producer=False) as reader:
            for opener in (save, reader):
                with pytest.raises(CorruptRecordError, match="segment 0 is not what was encrypted"):
                    opener.get("sets/a/0")
                assert [found.split(":")[0] for found in scrub(opener)] == ["sets/a/0", "sets/a/1"]


@pytest.mark.requirement("U2", "U3")
class TestEncryptedVolume(VolumeSuite):
    follows_writer = False
    discards = tells_in_use = resizes = Capability.NATIVE

    @pytest.fixture
    def world(self, registry):
        objects = {}

        def open_one(url, options):
            store = EncryptedStore(MemoryObjectStore(url, objects), KEYS, os.urandom)
            return open_object_volume(store, options, runtime=ThreadRuntime())

        registry.add_volume_scheme("bucket", open_one)
        return VolumeWorld(registry=registry, url="bucket:disk")
