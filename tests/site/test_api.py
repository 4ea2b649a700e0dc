"""The Python API: two replicas by URL in one process, and the example that shows it."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import replkit
from replkit import Replica
from replkit.errors import ControlError, InvalidArgumentError, NotFoundError, WrongRoleError

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "local_replication.py"
SIZE = 16 << 20


def block(text):
    return text.encode().ljust(4096, b"\0")


def read(volume, start):
    data = bytearray(4096)
    volume.read_into(start, data)
    return bytes(data)


@pytest.fixture
def pair(tmp_path):
    """Makes replicas a and b in files; each call opens the same two again."""
    return lambda: [Replica((tmp_path / n).as_uri(), (tmp_path / f"{n}.save").as_uri(), size=SIZE) for n in "ab"]


@pytest.mark.requirement("U4", "S3")
def test_what_was_written_is_read_at_the_secondary_and_a_restart_goes_on(pair):
    first, second = pair()
    with first as a, second as b:
        a.volume.write(5, block("before"))
        a.replicate_to(b)
        a.volume.write(6, block("during"))
        a.wait(a.cut())
        assert [read(b.view(), n) for n in (4, 5, 6)] == [bytes(4096), block("before"), block("during")]
        position = b.status()["position"]
    first, second = pair()
    with first as a, second as b:
        assert b.status()["position"] == position
        a.replicate_to(b)
        a.volume.write(5, block("after"))
        a.wait(a.cut())
        assert [read(b.view(), n) for n in (5, 6)] == [block("after"), block("during")]


def test_replicas_in_memory_need_no_files():
    with (
        Replica("memory:api-a", "memory:api-a-save", size="8MiB") as a,
        Replica("memory:api-b", "memory:api-b-save", size="8MiB") as b,
    ):
        a.replicate_to(b)
        a.volume.write(1, block("x"))
        a.wait(a.cut())
        assert read(b.view(), 1) == block("x")


@pytest.mark.requirement("C3", "C4")
def test_the_view_stands_at_a_boundary_until_the_next_cut(pair):
    first, second = pair()
    with first as a, second as b:
        a.replicate_to(b)
        a.volume.write(0, block("one"))
        a.wait(a.cut())
        a.volume.write(0, block("two"))
        assert read(b.view(), 0) == block("one")
        a.wait(a.cut())
        assert read(b.view(), 0) == block("two")


def test_a_replica_has_one_role(pair):
    first, second = pair()
    with first as a, second as b:
        a.replicate_to(b)
        with pytest.raises(WrongRoleError):
            b.volume.write(0, block("no"))
        with pytest.raises(WrongRoleError):
            a.view()
        with pytest.raises(WrongRoleError):
            b.replicate_to(a)


def test_a_wait_that_cannot_end_says_who_is_behind(pair):
    first, second = pair()
    with first as a:
        with second as b:
            a.replicate_to(b)
            a.wait(a.cut())
        a.volume.write(0, block("x"))
        with pytest.raises(ControlError, match=r"secondary did not play set \d"):
            a.wait(a.cut(), timeout_s=0.05)


def test_a_replica_is_opened_before_it_is_used(tmp_path):
    with pytest.raises(InvalidArgumentError, match="not open"):
        Replica("memory:x", "memory:y", size=SIZE).cut()
    with pytest.raises(NotFoundError), Replica((tmp_path / "gone").as_uri(), (tmp_path / "s").as_uri()):
        pass


@pytest.mark.requirement("U4")
def test_the_example_runs_twice_in_the_same_folder(tmp_path):
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-W", "error", str(EXAMPLE), str(tmp_path)], check=True, capture_output=True, text=True
        )
        assert "reads: written while it was made" in done.stdout
    assert runpy.run_path(str(EXAMPLE))["main"].__doc__


def test_the_package_offers_what_it_says_and_nothing_else():
    assert all(getattr(replkit, name) for name in replkit.__all__)
    with pytest.raises(AttributeError):
        _ = replkit.nothing_of_the_kind
