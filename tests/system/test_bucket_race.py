"""Two that open one bucket and race for its epoch: one wins it, and nothing of the other is visible (R9, S5, U3)."""

from __future__ import annotations

import random
import time

import pytest

from replkit.contracts.registry import SaveVolumeOptions
from replkit.objectstore.memory import MemoryObjectStore
from replkit.objectstore.opening import open_save_volume
from replkit.testing.objectstore_host import InlineHost
from replkit.testing.runtime import ThreadRuntime

from .bucket_race import BrokenPromiseError, race, run_races


class Yielding(MemoryObjectStore):
    """Lets the other go on at many of its requests."""

    def get(self, key, start=0, stop=None):
        time.sleep(random.choice((0, 0, 1e-5)))
        return super().get(key, start, stop)


class Overwriting(Yielding):
    """Looks, then puts: what a store does that does not keep the condition."""

    def put_new(self, key, data):
        if key in self.objects:
            super().put_new(key, data)
        time.sleep(random.choice((1e-4, 2e-3)))
        self.put(key, [data])


def races_in_memory(kind, count):
    """The figures of each race; each begins with an empty save volume in a store of this kind."""
    for number in range(count):
        objects = {}

        def opener(*, producer, objects=objects):
            options = SaveVolumeOptions(producer=producer, create=producer)
            return open_save_volume(kind("bucket:", objects), options, InlineHost(ThreadRuntime()), takeover=True)

        yield race(opener, number)


@pytest.mark.requirement("R9", "S5", "U3")
def test_races_in_memory_have_one_winner_each():
    figures = list(races_in_memory(Yielding, 300))
    assert sum(published for published, _ in figures) > 30, figures
    assert sum(contested for _, contested in figures) > 30, figures


def test_a_store_that_does_not_keep_create_only_is_caught_by_the_races():
    with pytest.raises(BrokenPromiseError):
        list(races_in_memory(Overwriting, 200))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.requirement("R9", "U3")
def test_a_hundred_races_at_a_real_store_have_one_winner_each(registry, seaweed_bucket, s3_credentials):
    figures = run_races(registry, *seaweed_bucket, 100)
    assert figures["winner_published"] > 10, figures
    assert figures["loser_was_refused"] > 10, figures
