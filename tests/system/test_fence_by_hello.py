"""A hello of a newer epoch at the port of a running primary: it takes no more writes when the answer comes (R9)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replkit.cli.demo.sites import Daemon, wait_ready, write_sites
from replkit.contracts.position import Epoch, HistoryEntry, Position
from replkit.contracts.registry import default_registry
from replkit.errors import VolumeFailedError
from replkit.rcp import messages as m
from replkit.rcp.session import SenderSession
from replkit.site.nbd.client import NbdClient
from replkit.site.runtime import SiteRuntime

SIZE = 8 << 20


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Any, Daemon]]:
    site, _other = write_sites(tmp_path, SIZE)
    daemon = Daemon(site)
    with daemon.connect() as client:
        wait_ready(client, daemon)
    yield site, daemon
    daemon.stop()


def say_hello(site: Any, lineage: str, epoch: Epoch) -> m.Refuse:
    """The answer to a sender of another site that says it is the primary in ``epoch``."""
    runtime = SiteRuntime()
    link = default_registry().open_transport(site.url).connect(site.url, 5.0)
    session = SenderSession(link.peer, runtime.monotonic())
    position = Position(epoch, 1, "0" * 32)
    hello = m.Hello(
        versions=(m.VERSION,), site="elsewhere", volume="disk", member="a", lineage=lineage, epoch=epoch,
        history=(HistoryEntry(epoch, 1),), position=position, block_size=4096, volume_size_bytes=SIZE,
    )  # fmt: skip
    link.send(session.send(hello, runtime.monotonic()), 5.0)
    message = link.receive(30.0)
    assert message is not None
    answer = session.receive(message, runtime.monotonic())
    link.close()
    assert isinstance(answer, m.Refuse)
    return answer


@pytest.mark.requirement("R9")
def test_a_primary_stops_its_writes_before_it_answers_the_hello_of_a_newer_one(running: tuple[Any, Daemon]) -> None:
    """Invariant 8: stops writing first and asks later; the hello of another volume of this name stops nothing."""
    site, daemon = running
    with daemon.connect() as client:
        (volume,) = client.request("status")["volumes"]
    lineage = volume["lineage"]
    with NbdClient(site.nbd_address, "disk") as user:
        say_hello(site, "another", Epoch(7, "other"))
        user.write(0, b"x" * 4096)
        assert say_hello(site, lineage, Epoch(7, "newer")).code == "role"
        with pytest.raises(VolumeFailedError, match="NBD error"):
            user.write(4096, b"y" * 4096)
