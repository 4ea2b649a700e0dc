"""The services on real threads over ``memory:`` stores and the ``local:`` transport, as production drives them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from replkit.contracts.registry import Registry
from replkit.contracts.transport import Link
from replkit.replication.policy import Policy
from replkit.replication.primary import PrimaryReplica
from replkit.replication.receiver import greet
from replkit.replication.secondary import SecondaryReplica
from replkit.replication.sender import Sender
from replkit.testing.runtime import ThreadRuntime

SIZE = 4 << 20
POLICY = Policy(interval_s=0.05, chunk_bytes=64 << 10, retry_s=0.01)


class Driver:
    """Calls steps on threads of their own until it is stopped; a failed step is kept for the test."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def drive(self, step: Callable[[], float | None]) -> None:
        def loop() -> None:
            try:
                pause_s: float | None = 0.0
                while pause_s is not None and not self.stop.wait(min(pause_s, 0.02)):
                    pause_s = step()
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=loop)
        thread.start()
        self._threads.append(thread)

    def join(self) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(20)
        assert not self.errors


@contextmanager
def driver() -> Iterator[Driver]:
    it = Driver()
    try:
        yield it
    finally:
        it.join()


def wait_until(condition: Callable[[], bool], event: threading.Event) -> None:
    for _ in range(1000):
        if condition():
            return
        event.wait(0.02)
    pytest.fail("did not come true in 20 s")


@pytest.mark.requirement("T1", "T5", "S3", "C1", "C3", "D1")
def test_writers_cutter_sender_receivers_players_and_readers_run_at_the_same_time(registry: Registry) -> None:
    runtime, hooks = ThreadRuntime(), registry.hooks
    volume = registry.open_volume("memory:h6-primary", size_bytes=SIZE, create=True)
    save = registry.open_save_volume("memory:h6-primary", create=True)
    primary = PrimaryReplica.open(volume, save, runtime, hooks, "vol", policy=POLICY)
    primary.volume.write(0, b"\x01" * (1 << 20))
    transport = registry.open_transport("local:h6-member0")
    members = [
        SecondaryReplica.open(
            registry.open_volume(f"memory:h6-member{index}", size_bytes=SIZE, create=True),
            registry.open_save_volume(f"memory:h6-member{index}", create=True),
            runtime, hooks, "vol",
        )
        for index in range(2)
    ]  # fmt: skip
    listeners = []
    with driver() as services:
        for index, member in enumerate(members):

            def on_link(link: Link, member: SecondaryReplica = member) -> None:
                receiver = member.accept(greet(link, runtime))
                while not services.stop.is_set() and receiver.step(0.05) is not None:
                    pass

            listeners.append(transport.listen(f"local:h6-member{index}", on_link))
            primary.add_member(f"m{index}", f"local:h6-member{index}")
            reader = registry.open_save_volume("memory:h6-primary", producer=False)
            source = registry.open_volume("memory:h6-primary", read_only=True)
            sender = Sender(reader, source, transport, f"m{index}", runtime, hooks, name="vol")
            services.drive(lambda sender=sender: sender.step(0.05))  # type: ignore[misc]
            for _name, step in member.services():
                services.drive(step)
        for _name, step in primary.services():
            services.drive(step)
        for number in range(300):
            primary.volume.write((number * 7) % 1000, bytes([number % 256]) * 4096)
        position = primary.cut()
        buffer = bytearray(SIZE)
        volume.read_into(0, buffer)
        wait_until(
            lambda: (
                all(m.root.base and not m.root.inconsistent for m in members)
                and all(m.root.last.number >= position.number for m in members)
            ),  # a copy that begins late adds a set
            services.stop,
        )
        for member in members:
            seen = bytearray(SIZE)
            member.player.sets.refresh()
            member.view().read_into(0, seen)
            assert seen == buffer
            wait_until(lambda m=member: m.player.position.number >= position.number, services.stop)  # type: ignore[misc]
    for listener in listeners:
        listener.close()
    for member in members:
        seen = bytearray(SIZE)
        member.volume.read_into(0, seen)
        assert seen == buffer
        member.close()
    primary.close()
