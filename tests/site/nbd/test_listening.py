"""An address at which nobody can listen is the caller's error, with what to do, and not a fault inside."""

from __future__ import annotations

import socket

import pytest

from replkit.errors import InvalidArgumentError
from replkit.site.nbd import NbdServer


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InvalidArgumentError, match=f"cannot listen at {address}"):
            NbdServer({}, address).start()


def test_a_port_that_cannot_be_is_refused():
    with pytest.raises(InvalidArgumentError, match="neither unix:/path nor host:port"):
        NbdServer({}, "127.0.0.1:99999").start()
