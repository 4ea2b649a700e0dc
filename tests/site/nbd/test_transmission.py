"""Requests and replies over a raw socket: alignment, batches, limits, errors and rude clients."""

from __future__ import annotations

import contextlib
import random
import struct
import threading

import pytest

from replkit.errors import (
    FencedError,
    InvalidArgumentError,
    OutOfSpaceError,
    ReadOnlyError,
    SaveVolumeFullError,
    VolumeFailedError,
)
from replkit.site.nbd import Export
from replkit.site.nbd import protocol as p

pytestmark = pytest.mark.requirement("X1")
MIB = 1 << 20


def pack(kind: int, cookie: int, offset: int, length: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack(">IHHQQI", p.REQUEST_MAGIC, flags, kind, cookie, offset, length) + payload


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("size_bytes", [MIB, MIB + 4095, MIB + 1])
def test_random_requests_agree_with_a_plain_image(make_world, structured, size_bytes):
    world, rng = make_world(size_bytes), random.Random(size_bytes)
    client, image = world.client(structured=structured), bytearray(size_bytes)
    for _ in range(400):
        offset = rng.choice([rng.randrange(size_bytes), rng.randrange(size_bytes) & ~4095])
        length = min(rng.choice([1, 512, 4096, 8192, rng.randrange(1, 70000)]), size_bytes - offset)
        kind = rng.choice([p.CMD_WRITE, p.CMD_WRITE_ZEROES, p.CMD_READ, p.CMD_TRIM])
        if kind == p.CMD_WRITE:
            data = rng.randbytes(length)
            assert client.call(kind, offset, payload=data, flags=rng.choice([0, p.CMD_FLAG_FUA])) == 0
            image[offset : offset + length] = data
        elif kind == p.CMD_WRITE_ZEROES:
            assert client.call(kind, offset, length, flags=rng.choice([0, p.CMD_FLAG_NO_HOLE])) == 0
            image[offset : offset + length] = bytes(length)
        elif kind == p.CMD_READ:
            assert client.read(offset, length) == image[offset : offset + length]
        else:  # a trim may keep or lose what it covers, and nothing else
            assert client.call(kind, offset, length) == 0
            left = client.read(offset, length)
            assert all(new in (old, 0) for new, old in zip(left, image[offset : offset + length], strict=True))
            image[offset : offset + length] = left
    assert client.read(0, size_bytes) == image


def test_writes_of_one_receive_reach_the_volume_in_one_call(world):
    client = world.client()
    batch = b"".join(pack(p.CMD_WRITE, i, i * 8192, 4096, bytes([i]) * 4096) for i in range(16))
    client.socket.sendall(batch)
    assert [client.reply()[:2] for _ in range(16)] == [(i, 0) for i in range(16)]
    assert sum(call[1] for call in world.volume.calls if call[0] == "write_extents") == 16
    assert max(call[1] for call in world.volume.calls if call[0] == "write_extents") > 1
    assert all(world.volume.data[i * 8192] == i for i in range(16))


def test_overlapping_writes_of_one_receive_are_never_one_call(world):
    client = world.client()
    client.socket.sendall(pack(p.CMD_WRITE, 1, 0, 8192, b"a" * 8192) + pack(p.CMD_WRITE, 2, 4096, 4096, b"b" * 4096))
    assert [client.reply()[1] for _ in range(2)] == [0, 0]
    assert ("write_extents", 2) not in world.volume.calls
    assert world.volume.data[4096:8192] == b"b" * 4096


def test_a_flush_covers_the_writes_pipelined_before_it(world):
    client = world.client()
    client.socket.sendall(pack(p.CMD_WRITE, 1, 0, 4096, b"a" * 4096) + pack(p.CMD_FLUSH, 2, 0, 0))
    assert [client.reply()[:2] for _ in range(2)] == [(1, 0), (2, 0)]
    names = [call[0] for call in world.volume.calls]
    assert names.index("write") < names.index("flush")


@pytest.mark.parametrize("kind", [p.CMD_WRITE, p.CMD_WRITE_ZEROES, p.CMD_TRIM])
def test_fua_flushes_before_the_reply(world, kind):
    client = world.client()
    payload = b"a" * 4096 if kind == p.CMD_WRITE else b""
    assert client.call(kind, 0, 4096, payload, p.CMD_FLAG_FUA) == 0
    assert world.volume.calls[-1] == ("flush",)


@pytest.mark.parametrize("structured", [False, True])
def test_the_largest_payload_goes_in_and_out(make_world, structured):
    world = make_world(40 * MIB)
    client, data = world.client(structured=structured), random.Random(1).randbytes(32 * MIB)
    assert client.call(p.CMD_WRITE, 4096, payload=data) == 0
    assert client.read(4096, 32 * MIB) == data
    assert client.read(4095, 3) == b"\0" + data[:2]


def test_trim_discards_whole_blocks_only(world):
    client = world.client()
    client.call(p.CMD_WRITE, 0, payload=b"a" * 16384)
    assert client.call(p.CMD_TRIM, 100, 12000) == 0
    assert client.read(0, 16384) == b"a" * 4096 + bytes(4096) + b"a" * 8192
    assert ("discard", 1, 1) in world.volume.calls


def test_write_zeroes_discards_unless_the_space_must_stay(world):
    client = world.client()
    client.call(p.CMD_WRITE, 0, payload=b"a" * 16384)
    assert client.call(p.CMD_WRITE_ZEROES, 100, 12000) == 0
    assert ("discard", 1, 1) in world.volume.calls
    assert client.read(0, 16384) == b"a" * 100 + bytes(12000) + b"a" * (16384 - 12100)
    world.volume.calls.clear()
    assert client.call(p.CMD_WRITE_ZEROES, 0, 16384, flags=p.CMD_FLAG_NO_HOLE) == 0
    assert "discard" not in {call[0] for call in world.volume.calls}
    assert client.call(p.CMD_WRITE_ZEROES, 0, 4096, flags=p.CMD_FLAG_NO_HOLE | p.CMD_FLAG_FAST_ZERO) == p.ENOTSUP


def test_block_status_describes_just_the_range(world):
    world.volume.used |= {1, 2, 5}
    client = world.client(structured=True, context=True)

    def status(offset, length, flags=0):
        client.request(p.CMD_BLOCK_STATUS, offset, length, flags=flags)
        flags, kind, _, body = client.chunk()
        assert (flags, kind, body[:4]) == (p.REPLY_FLAG_DONE, p.REPLY_BLOCK_STATUS, b"\0\0\0\1")
        return list(struct.iter_unpack(">II", body[4:]))

    assert status(100, 20480) == [(3996, 3), (8192, 0), (8192, 3), (100, 0)]
    assert status(100, 20480, p.CMD_FLAG_REQ_ONE) == [(3996, 3)]
    assert status(4096, 8192, p.CMD_FLAG_REQ_ONE) == [(8192, 0)]
    assert status(30000, 5000) == [(5000, 3)]


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize(
    ("kind", "offset", "length", "payload", "flags", "error"),
    [
        (p.CMD_READ, 8 * MIB - 1, 2, b"", 0, p.EINVAL),
        (p.CMD_READ, 1 << 63, 4096, b"", 0, p.EINVAL),
        (p.CMD_READ, 0, 32 * MIB + 1, b"", 0, p.EINVAL),
        (p.CMD_READ, 0, 4096, b"", 1 << 9, p.EINVAL),
        (p.CMD_WRITE, 8 * MIB, 4096, bytes(4096), 0, p.ENOSPC),
        (p.CMD_WRITE, 8 * MIB - 1, 2, bytes(2), 0, p.ENOSPC),
        (p.CMD_WRITE, (1 << 64) - 4096, 4096, bytes(4096), 0, p.ENOSPC),
        (p.CMD_WRITE, 0, 4096, bytes(4096), p.CMD_FLAG_DF, p.EINVAL),
        (p.CMD_WRITE_ZEROES, 8 * MIB, 1, b"", 0, p.ENOSPC),
        (p.CMD_TRIM, 8 * MIB, 1, b"", 0, p.EINVAL),
        (p.CMD_CACHE, 8 * MIB, 1, b"", 0, p.EINVAL),
        (p.CMD_BLOCK_STATUS, 0, 4096, b"", 0, p.EINVAL),
        (99, 0, 0, b"", 0, p.EINVAL),
    ],
)
def test_a_wrong_request_is_refused_and_changes_nothing(world, structured, kind, offset, length, payload, flags, error):
    client = world.client(structured=structured)
    if kind == p.CMD_READ and not structured:
        client.request(kind, offset, length, payload, flags)
        assert client.reply()[1] == error
    else:
        assert client.call(kind, offset, length, payload, flags) == error
    assert not world.volume.calls
    assert client.read(0, 4096) == bytes(4096)


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (VolumeFailedError("v: I/O error"), p.EIO),
        (OutOfSpaceError("v: full"), p.ENOSPC),
        (SaveVolumeFullError("s: full"), p.ENOSPC),
        (OSError(28, "No space left"), p.ENOSPC),
        (OSError(5, "I/O"), p.EIO),
        (ReadOnlyError("v"), p.EPERM),
        (FencedError("v"), p.EPERM),
        (InvalidArgumentError("v"), p.EINVAL),
        (ZeroDivisionError("a bug"), p.EIO),
    ],
)
def test_errors_of_the_volume_reach_the_client_and_the_site(world, raised, error):
    client = world.client(structured=True)
    for name in ("write", "write_extents", "read_into", "flush", "discard"):
        world.volume.fail[name] = raised
    assert client.call(p.CMD_WRITE, 0, payload=bytes(4096)) == error
    assert client.call(p.CMD_READ, 0, 4096) == error
    assert client.call(p.CMD_FLUSH) == error
    assert client.call(p.CMD_TRIM, 0, 4096) == error
    assert {seen for _, seen in world.errors} == {raised}
    world.volume.fail.clear()
    assert client.read(0, 4096) == bytes(4096)


