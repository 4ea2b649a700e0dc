"""NBD servers to talk to: our own, nbdkit, qemu-nbd, and one that says what a test wants."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from replkit_nbd import NbdVolume

from replkit.contracts.registry import Registry, VolumeOptions
from replkit.site.nbd import Export, NbdServer

MIB = 1 << 20


@contextmanager
def served_by_replkit(tmp_path: Path, size_bytes: int) -> Iterator[str]:
    registry = Registry()
    volume = registry.open_volume(f"file://{tmp_path}/disk", size_bytes=size_bytes, create=True)
    server = NbdServer({"disk": Export(volume=volume)}, f"unix:{tmp_path}/nbd.sock")
    server.start()
    try:
        yield f"nbd+unix:///disk?socket={tmp_path}/nbd.sock"
    finally:
        server.stop()
        volume.close()


@contextmanager
def program(ready: Path, *command: object) -> Iterator[None]:
    """Run a server that writes its process id to ``ready`` when it listens."""
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"needs the program {command[0]}")
    with subprocess.Popen([str(word) for word in command]) as running:
        try:
            while not ready.exists():
                if running.poll() is not None:
                    pytest.fail(f"{command[0]} ended with {running.returncode}")
                threading.Event().wait(0.01)
            yield
        finally:
            running.terminate()


@contextmanager
def served_by_nbdkit(tmp_path: Path, size_bytes: int) -> Iterator[str]:
    sock, pid = tmp_path / "kit.sock", tmp_path / "kit.pid"
    with program(pid, "nbdkit", "-f", "-U", sock, "-P", pid, "memory", str(size_bytes)):
        yield f"nbd+unix:///?socket={sock}"


@contextmanager
def served_by_qemu(tmp_path: Path, size_bytes: int) -> Iterator[str]:
    image, sock, pid = tmp_path / "image", tmp_path / "qemu.sock", tmp_path / "qemu.pid"
    with image.open("wb") as file:
        file.truncate(size_bytes)
    options = ("-t", "-e", "8", "-f", "raw", "-x", "disk", "--discard=unmap", f"--pid-file={pid}")
    with program(pid, "qemu-nbd", *options, "-k", sock, image):
        yield f"nbd+unix:///disk?socket={sock}"


SERVERS = {"replkit": served_by_replkit, "nbdkit": served_by_nbdkit, "qemu-nbd": served_by_qemu}
Open = Callable[..., NbdVolume]


@pytest.fixture(params=list(SERVERS))
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[int], str]]:
    """Start a server over a new disk and give its URL."""
    with ExitStack() as servers:
        yield lambda size_bytes: servers.enter_context(SERVERS[request.param](tmp_path, size_bytes))


@pytest.fixture
def opened() -> Iterator[Open]:
    with ExitStack() as volumes:

        def open_volume(url: str, **options: object) -> NbdVolume:
            return volumes.enter_context(NbdVolume.open(url, VolumeOptions(**options)))

        yield open_volume


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    """Run ``talk(socket)`` as the server's side of the first connection."""
    threads = []
    path = tmp_path / "scripted.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def serve(talk: Callable[[socket.socket], None]) -> str:
            def accept() -> None:
                client, _ = listener.accept()
                with client, suppress(ConnectionError):  # the client may leave in the middle
                    talk(client)

            threads.append(threading.Thread(target=accept))
            threads[-1].start()
            return f"nbd+unix:///disk?socket={path}"

        yield serve
        for thread in threads:
            thread.join(10)
