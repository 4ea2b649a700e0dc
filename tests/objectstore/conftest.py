"""A bucket in memory, and processes that open save volumes in it and die."""

from __future__ import annotations

import random

import pytest

from replkit.contracts.registry import SaveVolumeOptions
from replkit.objectstore.memory import MemoryObjectStore
from replkit.objectstore.opening import open_save_volume
from replkit.testing.flaky_store import FlakyStore
from replkit.testing.objectstore_host import InlineHost
from replkit.testing.runtime import ManualRuntime


class Bucket:
    """Save volumes in one bucket, each opened in a process of its own, with or without faults on its way there."""

    def __init__(self):
        self.objects = {}
        self.processes = {}
        self.hosts = []

    def open(self, *, producer=True, takeover=False, faults=(), rate=0.0, seed=0, before_call=None, **options):
        number = len(self.hosts)
        host = InlineHost(ManualRuntime(seed=1000 * seed + number), f"machine-{number}", self.processes)
        self.hosts.append(host)
        inner = MemoryObjectStore("bucket:", self.objects)
        store = FlakyStore(inner, random.Random(seed), rate=rate, faults=faults, before_call=before_call)
        options = SaveVolumeOptions(producer=producer, create=producer, **options)
        save = open_save_volume(store, options, host, takeover=takeover)
        save.host, save.flaky = host, store
        return save

    def kill_all(self):
        for host in self.hosts:
            host.kill()

    def keys(self, prefix):
        return sorted(key for key in self.objects if key.startswith(prefix))


@pytest.fixture
def bucket():
    return Bucket()
