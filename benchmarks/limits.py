"""The limits that a delta pipeline must cross on this machine, measured one by one on the same blocks."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from xxhash import xxh3_128

CHUNK_BYTES = 4 << 20
_CHUNK = os.urandom(CHUNK_BYTES)
"""Made once, so that no limit has the making of its data in it."""


def timed_s(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def read_blocks(path: Path, blocks: list[int], block_size: int) -> None:
    """One read a block, in ascending order, from the page cache or the disk as they are."""
    buffer = bytearray(block_size)
    descriptor = os.open(path, os.O_RDONLY)
    for block in blocks:
        os.preadv(descriptor, [buffer], block * block_size)
    os.close(descriptor)


def write_blocks(path: Path, blocks: list[int], block_size: int) -> None:
    """One write a block, in ascending order, then one fdatasync."""
    data = _CHUNK[:block_size]
    descriptor = os.open(path, os.O_WRONLY)
    for block in blocks:
        os.pwrite(descriptor, data, block * block_size)
    os.fdatasync(descriptor)
    os.close(descriptor)


def append_bytes(path: Path, size_bytes: int) -> None:
    """Write a file of this size, chunk by chunk, then fdatasync: what storing a set costs at least."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    for offset in range(0, size_bytes, CHUNK_BYTES):
        os.pwrite(descriptor, _CHUNK[: size_bytes - offset], offset)
    os.fdatasync(descriptor)
    os.close(descriptor)


def send_over_loopback(size_bytes: int) -> None:
    """Send so many bytes over one TCP stream to a thread that receives them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = threading.Thread(target=_send, args=(server.getsockname(), size_bytes))
        sender.start()
        connection, _ = server.accept()
        with connection:
            buffer = bytearray(CHUNK_BYTES)
            while connection.recv_into(buffer):
                pass
        sender.join()


def _send(address: tuple[str, int], size_bytes: int) -> None:
    with socket.create_connection(address) as connection:
        for offset in range(0, size_bytes, CHUNK_BYTES):
            connection.sendall(_CHUNK[: size_bytes - offset])


def hash_bytes(size_bytes: int) -> None:
    """Checksum so many bytes once."""
    for offset in range(0, size_bytes, CHUNK_BYTES):
        xxh3_128(_CHUNK[: size_bytes - offset]).digest()


def limits_s(source: Path, secondary: Path, folder: Path, blocks: list[int], block_size: int) -> dict[str, float]:
    """Seconds that each step must take for these blocks by itself, in the order of the pipeline."""
    size_bytes = len(blocks) * block_size
    kept = folder / "limit.bin"
    append_bytes(kept, size_bytes)  # so that the timed write overwrites, as a save volume's segments do
    found = {
        "read the changed blocks": timed_s(lambda: read_blocks(source, blocks, block_size)),
        "store them once, durably": timed_s(lambda: append_bytes(kept, size_bytes)),
        "loopback TCP": timed_s(lambda: send_over_loopback(size_bytes)),
        "checksum once": timed_s(lambda: hash_bytes(size_bytes)),
        "write the blocks in place, durably": timed_s(lambda: write_blocks(secondary, blocks, block_size)),
    }
    kept.unlink()
    return found
