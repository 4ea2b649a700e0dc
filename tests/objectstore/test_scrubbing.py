"""A scrub of a place in a bucket names each damaged block and record, and the objects that nothing names."""

from __future__ import annotations

import os
import random

import pytest

from replkit.contracts.registry import SaveVolumeOptions, VolumeOptions
from replkit.errors import NotFoundError
from replkit.objectstore.encrypted import EncryptedStore
from replkit.objectstore.keys import KeyRing, new_key
from replkit.objectstore.memory import MemoryObjectStore
from replkit.objectstore.opening import open_save_volume
from replkit.objectstore.scrubbing import scrub_place
from replkit.objectstore.volume_open import open_object_volume
from replkit.testing.objectstore_host import InlineHost
from replkit.testing.runtime import ThreadRuntime

KEYS = KeyRing([new_key(b"k" * 32, 0.0)])
BLOCK = 4096


class Place:
    """A bucket with 40 blocks in a volume, or two records in a save volume, or both."""

    def __init__(self, *, encrypted):
        self.objects, self.encrypted = {}, encrypted

    def open(self):
        store = MemoryObjectStore("bucket:", self.objects)
        return EncryptedStore(store, KEYS, os.urandom) if self.encrypted else store

    def fill_volume(self):
        options = VolumeOptions(create=True, size_bytes=1 << 20, block_size=BLOCK)
        volume = open_object_volume(self.open(), options, runtime=ThreadRuntime())
        for block in range(40):
            volume.write(block, random.Random(block).randbytes(BLOCK))
        volume.flush()
        volume.close()

    def fill_save(self):
        host = InlineHost(ThreadRuntime())
        save = open_save_volume(self.open(), SaveVolumeOptions(create=True), host)
        save.put("sets/a/0", [random.Random(1).randbytes(9000)])
        save.put("sets/a/1", [b"another"])
        save.sync()
        save.close()

    def rot(self, prefix, place):
        (key,) = [key for key in self.objects if key.startswith(prefix)]
        rotten = bytearray(self.objects[key])
        rotten[place] ^= 1
        self.objects[key] = bytes(rotten)

    def scrub(self):
        return scrub_place(self.open, ThreadRuntime(), lambda: InlineHost(ThreadRuntime()))


@pytest.fixture(params=[False, True], ids=["plain", "encrypted"])
def place(request):
    return Place(encrypted=request.param)


def test_what_is_whole_is_checked_and_nothing_found(place):
    place.fill_volume()
    place.fill_save()
    assert place.scrub() == (40, 3, [], [])  # two records, and the cell with the root of the volume


def test_a_damaged_block_is_named(place):
    place.fill_volume()
    place.rot("data/", 20 * BLOCK)
    found = place.scrub()
    assert found.checked_blocks == 40
    blocks = [int(sentence.split()[1].rstrip(":")) for sentence in found.damage]
    assert 19 in blocks
    assert len(blocks) == (17 if place.encrypted else 1)  # all that lie in a segment of 64 KiB, or reach into it
    assert all("data/" in sentence for sentence in found.damage)


@pytest.mark.parametrize(("folder", "named"), [("data/", ["volume"]), ("bundles/", ["sets/a/0", "sets/a/1"])])
def test_what_a_lost_object_held_is_named(place, folder, named):
    place.fill_volume()
    place.fill_save()
    (key,) = [key for key in place.objects if key.startswith(folder)]
    place.objects.pop(key)
    assert [sentence.split(":")[0] for sentence in place.scrub().damage] == named


def test_a_damaged_record_is_named(place):
    place.fill_save()
    place.rot("bundles/", 4000)
    found = place.scrub()
    assert "sets/a/0" in found.damage[0]
    assert (found.checked_blocks, found.checked_records) == (0, 2)


def test_objects_that_nothing_names_are_listed(place):
    place.fill_volume()
    place.fill_save()
    (data,) = [key for key in place.objects if key.startswith("data/")]
    (bundle,) = [key for key in place.objects if key.startswith("bundles/")]
    strays = [
        data[:-3] + "fff",  # beyond what its writer published
        "data/000009-deadbeef/000/000",  # of a writer that the root does not know
        "map/notes",
        f"{bundle}0",
    ]
    for key in strays:
        place.open().put(key, [b"stray"])
    assert place.scrub().unnamed == sorted(strays)


def test_an_empty_place_says_so(place):
    with pytest.raises(NotFoundError, match="neither a volume nor a save volume"):
        place.scrub()


def test_the_root_of_a_replica_in_a_save_volume_is_no_damaged_volume(place):
    place.fill_save()
    host = InlineHost(ThreadRuntime())
    save = open_save_volume(place.open(), SaveVolumeOptions(), host)
    save.swap("root", b'{"format": 1}', 0)
    save.close()
    assert place.scrub() == (0, 3, [], [])
