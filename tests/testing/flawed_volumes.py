"""Bad volumes, one flaw each, and the suites over them: ``test_flawed_plugins.py`` knows what must fail.

``CachedVolume``, of which they are made, passes the same suites.
"""

from __future__ import annotations

import itertools

import pytest

from replkit.backends.memory import MemoryVolume, forget
from replkit.contracts.hooks import hookimpl
from replkit.contracts.registry import Registry
from replkit.contracts.volume import Capability
from replkit.testing.simulator_suite import VolumeInSimulator
from replkit.testing.volume_suite import VolumeSuite, VolumeWorld

from .page_cache import CachedVolume, lose_power

_numbers = itertools.count()


class _Volumes:
    """The suite's world, over ``backend``."""

    discards = tells_in_use = resizes = Capability.NATIVE
    backend = CachedVolume

    @pytest.fixture
    def world(self):
        backend, name = self.backend, f"v{next(_numbers)}"

        class Plugin:
            @hookimpl
            def replkit_register_volumes(self, registry):
                registry.add_volume_scheme("kit", backend.open)

        registry, url = Registry(), f"kit:{name}"
        registry.register(Plugin())

        def peek(offset, size):
            held = MemoryVolume.open(url, _Options())
            buffer = bytearray(held.block_count * held.block_size)
            MemoryVolume.read_into(held, 0, buffer)
            return bytes(buffer[offset : offset + size])

        def poke(offset, data):
            held = MemoryVolume.open(url, _Options())
            block = bytearray(4096)
            MemoryVolume.read_into(held, offset // 4096, block)
            block[offset % 4096 : offset % 4096 + len(data)] = data
            MemoryVolume.write(held, offset // 4096, block)

        yield VolumeWorld(registry=registry, url=url, peek=peek, poke=poke, lose_power=lambda: lose_power(url))
        forget(name)


class _Options:
    create = read_only = False
    size_bytes = None
    block_size = 4096


class TestCachedVolume(_Volumes, VolumeSuite):
    """The right one."""


class TestCachedVolumeInSimulator(_Volumes, VolumeInSimulator):
    """The right one."""


class FlushDoesNothing(CachedVolume):
    def flush(self):
        """Forgets what it is for."""


class TestFlushDoesNothing(_Volumes, VolumeSuite):
    backend = FlushDoesNothing


class TestFlushDoesNothingInSimulator(_Volumes, VolumeInSimulator):
    backend = FlushDoesNothing


class DiscardForgets(CachedVolume):
    def discard(self, start, count):
        """Gives no space back either."""


class TestDiscardForgets(_Volumes, VolumeSuite):
    backend = DiscardForgets


class TestDiscardForgetsInSimulator(_Volumes, VolumeInSimulator):
    backend = DiscardForgets


class InUseMisses(CachedVolume):
    def in_use(self):
        yield from [extent for extent in super().in_use() if extent.start % 3]


class TestInUseMisses(_Volumes, VolumeSuite):
    backend = InUseMisses


class TestInUseMissesInSimulator(_Volumes, VolumeInSimulator):
    backend = InUseMisses


class LosesTheLastOfABatch(CachedVolume):
    def write_extents(self, writes):
        for start, buffer in list(writes)[:-1] or writes:
            self.write(start, buffer)


class TestLosesTheLastOfABatch(_Volumes, VolumeSuite):
    backend = LosesTheLastOfABatch


class ReadsFromMemory(CachedVolume):
    def write(self, start, buffer):
        super().write(start, buffer)
        self.__dict__.setdefault("kept", {})[start] = bytes(buffer)

    def read_into(self, start, buffer):
        super().read_into(start, buffer)
        kept = self.__dict__.get("kept", {}).get(start)
        if kept is not None and len(kept) == memoryview(buffer).nbytes:
            memoryview(buffer).cast("B")[:] = kept


class TestReadsFromMemory(_Volumes, VolumeSuite):
    backend = ReadsFromMemory


class TestDeclaresTooMuch(_Volumes, VolumeSuite):
    class backend(CachedVolume):  # noqa: N801 - an attribute of the suite
        resizes = Capability.EMULATED