def test_one_bad_block_fails_only_its_own_request_of_a_batch(world):
    world.volume.bad_blocks = {3}
    client = world.client()
    client.socket.sendall(b"".join(pack(p.CMD_WRITE, i, i * 4096, 4096, b"n" * 4096) for i in range(6)))
    assert dict(client.reply()[:2] for _ in range(6)) == {0: 0, 1: 0, 2: 0, 3: p.EIO, 4: 0, 5: 0}


def test_a_read_only_export_refuses_every_change(world):
    world.server.add_export("ro", Export(volume=world.volume, read_only=True))
    client = world.client("ro")
    assert client.call(p.CMD_WRITE, 0, payload=bytes(4096)) == p.EPERM
    assert client.call(p.CMD_WRITE, 5, payload=bytes(7)) == p.EPERM
    assert client.call(p.CMD_TRIM, 0, 4096) == p.EPERM
    assert client.call(p.CMD_WRITE_ZEROES, 0, 4096) == p.EPERM
    assert client.call(p.CMD_FLUSH) == 0
    assert [call for call in world.volume.calls if call != ("flush",)] == []


def test_a_write_of_more_than_32_mib_is_refused_and_ends_the_connection(world):
    client, other = world.client(), world.client()
    client.socket.sendall(pack(p.CMD_WRITE, 1, 0, 32 * MIB + 1))
    assert client.reply()[:2] == (1, p.EINVAL)
    assert client.ended()
    assert other.call(p.CMD_WRITE, 0, payload=b"o" * 4096) == 0
    assert world.volume.calls == [("write_extents", 1), ("write", 0, 1)]


