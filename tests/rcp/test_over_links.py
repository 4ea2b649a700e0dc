"""Sessions over the links of the built-in transports: the same set arrives over each (T5), beside a stuck peer (T1)."""

from __future__ import annotations

import queue
import threading

import pytest

from replkit.contracts.position import Epoch, Position
from replkit.contracts.registry import default_registry
from replkit.contracts.transport import Link
from replkit.rcp import messages as m
from replkit.rcp.session import ReceiverSession, SenderSession
from replkit.rcp.states import State

WAIT_S = 20.0
CHUNKS = [bytes([i]) * 300_000 for i in range(20)]
TAG = "0000000000000007.w1"
WINDOW_BYTES = 1_000_000


def take(session: SenderSession | ReceiverSession, link: Link) -> tuple[m.Body, bytes]:
    message = link.receive(WAIT_S)
    assert message is not None, "nothing came"
    return session.receive(message, 0.0), bytes(message.payload)


def receive_set(link: Link, samples, stored: queue.Queue[list[bytes]]) -> None:
    """A receiver that grants back what it has stored, and acknowledges at the end."""
    session = ReceiverSession(link.peer, 0.0)
    hello, _ = take(session, link)
    welcome = m.Welcome(
        version=1, site="there", received=None, played=None, epoch=hello.epoch, credit_bytes=WINDOW_BYTES
    )
    link.send(session.send(welcome, 0.0), WAIT_S)
    records: list[bytes] = []
    while session.state is State.READY:
        body, payload = take(session, link)
        if isinstance(body, m.Chunk):
            records.append(payload)
            link.send(session.send(session.grant(len(payload)), 0.0), WAIT_S)
        elif isinstance(body, m.SetEnd):
            stored.put([*records, payload])
            link.send(session.send(m.Ack(received=hello.position, played=None), 0.0), WAIT_S)


def send_set(link: Link, samples) -> Position | None:
    """A sender that waits for credit; the position acknowledged."""
    session = SenderSession(link.peer, 0.0)
    link.send(session.send(samples[m.Hello], 0.0), WAIT_S)
    take(session, link)
    begin = m.SetBegin(
        tag=TAG, epoch=Epoch(2, "00112233445566ff"), first_number=1, number=7, base_identity="0",
        chunk_count=len(CHUNKS), digest="d",
    )  # fmt: skip
    link.send(session.send(begin, 0.0), WAIT_S)
    for index, chunk in enumerate(CHUNKS):
        while not session.can_send(len(chunk)):
            take(session, link)
        link.send(session.send(m.Chunk(tag=TAG, index=index), 0.0, chunk), WAIT_S)
    link.send(session.send(m.SetEnd(tag=TAG), 0.0, b"header"), WAIT_S)
    while session.acks.received is None:
        take(session, link)
    link.send(session.send(m.Bye(reason="done"), 0.0), WAIT_S)
    return session.acks.received


@pytest.mark.requirement("T5", "T7", "S4")
@pytest.mark.parametrize("url", ["tcp://127.0.0.1:0", "local:over-links"])
def test_a_set_arrives_whole_and_is_acknowledged_in_a_window_smaller_than_it(samples, url):
    transport = default_registry().open_transport(url)
    stored: queue.Queue[list[bytes]] = queue.Queue()
    listener = transport.listen(url, lambda link: receive_set(link, samples, stored))
    link = transport.connect(listener.url, WAIT_S)
    assert send_set(link, samples) == samples[m.Hello].position
    assert stored.get(timeout=WAIT_S) == [*CHUNKS, b"header"]
    link.close()
    listener.close()


@pytest.mark.requirement("T1")
@pytest.mark.parametrize("url", ["tcp://127.0.0.1:0", "local:beside-a-stuck-one"])
def test_members_in_parallel_are_not_delayed_by_one_that_takes_nothing(samples, url):
    transport = default_registry().open_transport(url)
    stored: queue.Queue[list[bytes]] = queue.Queue()
    over = threading.Event()
    is_stuck = threading.Event()

    def on_link(link: Link) -> None:
        if is_stuck.is_set():
            receive_set(link, samples, stored)
        else:
            is_stuck.set()
            over.wait(WAIT_S)

    listener = transport.listen(url, on_link)
    stuck = transport.connect(listener.url, WAIT_S)
    assert is_stuck.wait(WAIT_S)
    stuck.send(SenderSession("stuck", 0.0).send(samples[m.Hello], 0.0), WAIT_S)
    links = [transport.connect(listener.url, WAIT_S) for _ in range(3)]
    threads = [threading.Thread(target=send_set, args=(link, samples)) for link in links]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert stored.get(timeout=WAIT_S) == [*CHUNKS, b"header"]
    assert not over.is_set()
    over.set()
    for thread in threads:
        thread.join(WAIT_S)
    for link in [stuck, *links]:
        link.close()
    listener.close()
