"""A store may fence only after it has shown one winner in a real race; the command says what a store can do."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from subprocess import PIPE

import pytest
from click.testing import CliRunner

from replkit.backends.s3 import probe
from replkit.backends.s3.extras import probe_extras
from replkit.backends.s3.host import ThreadHost, process_has_ended, this_process
from replkit.backends.s3.probe import probe_store, require_fencing
from replkit.backends.s3.store import S3ObjectStore
from replkit.backends.s3.url import parse_url
from replkit.cli.main import main
from replkit.errors import NotFoundError, SaveVolumeBusyError, StoreRefusedError
from replkit.objectstore.memory import MemoryObjectStore

_numbers = itertools.count()


class Liar(MemoryObjectStore):
    """Ignores the condition."""

    def put_new(self, key, data):
        self.put(key, [data])


class Racy(MemoryObjectStore):
    """Looks and then writes, as a store does that checks before it locks."""

    def __init__(self):
        super().__init__()
        self.together = threading.Barrier(2)

    def put_new(self, key, data):
        if key not in self.objects and "/1/" in key:
            with suppress(threading.BrokenBarrierError):
                self.together.wait(0.2)
            self.put(key, [data])
        else:
            super().put_new(key, data)


class Stale(MemoryObjectStore):
    """Shows what was there first."""

    def put(self, key, parts):
        if key not in self.objects:
            super().put(key, parts)


@pytest.fixture
def place(monkeypatch):
    monkeypatch.setattr(probe, "_passed", set())
    return parse_url(f"s3://bucket/p{next(_numbers)}")


def failed(report):
    return [check.name for check in report.checks if not check.passed]


def test_a_good_store_passes_and_nothing_is_left():
    store = MemoryObjectStore()
    report = probe_store(store)
    assert failed(report) == []
    assert report.can_fence
    assert store.objects == {}
    assert set(report.latency_ms) == {"put 1 KiB", "get 1 KiB", "put 4 MiB", "get 4 MiB"}


@pytest.mark.parametrize(
    ("store", "fault"),
    [(Liar, "creates only"), (Racy, "one winner"), (Stale, "reads what was written")],
)
def test_a_store_that_cannot_fence_is_found_and_refused(place, store, fault):
    report = probe_store(store(), writers=8, rounds=4)
    assert fault in failed(report)
    assert not report.can_fence
    with pytest.raises(StoreRefusedError, match="cannot fence"):
        require_fencing(store(), place, writers=8, rounds=4)
    require_fencing(store(), parse_url(f"{place.name}?fencing=off"))


def test_the_answer_is_remembered_in_the_bucket(place, monkeypatch):
    store, probed = MemoryObjectStore(), []
    monkeypatch.setattr(probe, "probe_store", lambda *a, **k: probed.append(1) or probe_store(*a, **k))
    require_fencing(store, place, writers=2, rounds=2)
    monkeypatch.setattr(probe, "_passed", set())
    require_fencing(store, place)
    assert probed == [1]


@pytest.mark.requirement("U2", "U3")
def test_the_command_tries_a_real_store(place, moto_bucket, s3_credentials):
    endpoint, bucket = moto_bucket
    url = f"s3://{bucket}/{place.prefix}?endpoint={endpoint}"
    result = CliRunner().invoke(main, ["s3", "check", url, "--json", "--rounds", "4"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.output)
    assert answer["can_fence"]
    failed_here = {check["name"] for check in answer["checks"] if not check["passed"]}
    assert failed_here == {"refuses wrong checksums"}, "moto takes any"
    store = S3ObjectStore(parse_url(url))
    require_fencing(store, parse_url(url))
    assert store.counts["put_new requests"] == 0
    store.close()
    missing = CliRunner().invoke(main, ["s3", "check", f"s3://no-such-bucket/x?endpoint={endpoint}"])
    assert missing.exit_code == NotFoundError.exit_code


def test_the_command_says_what_failed_and_what_follows(monkeypatch):
    monkeypatch.setattr("replkit.backends.s3.extras.probe_extras", lambda *_: [])
    monkeypatch.setattr("replkit.backends.s3.store.S3ObjectStore", lambda place: Liar())
    shown = CliRunner().invoke(main, ["s3", "check", "s3://bucket/x", "--rounds", "4"])
    assert shown.exit_code == 1
    assert "a second create of the same key was accepted" in shown.output
    assert "This store cannot fence" in shown.output
    monkeypatch.setattr("replkit.backends.s3.store.S3ObjectStore", lambda place: MemoryObjectStore())
    shown = CliRunner().invoke(main, ["s3", "check", "s3://bucket/x", "--rounds", "4"])
    assert shown.exit_code == 0
    assert "can be kept here" in shown.output


@pytest.mark.slow
@pytest.mark.requirement("U3")
def test_seaweedfs_has_one_winner_of_32(place, seaweed_bucket, s3_credentials):
    endpoint, bucket = seaweed_bucket
    store = S3ObjectStore(parse_url(f"s3://{bucket}/{place.prefix}?endpoint={endpoint}"))
    report = probe_store(store)
    assert failed(report) == []
    assert [(each.name, each.passed) for each in probe_extras(store, "probe/extras")] == [
        ("refuses wrong checksums", True), ("multipart uploads", True),
    ]  # fmt: skip
    assert list(store.list("probe/")) == []
    store.close()


def test_a_process_is_known_as_ended_only_for_certain():
    me = this_process()
    machine, boot, namespace, pid, start = me.split("/")
    assert int(pid) == os.getpid()
    assert start
    assert not process_has_ended(me, me)
    assert process_has_ended(f"{machine}/{boot}/{namespace}/{pid}/1", me)  # another process had the number
    assert process_has_ended(f"{machine}/another-boot/1/1/1", f"{machine}/{boot}/{namespace}/{pid}/{start}")
    for other in (f"other/{boot}/{namespace}/1/1", f"{machine}/{boot}/77/1/1", "unknown/unknown/0/1/1", "nonsense"):
        assert not process_has_ended(other, me)
    host = ThreadHost()
    host.hold("tag")
    assert not host.has_ended(me, "tag")
    host.release("tag")
    assert host.has_ended(me, "tag")
    host.close()


DIES = """
import sys
from replkit.contracts.registry import default_registry
save = default_registry().open_save_volume(sys.argv[1], create=True)
save.put("sets/a/0", [b"synced"])
save.sync()
save.put("sets/a/1", [b"not synced"])
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.requirement("S1", "S2", "U3")
def test_a_producer_that_was_killed_is_replaced_and_a_living_one_is_not(place, registry, moto_bucket, s3_credentials):
    endpoint, bucket = moto_bucket
    url = f"s3://{bucket}/{place.prefix}?endpoint={endpoint}&fencing=off"
    with subprocess.Popen([sys.executable, "-c", DIES, url], stdin=PIPE, stdout=PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        with pytest.raises(SaveVolumeBusyError, match="takeover"):
            registry.open_save_volume(url)
        process.kill()
    with registry.open_save_volume(url) as heir, registry.open_save_volume(url, producer=False) as reader:
        assert bytes(heir.get("sets/a/0")) == b"synced"
        assert reader.list("") == heir.list("")