@pytest.mark.parametrize("sent", [0, 1, 27, 28, 28 + 4095, 28 + 600_000])
def test_a_client_lost_within_a_request_changes_nothing(world, sent):
    client, other = world.client(), world.client()
    client.socket.sendall(pack(p.CMD_WRITE, 1, 0, MIB, b"z" * MIB)[:sent])
    client.socket.close()
    assert other.read(0, 4096) == bytes(4096)
    world.server.stop()  # returns when every connection has ended
    assert not world.volume.calls


def test_garbage_ends_its_own_connection_only(world):
    other, rng = world.client(), random.Random(3)
    for size in (28, 29, 5000, 300_000):
        client = world.client()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may hang up before all of it was sent
            client.socket.sendall(b"\0" + rng.randbytes(size))
        assert client.ended()
    for size in (4, 20, 5000):
        client = world.connect()
        client.socket.sendall(b"\xff" + rng.randbytes(size))
        assert client.ended()
    assert other.call(p.CMD_WRITE, 0, payload=b"o" * 4096) == 0


def test_random_well_framed_requests_never_kill_the_connection(world):
    rng = random.Random(11)
    client = world.client(structured=True, context=True)
    for cookie in range(500):
        kind = rng.choice(
            [p.CMD_READ, p.CMD_FLUSH, p.CMD_TRIM, p.CMD_CACHE, p.CMD_WRITE_ZEROES, p.CMD_BLOCK_STATUS, 42]
        )
        offset = rng.choice([0, 4096, rng.randrange(9 * MIB), 1 << 63, (1 << 64) - 1])
        length = rng.choice([0, 1, 4096, rng.randrange(MIB), (1 << 32) - 1])
        client.socket.sendall(pack(kind, cookie, offset, length, flags=rng.choice([0, 0, rng.randrange(1 << 16)])))
        magic = client.socket.recv(4, 2)
        if magic == struct.pack(">I", p.SIMPLE_REPLY_MAGIC):
            assert client.reply()[0] == cookie
        else:
            assert client.chunk()[2] == cookie


def test_a_disconnect_request_ends_after_the_writes_before_it(world):
    client = world.client()
    client.socket.sendall(pack(p.CMD_WRITE, 1, 0, 4096, b"a" * 4096) + pack(p.CMD_DISCONNECT, 2, 0, 0))
    assert client.reply()[:2] == (1, 0)
    assert client.ended()


def test_unaligned_writers_of_one_block_lose_nothing(world):
    clients = [world.client() for _ in range(4)]

    def write(part: int) -> None:
        for turn in range(100):
            assert clients[part].call(p.CMD_WRITE, part * 1024, payload=bytes([turn + 1]) * 1024) == 0

    threads = [threading.Thread(target=write, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert world.volume.data[:4096] == bytes([100]) * 4096


def test_a_volume_with_a_gate_of_its_own_is_asked_for_it(world):
    entered = []

    def run_alone(work):
        entered.append("in")
        work()
        entered.append("out")

    world.volume.run_alone = run_alone
    client = world.client()
    assert client.call(p.CMD_WRITE, 4096, payload=bytes(4096)) == 0
    assert not entered
    assert client.call(p.CMD_WRITE, 1, payload=b"x") == 0
    assert entered == ["in", "out"]
