"""The volume stack of a primary behind NBD: unaligned writes pass its gate, its snapshots are disks of their own."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest

from replkit.backends.memory import MemorySaveVolume
from replkit.replication.logged import LoggedVolume
from replkit.site.nbd import Export
from replkit.site.nbd import protocol as p
from replkit.snapshot.records import CellSnapshotTable
from replkit.testing.runtime import ThreadRuntime

MIB = 1 << 20


@pytest.fixture
def stack(world) -> Iterator[LoggedVolume]:
    save = MemorySaveVolume()
    stack = LoggedVolume.open(world.volume, save, CellSnapshotTable(save), ThreadRuntime())
    world.server.add_export("stack", Export(volume=stack))
    yield stack
    world.server.remove_export("stack")
    stack.close()
    save.close()


def requests(client, image: bytearray, rng: random.Random, low: int, high: int) -> None:
    """Random writes and zeroes within ``[low, high)``, also in ``image``."""
    for _ in range(60):
        offset = rng.randrange(low, high)
        length = min(rng.choice([1, 700, 4096, 9000]), high - offset)
        if rng.random() < 0.3:
            assert client.call(p.CMD_WRITE_ZEROES, offset, length) == 0
            image[offset : offset + length] = bytes(length)
        else:
            data = rng.randbytes(length)
            assert client.call(p.CMD_WRITE, offset, payload=data) == 0
            image[offset : offset + length] = data


@pytest.mark.requirement("X1")
def test_unaligned_clients_and_snapshots_at_the_same_time(world, stack):
    image = bytearray(world.volume.size_bytes)
    part_bytes = 300_001  # neighbours share a block
    clients = [world.client("stack") for _ in range(3)]
    threads = [
        threading.Thread(target=requests, args=(client, image, random.Random(i), i * part_bytes, (i + 1) * part_bytes))
        for i, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    for number in range(5):
        stack.snapped.create_snapshot(f"while-{number}")
    for thread in threads:
        thread.join()
    assert clients[0].read(0, MIB) == image[:MIB]

    stack.snapped.create_snapshot("then")
    frozen = bytes(image)
    world.server.add_export("then", Export(volume=stack.snapped.open_snapshot("then")))
    requests(clients[1], image, random.Random(9), 0, MIB)
    reader = world.client("then", structured=True, context=True)
    assert reader.read(0, MIB) == frozen[:MIB]
    assert reader.call(p.CMD_WRITE, 0, payload=b"x") == p.EPERM
    reader.request(p.CMD_BLOCK_STATUS, 4 * MIB, MIB)
    assert reader.chunk()[3][4:] == (MIB).to_bytes(4, "big") + b"\0\0\0\3"  # never written: one hole
    world.server.remove_export("then")
    assert clients[2].read(0, MIB) == image[:MIB]
