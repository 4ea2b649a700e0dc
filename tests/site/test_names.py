"""Where an export is served when no address is given: at a path that a Unix socket can have."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from replkit.site.names import MAX_SOCKET_PATH_BYTES, export_socket


def test_a_socket_is_named_like_what_it_serves() -> None:
    assert export_socket(Path("/run/replkit"), "disk.monday") == Path("/run/replkit/disk.monday.nbd")


@pytest.mark.requirement("X1")
def test_a_long_name_in_a_deep_folder_gets_a_socket_that_can_be_bound(tmp_path: Path) -> None:
    deep = tmp_path
    while len(os.fsencode(deep)) < 80:
        deep /= "deep"
    deep.mkdir(parents=True, exist_ok=True)
    names = ["a" * 64 + ".monday", "a" * 64 + ".tuesday"]
    paths = [export_socket(deep, name) for name in names]
    assert len(set(paths)) == 2
    assert all(path.parent == deep and len(path.name) == len("control.sock") for path in paths)
    for path in paths:
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:  # the folder of the tests may be deeper than a daemon's can
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
