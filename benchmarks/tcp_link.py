"""How fast one TCP link carries chunks of 4 MiB between two processes on loopback. No more than replkit is needed."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time

from replkit.backends.tcp import TcpTransport
from replkit.contracts.message import Message
from replkit.contracts.transport import Link

CHUNK_BYTES = 4 << 20
TIMEOUT_S = 10.0


def send_all(url: str, count: int) -> None:
    """Send ``count`` chunks, then wait for the answer."""
    link = TcpTransport().connect(url, TIMEOUT_S)
    payload = os.urandom(CHUNK_BYTES)
    for _ in range(count):
        link.send(Message(5, bytes(60), payload), TIMEOUT_S)
    link.receive(TIMEOUT_S)
    link.close()


def measure(count: int) -> float:
    """Bytes a second from the first chunk to the last."""
    finished = threading.Event()
    rates: list[float] = []

    def on_link(link: Link) -> None:
        link.receive(TIMEOUT_S)
        began = time.perf_counter()
        for _ in range(count - 1):
            link.receive(TIMEOUT_S)
        rates.append((count - 1) * CHUNK_BYTES / (time.perf_counter() - began))
        link.send(Message(18), TIMEOUT_S)
        finished.set()

    listener = TcpTransport().listen("tcp://127.0.0.1:0", on_link)
    sender = multiprocessing.get_context("spawn").Process(target=send_all, args=(listener.url, count))
    sender.start()
    finished.wait(60)
    sender.join()
    listener.close()
    return rates[0]


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    print(f"{measure(count) / 1e9:.2f} GB/s in chunks of {CHUNK_BYTES >> 20} MiB")
