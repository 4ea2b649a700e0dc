"""The listener: limits, exports that come and go, an orderly end."""

from __future__ import annotations

import inspect
import socket
import stat
import threading
from pathlib import Path

import pytest

from replkit.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from replkit.site.nbd import Export, NbdServer
from replkit.site.nbd import protocol as p

pytestmark = pytest.mark.requirement("X1")


def test_a_slow_handshake_is_cut_off(make_world):
    world = make_world(handshake_timeout_s=2.0)
    silent, dripping, ready = world.connect(), world.connect(), world.client()
    dripping.socket.sendall(b"\0\0")
    assert silent.ended()
    assert dripping.ended()
    assert ready.read(0, 512) == bytes(512)  # once it is through, a client may be as slow as it likes


def test_more_clients_than_allowed_are_turned_away(make_world):
    world = make_world(max_connections=2)
    first, second = world.client(), world.client()
    third = world.connect()
    assert third.ended()
    assert first.read(0, 512) == second.read(0, 512) == bytes(512)


def test_a_place_is_free_again_when_a_client_has_gone(make_world):
    world = make_world(max_connections=1)
    for _ in range(5):
        client = world.client()
        client.request(p.CMD_DISCONNECT)
        assert client.ended()
        for thread in threading.enumerate():
            if thread.name == "nbd-client":
                thread.join(60)


def test_a_removed_export_disconnects_its_clients_only(world):
    world.server.add_export("other", Export(volume=world.volume))
    gone, stays = world.client("disk"), world.client("other")
    world.server.remove_export("disk")
    assert gone.ended()
    assert stays.read(0, 512) == bytes(512)
    with pytest.raises(NotFoundError):
        world.server.remove_export("disk")
    with pytest.raises(AlreadyExistsError):
        world.server.add_export("other", Export(volume=world.volume))


def test_removing_an_export_waits_for_the_request_in_progress(world):
    entered, proceed = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert proceed.wait(60)

    world.volume.before_write = hold
    world.client().request(p.CMD_WRITE, payload=b"w" * 4096)
    assert entered.wait(60)
    remover = threading.Thread(target=world.server.remove_export, args=("disk",))
    remover.start()
    assert remover.is_alive()
    proceed.set()
    remover.join(60)
    assert not remover.is_alive()
    assert world.volume.data[:1] == b"w"


def test_stop_disconnects_everybody_and_start_serves_again(world):
    client = world.client()
    world.server.stop()
    assert client.ended()
    assert not world.path.exists()
    world.server.start()
    assert world.client().read(0, 512) == bytes(512)


def test_the_socket_is_for_its_owner_only(world):
    assert stat.S_IMODE(world.path.stat().st_mode) == 0o600


def test_a_socket_left_behind_is_replaced_and_one_in_use_is_not(world, tmp_path):
    with pytest.raises(AlreadyExistsError):
        NbdServer({}, f"unix:{world.path}").start()
    stale = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    server = NbdServer({"disk": Export(volume=world.volume)}, f"unix:{stale}")
    server.start()
    server.stop()


@pytest.mark.parametrize("address", ["0.0.0.0:0", "nonsense", "host:", ":10809", "192.0.2.1:10809"])
def test_addresses_off_loopback_or_malformed_are_refused(address):
    with pytest.raises(InvalidArgumentError, match="address"):
        NbdServer({}, address).start()


def test_tcp_tells_the_port_that_the_system_chose(world):
    server = NbdServer({"disk": Export(volume=world.volume)}, "localhost:0")
    server.start()
    try:
        host, port = server.address.split(":")
        assert host == "127.0.0.1"
        with socket.create_connection((host, int(port))) as sock:
            assert sock.recv(8) == b"NBDMAGIC"
    finally:
        server.stop()


def test_the_reference_page_names_the_limits_that_hold():
    page = (Path(__file__).parents[3] / "docs" / "reference" / "nbd.md").read_text()
    defaults = inspect.signature(NbdServer).parameters
    for row in (
        f"| bytes of an export name | {p.MAX_NAME_BYTES} |",
        f"| bytes of a payload | {p.MAX_PAYLOAD_BYTES >> 20} MiB |",
        f"| bytes of an option | {p.MAX_OPTION_BYTES >> 10} KiB |",
        f"| time for the handshake | {defaults['handshake_timeout_s'].default:g} s |",
        f"| connections of a server | {defaults['max_connections'].default}, ",
        f"up to {p.MAX_STATUS_EXTENTS} extents",
    ):
        assert row in page
